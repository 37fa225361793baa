from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asr_pathways.data.corpus import SPLITS, load_cuts
from asr_pathways.experiment.amounts import Amounts
from asr_pathways.experiment.corpora import data_folder, make_corpora
from asr_pathways.experiment.cost import Costs
from asr_pathways.experiment.paces import MeasuredPaces
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from tests.experiment.example import as_data as as_filled
from tests.experiment.example import planned


def test_cost_follows_steps_and_what_was_measured(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    short, long = (plan.cells[plan.row("sines", name).runs[0].cell] for name in ("fixed", "dynamic, adapt_every 1"))
    plain = Costs(plan, Path(), {})
    assert plain.seconds(long) > plain.seconds(short) > 0
    taken = {short.name: 3 * plain.seconds(short), long.name: 3 * plain.seconds(long)}
    measured = Costs(plan, Path(), taken)
    assert measured.done == taken
    for cell in plan.cells.values():
        assert measured.seconds(cell) == pytest.approx(3 * plain.seconds(cell))


def test_decoding_and_refitting_count(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    cell = plan.cells[plan.row("sines", "fixed").runs[0].cell]
    plain = Costs(plan, Path(), {}).seconds(cell)
    recipes = {"refitted": {"refit_batches": 12}, "distilled": {"distillation": 1.0}}
    for changes in recipes.values():
        changed = replace(cell, spec={**cell.spec, "recipe": {**cell.spec["recipe"], **changes}})
        assert Costs(plan, Path(), {}).seconds(changed) > plain
    test = {**cell.spec["test"], "utterances": 1}
    assert Costs(plan, Path(), {}).seconds(replace(cell, spec={**cell.spec, "test": test})) < plain


def test_what_is_measured_here_replaces_the_guess(recipe: ExperimentRecipe, tmp_path: Path) -> None:
    plan = make_plan(recipe)
    paces = MeasuredPaces(plan, tmp_path)
    rows = [plan.row("sines", name) for name in ("dense", "fixed", "dynamic, adapt_every 1")]
    cells = [plan.cells[row.runs[0].cell] for row in rows]
    found = [paces(cell) for cell in cells]
    for cell, pace in zip(cells, found, strict=True):
        assert pace is not None and pace.forward > 0 and pace.utterance > 0
        assert (pace.step > 0) == (cell.steps > 0)
        assert paces(cell) is pace
        assert (pace.chosen > 0) == (cell.spec["kind"] == "prune")
    again = plan.cells[plan.row("sines", "dynamic, adapt_every 2").runs[0].cell]
    assert paces(again) is found[2] is not found[1]  # the same kind of cell is measured once
    slow = {cells[2].name: 1e6}  # what cells took elsewhere says nothing of this machine
    assert Costs(plan, tmp_path, slow, paces).seconds(again) < 1000 < Costs(plan, tmp_path, slow).seconds(again)
    gone = replace(cells[0], spec={**cells[0].spec, "model": {"path": "nowhere", "contents": ""}})
    assert paces(gone) is None and Costs(plan, tmp_path, {}, paces).seconds(gone) > 0


def test_utterances_are_counted_where_they_are(recipe: ExperimentRecipe, tmp_path: Path) -> None:
    plan = make_plan(recipe)
    cell = plan.cells[plan.row("sines", "fixed").runs[0].cell]
    amounts = Amounts(plan, tmp_path)
    assert amounts.utterances(cell, ("test",), 0) == 60  # one of two folds of 120
    assert amounts.utterances(cell, ("train", "dev", "test"), 0) == 120
    assert amounts.utterances(cell, ("test",), 7) == 14
    make_corpora(tmp_path, plan, [cell])
    sizes = {split: len(load_cuts(data_folder(tmp_path, recipe, cell.spec["data"]), split)) for split in SPLITS}
    assert sum(sizes.values()) == 120
    assert {split: Amounts(plan, tmp_path).utterances(cell, (split,), 0) for split in SPLITS} == sizes


def test_utterances_are_guessed_from_the_recipe_where_there_are_none_yet(tmp_path: Path) -> None:
    plan = planned()
    cell = plan.cells[plan.row("folds", "fixed").runs[0].cell]
    prompts = Amounts(plan, tmp_path)
    assert prompts.utterances(cell, ("test",), 0) == 2 * 260 and prompts.utterances(cell, ("dev",), 10) == 20
    numbers = {"kind": "synth", "texts": "numbers", "languages": ["en", "fr"], "hours": 3, "held_out": 0.12}
    both = {"kind": "merged", "of": ["prompts", "numbers"]}
    data = {**as_filled()["data"], "numbers": numbers, "both": both}
    plan = planned(data=data, blocks={"folds": {**as_filled()["blocks"]["folds"], "data": "both", "folds": 0}})
    cell = plan.cells[plan.row("folds", "fixed").runs[0].cell]
    assert Amounts(plan, tmp_path).utterances(cell, ("test",), 0) == pytest.approx(
        2 * (0.11 * 520 + 0.12 * 4320), abs=2
    )


def test_neurons_are_timed_with_the_pairs_of_the_model(recipe: ExperimentRecipe, tmp_path: Path) -> None:
    plan = make_plan(recipe)
    cell = plan.cells[plan.row("sines", "fixed").runs[0].cell]
    neurons = replace(cell, spec={**cell.spec, "pathways": {"sparsity": 0.5, "granularity": "neurons"}})
    pace = MeasuredPaces(plan, tmp_path)(neurons)
    assert pace is not None and pace.chosen > 0
