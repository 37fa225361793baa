from __future__ import annotations

import pytest

from asr_pathways.experiment.cost import Costs
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe


def test_cost_follows_steps_and_what_was_measured(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    short, long = (plan.cells[plan.row("sines", name).runs[0].cell] for name in ("fixed", "dynamic, adapt_every 1"))
    plain = Costs(plan, {})
    assert plain.measured == 0 and plain.seconds(long) > plain.seconds(short) > 0
    taken = {short.name: 3 * plain.seconds(short), long.name: 3 * plain.seconds(long), "of another plan": 1e9}
    measured = Costs(plan, taken)
    assert measured.measured == 2
    for cell in plan.cells.values():
        assert measured.seconds(cell) == pytest.approx(3 * plain.seconds(cell))
