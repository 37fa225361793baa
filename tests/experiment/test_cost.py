from __future__ import annotations

from dataclasses import replace

import pytest

from asr_pathways.experiment.cost import Costs
from asr_pathways.experiment.paces import MeasuredPaces
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe


def test_cost_follows_steps_and_what_was_measured(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    short, long = (plan.cells[plan.row("sines", name).runs[0].cell] for name in ("fixed", "dynamic, adapt_every 1"))
    plain = Costs(plan, {})
    assert plain.measured == 0 and plain.seconds(long) > plain.seconds(short) > 0
    taken = {short.name: 3 * plain.seconds(short), long.name: 3 * plain.seconds(long)}
    measured = Costs(plan, taken)
    assert measured.measured == 2
    for cell in plan.cells.values():
        assert measured.seconds(cell) == pytest.approx(3 * plain.seconds(cell))


def test_decoding_and_refitting_count(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    cell = plan.cells[plan.row("sines", "fixed").runs[0].cell]
    plain = Costs(plan, {}).seconds(cell)
    recipes = {"refitted": {"refit_batches": 12}, "distilled": {"distillation": 1.0}}
    for changes in recipes.values():
        changed = replace(cell, spec={**cell.spec, "recipe": {**cell.spec["recipe"], **changes}})
        assert Costs(plan, {}).seconds(changed) > plain
    test = {**cell.spec["test"], "utterances": 1}
    assert Costs(plan, {}).seconds(replace(cell, spec={**cell.spec, "test": test})) < plain


def test_what_is_measured_here_replaces_the_guess(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    paces = MeasuredPaces(plan)
    rows = [plan.row("sines", name) for name in ("dense", "fixed", "dynamic, adapt_every 1")]
    cells = [plan.cells[row.runs[0].cell] for row in rows]
    found = [paces(cell) for cell in cells]
    for cell, pace in zip(cells, found, strict=True):
        assert pace is not None and pace.forward > 0 and pace.utterance > 0
        assert (pace.step > 0) == (cell.steps > 0)
        assert paces(cell) is pace
    assert found[0] is found[1] is found[2]  # measured once
    gone = replace(cells[0], spec={**cells[0].spec, "model": {"path": "nowhere", "contents": ""}})
    assert paces(gone) is None and Costs(plan, {}, paces).seconds(gone) > 0
