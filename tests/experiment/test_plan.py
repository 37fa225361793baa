from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.cells import run_cell
from asr_pathways.experiment.cost import Costs
from asr_pathways.experiment.ledger import read_entry
from asr_pathways.experiment.plan import Plan, contents, languages_of_block, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from tests.experiment.conftest import as_data


def planned(data: dict[str, Any]) -> Plan:
    return make_plan(parse_config(ExperimentRecipe, data, "recipe"))


def test_cells_come_after_those_they_start_from_and_run_once(recipe: ExperimentRecipe) -> None:
    plan = make_plan(recipe)
    seen: set[str] = set()
    for cell in plan.cells.values():
        assert seen.issuperset(cell.parents)
        seen.add(cell.name)
    # 2 dense, 2 x 2 IMP, 2 fixed, 2 dynamic, 2 finetuned
    assert len(plan.cells) == 12
    fixed, masks = plan.row("sines", "fixed"), plan.row("sines", "IMP")
    assert [(run.seed, run.languages) for run in masks.runs] == [(s, (x,)) for s in (0, 1) for x in ("en", "fr")]
    for run in fixed.runs:
        cell = plan.cells[run.cell]
        own = tuple(other.cell for other in masks.runs if other.seed == run.seed)
        assert cell.spec["init"] == {"cells": own} and cell.parents[1:] == own
        assert cell.steps == 3 and cell.total_steps == 3 + 2 * 4
    assert {run.cell for run in plan.row("sines", "dense").runs} == {plan.cells[r.cell].parents[0] for r in fixed.runs}


def test_a_name_stands_for_all_that_decides_the_result(sines: Path, dense_model: Path, tmp_path: Path) -> None:
    data = as_data(sines, dense_model)
    names = list(planned(data).cells)
    assert names == list(planned(copy.deepcopy(data)).cells)

    def changed(**options: Any) -> set[str]:
        other = copy.deepcopy(data)
        other["blocks"]["sines"] |= options
        return set(planned(other).cells) - set(names)

    block = data["blocks"]["sines"]
    assert changed(about="Something else.", compare=[], words=9) == set()
    assert changed(recipe={**block["recipe"], "checkpoint_every": 7}) == set()
    assert len(changed(recipe={**block["recipe"], "calibration_batches": 2})) == 8  # all that prune
    assert len(changed(sparsity=0.6)) == 8
    assert len(changed(folds=3)) == 12
    # The same files elsewhere are the same model; another byte makes another.
    moved = shutil.copytree(dense_model, tmp_path / "moved")
    assert changed(dense={**block["dense"], "model": str(moved)}) == set()
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert len(changed(dense={**block["dense"], "model": str(moved)})) == 12


def test_systems_cannot_start_from_each_other(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    data["blocks"]["sines"] |= {
        "compare": [],
        "systems": {
            "a": {"method": "dynamic", "table": "B", "init": "b"},
            "b": {"method": "dynamic", "table": "B", "init": "a"},
        },
    }
    with pytest.raises(PathwaysError, match="start from each other's masks"):
        planned(data)


def test_a_folder_that_is_not_there_is_named(sines: Path, dense_model: Path, tmp_path: Path) -> None:
    data = as_data(sines, dense_model)
    with pytest.raises(PathwaysError, match="nowhere: nothing there that an experiment could start from"):
        planned(yaml.safe_load(yaml.safe_dump(data).replace(str(dense_model), str(tmp_path / "nowhere"))))
    with pytest.raises(PathwaysError, match="nowhere"):
        planned(yaml.safe_load(yaml.safe_dump(data).replace(str(sines), str(tmp_path / "nowhere"))))


def test_the_papers_plan_needs_no_data() -> None:
    plan = make_plan(ExperimentRecipe.read(Path(__file__).parents[2] / "recipes" / "paper.yaml"))
    for block, seeds in (("prompts", 3), ("numbers", 2)):
        lsp, lap = plan.row(block, "dynamic from LSP"), plan.row(block, "dynamic from LAP")
        assert len(lsp.runs) >= seeds
        steps = [plan.cells[row.runs[0].cell].total_steps for row in (lsp, lap)]
        assert steps[1] <= 0.6 * steps[0]


def test_cells_of_options_that_are_gone_keep_their_names_and_do_not_run(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    cells = make_plan(ExperimentRecipe.read(repository / "recipes" / "paper.yaml")).cells
    retired = {name: cell.retired for name, cell in cells.items() if cell.retired}
    assert retired == {"22064c1fa299": ["adapt_growth"], "04e25de9b365": ["overlap_pull"]}
    for name in retired:
        assert read_entry(repository / "results" / "paper" / "ledger", name) is not None
        with pytest.raises(PathwaysError, match="is gone: only the ledger's entry can be read"):
            run_cell(cells[name], tmp_path, tmp_path)


def test_a_system_may_start_from_a_trained_dense_one(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    block = data["blocks"]["sines"]
    block["compare"] = []
    block["systems"] = {
        "longer": {"method": "dense", "table": "B", "steps": 2},
        "pruned": {"method": "dynamic", "table": "B", "steps": 2, "start": "longer"},
        "plain": {"method": "dynamic", "table": "B", "steps": 2},
    }
    plan = planned(data)
    for longer, pruned, plain in zip(*(plan.row("sines", n).runs for n in ("longer", "pruned", "plain")), strict=True):
        assert plan.cells[pruned.cell].parents == (longer.cell,)
        assert plan.cells[pruned.cell].spec["model"] == {"cell": longer.cell}
        assert plan.cells[plain.cell].parents == plan.cells[longer.cell].parents
    for start in ("plain", "nothing", "longer"):
        wrong = copy.deepcopy(data)
        wrong["blocks"]["sines"]["systems"]["longer" if start == "longer" else "pruned"]["start"] = start
        with pytest.raises(PathwaysError, match=f"start '{start}' is no dense system"):
            planned(wrong)


def test_a_pinned_model_need_not_be_there(sines: Path, dense_model: Path, tmp_path: Path) -> None:
    data = as_data(sines, dense_model)
    dense = data["blocks"]["sines"]["dense"]
    names = list(planned(data).cells)
    dense["contents"] = contents(dense_model)
    assert list(planned(data).cells) == names
    dense["model"] = str(tmp_path / "nowhere")
    plan = planned(data)
    assert list(plan.cells) == names and Costs(plan, Path(), {}).seconds(plan.cells[names[-1]]) > 0
    dense |= {"model": str(dense_model), "contents": "0123456789ab"}
    with pytest.raises(
        PathwaysError, match=r"blocks\.sines\.dense: .* is another model: its contents are [0-9a-f]{12}"
    ):
        planned(data)


def test_the_whisper_plan_needs_no_model() -> None:
    plan = make_plan(ExperimentRecipe.read(Path(__file__).parents[2] / "recipes" / "whisper.yaml"))
    assert len(plan.cells) == 17


def test_a_merged_corpus_has_the_languages_of_all_its_parts(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    spoken = {"kind": "synth", "texts": "numbers", "hours": 0.1, "languages": ["fr", "it"]}
    data["data"] |= {"spoken": spoken, "both": {"kind": "merged", "of": ["sines", "spoken"]}}
    recipe = parse_config(ExperimentRecipe, data, "recipe")
    block = recipe.blocks["sines"].model_copy(update={"data": "both"})
    assert languages_of_block(recipe, block) == ("en", "fr", "it")
