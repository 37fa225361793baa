from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpus import load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.demo import RECIPE, _adjusted, run_demo
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe

REPOSITORY = Path(__file__).parents[2]


def small_recipe(folder: Path, data: Path) -> Path:
    """The demo's recipe with steps and batches for sines."""
    recipe: dict[str, Any] = yaml.safe_load((REPOSITORY / RECIPE).read_text())
    recipe["data"]["prompts"] = {"kind": "folder", "path": str(data)}
    block = recipe["blocks"]["prompts"]
    block["recipe"] |= {
        "optimizer": {"steps": 0, "peak_lr": 1e-3},
        "data": {"max_seconds": 2, "prefetch": 0},
        "evaluation": {"every": 2, "keep_best": 1},
    }
    for name in ("fixed", "dynamic"):
        block["systems"][name]["steps"] = 4
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_demo_from_data_to_report_and_a_second_run_repeats_nothing(
    tmp_path: Path,
    speech: Path,
    dense_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asr_pathways.experiment.demo._TIMED", 1)
    recipe, out = small_recipe(tmp_path, speech), tmp_path / "demo"
    run_demo(dense_model, out, recipe=recipe)
    printed = capsys.readouterr().out
    document = (out / "results.md").read_text()
    for name in ("dense", "one-shot", "fixed", "dynamic"):
        assert f"│ {name} " in printed and f"| {name} (" in document
    assert "dynamic against one-shot: " in printed and "hypothesis " in printed
    page = (out / "report.html").read_text()
    assert re.search(r"<title>2 pathways in [0-9.]+ kB: WER [0-9.]+% where the dense model has [0-9.]+%</title>", page)
    for question in ("How much smaller?", "How much faster?", "Is it as good?", "What next?"):
        assert f"<strong>{question}</strong>" in page
    assert "Dynamic ASR Pathways" in page and "Sines by nobody" in page and "#### English" in document
    for chart in ("wer", "steps", "overlap", "density"):
        assert f"(results/prompts-{chart}.svg)" in document
    dynamic = load_model(out / "dynamic").pathways
    assert dynamic is not None
    assert all(abs(sparsity - 0.7) < 0.01 for sparsity in dynamic.summary().sparsity.values())
    assert {cut.id for cut in load_cuts(speech, "test")} & {
        word.strip("`") for line in document.splitlines() if line.startswith("####") for word in line.split()
    }

    before = (out / "dynamic" / "model.safetensors").stat().st_mtime_ns
    run_demo(dense_model, out, recipe=recipe)
    assert (out / "dynamic" / "model.safetensors").stat().st_mtime_ns == before


def test_a_missing_model_is_reported_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no such model folder"):
        run_demo(tmp_path / "none", tmp_path / "demo", recipe=REPOSITORY / RECIPE)
    assert not (tmp_path / "demo").exists()


def test_the_shipped_recipe_and_its_shorter_form(dense_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    recipe = ExperimentRecipe.read(RECIPE)
    steps = {
        fast: [cell.steps for cell in make_plan(_adjusted(recipe, Path("models/tiny"), fast)).cells.values()]
        for fast in (False, True)
    }
    assert steps == {False: [0, 0, 300, 300], True: [0, 0, 60, 60]}
    other = make_plan(_adjusted(recipe, dense_model, False)).cells
    assert not {*other} & {*make_plan(recipe).cells}
