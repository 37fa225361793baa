from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_pathways.data.corpora.numbers import number_lines, write_numbers
from asr_pathways.data.corpus import SPLITS, build_corpus, languages_of, load_cuts
from asr_pathways.experiment import corpora
from asr_pathways.experiment.corpora import data_folder, make_corpora
from asr_pathways.experiment.plan import Cell, Plan, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe


def cells_of(plan: Plan, *rows: str) -> list[Cell]:
    return [plan.cells[run.cell] for row in rows for run in plan.row("b", row).runs]


def recipe_of(sources: dict[str, object], dense: Path, **block: object) -> ExperimentRecipe:
    values = {
        "about": "",
        "dense": {"model": str(dense)},
        "recipe": {"optimizer": {"steps": 0}},
        "systems": {"dense": {"method": "dense", "table": "B"}},
        **block,
    }
    return ExperimentRecipe.model_validate({"title": "", "data": sources, "blocks": {"b": values}})


def test_folds_are_cut_once_and_share_no_text(sines: Path, dense_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of({"s": {"kind": "folder", "path": str(sines)}}, dense_model, data="s", folds=2, seeds=[0, 1])
    plan = make_plan(recipe)
    cells = cells_of(plan, "dense")
    make_corpora(tmp_path, plan, cells)
    folders = [data_folder(tmp_path, recipe, cell.spec["data"]) for cell in cells]
    assert len(set(folders)) == 2
    tested = []
    for folder in folders:
        texts = {
            split: {c.supervisions[0].text for c in load_cuts(folder, split)} for split in ("train", "dev", "test")
        }
        assert not texts["test"] & (texts["train"] | texts["dev"]) and not texts["train"] & texts["dev"]
        tested.append({cut.id for cut in load_cuts(folder, "test")})
    assert not tested[0] & tested[1] and len(tested[0] | tested[1]) == 120
    before = (folders[0] / "corpus.json").stat().st_mtime_ns
    make_corpora(tmp_path, plan, cells)
    assert (folders[0] / "corpus.json").stat().st_mtime_ns == before
    assert recipe.data["s"].path == data_folder(tmp_path, recipe, {"name": "s", "corpus": {}})  # type: ignore[union-attr]


def test_synthetic_speech_of_numbers(dense_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    source = {"kind": "synth", "texts": "numbers", "languages": ["en", "fr"], "hours": 0.004, "lines": 12}
    recipe = recipe_of({"n": {**source, "held_out": 0.2}}, dense_model, data="n")
    plan = make_plan(recipe)
    (cell,) = cells_of(plan, "dense")
    make_corpora(tmp_path, plan, [cell])
    cuts = load_cuts(data_folder(tmp_path, recipe, cell.spec["data"]), "train")
    assert languages_of(cuts) == ["en", "fr"]


@pytest.mark.parametrize("kind", ["everyday", "numbers"])
def test_texts_of_another_corpus_are_left_out(
    kind: str, dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pre-training speech must say nothing that a fold tests, in whichever split and spelling it stands there."""
    lines = number_lines("en", 12)
    with build_corpus(tmp_path / "s", []) as corpus:
        corpus.add("train", "a", "en", f"{lines[1].capitalize()}!", np.zeros(1600, np.int16))
        corpus.add("test", "b", "en", lines[7], np.zeros(1600, np.int16))
    said: dict[str, list[str]] = {}
    monkeypatch.setattr(
        "asr_pathways.data.corpora.texts.write_texts", lambda out, languages: write_numbers(out, languages, 12)
    )
    monkeypatch.setattr("asr_pathways.data.corpora.synth.prepare_synth", lambda _, texts, *__: said.update(texts))
    data = {
        "s": {"kind": "folder", "path": str(tmp_path / "s")},
        "e": {"kind": "synth", "texts": kind, "languages": ["en"], "hours": 1, "lines": 12, "exclude": "s"},
    }
    plan = make_plan(recipe_of(data, dense_model, data="e"))
    corpora.make_corpora(tmp_path, plan, cells_of(plan, "dense"))
    assert said == {"en": [line for line in lines if line not in (lines[1], lines[7])]}


def test_a_system_may_train_on_more_than_it_is_tested_on(dense_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    source = {"kind": "synth", "texts": "numbers", "languages": ["en", "fr"], "hours": 0.004, "lines": 12}
    data = {
        "n": {**source, "held_out": 0.2},
        "more": {**source, "held_out": 0, "seed": 1},
        "both": {"kind": "merged", "of": ["n", "more"]},
    }
    recipe = recipe_of(data, dense_model, data="n")
    system = {"method": "dynamic", "table": "T", "steps": 3}
    values = recipe.model_dump(exclude_unset=True)
    values["blocks"]["b"]["systems"] = {"own": system, "more": {**system, "data": "both"}}
    plan = make_plan(ExperimentRecipe.model_validate(values))
    own, more = (plan.cells[plan.row("b", name).runs[0].cell] for name in ("own", "more"))
    assert own.name != more.name and own.parents == more.parents
    make_corpora(tmp_path, plan, [own, more])
    folders = [data_folder(tmp_path, plan.recipe, cell.spec["data"]) for cell in (own, more)]
    ids = [{split: [cut.id for cut in load_cuts(folder, split)] for split in SPLITS} for folder in folders]
    assert ids[0]["test"] == ids[1]["test"] and ids[0]["dev"] == ids[1]["dev"]
    assert set(ids[0]["train"]) < set(ids[1]["train"])
