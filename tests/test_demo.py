from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from asr_pathways import demo
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.listing import read_evaluation
from asr_pathways.training.config import PruneRecipe


def small_recipe(steps: int, evaluations: int) -> PruneRecipe:
    return PruneRecipe.model_validate(
        {
            "optimizer": {"steps": 4, "peak_lr": 1e-3},
            "data": {"max_seconds": 2, "prefetch": 0},
            "evaluation": {"every": 2, "keep_best": 1},
            "pathways": {"score": "activation"},
        }
    )


def test_demo_from_prompts_to_report_and_a_second_run_repeats_nothing(
    tmp_path: Path,
    speech: Path,
    dense_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "prepare_prompts", lambda out, source: shutil.copytree(speech, out))
    monkeypatch.setattr(demo, "demo_recipe", small_recipe)
    out = tmp_path / "demo"
    demo.run_demo(dense_model, out)
    printed = capsys.readouterr().out
    for name in (demo.DENSE, demo.ONE_SHOT, demo.FIXED, demo.DYNAMIC):
        assert name in printed
    page = (out / "report.html").read_text()
    assert "Dynamic ASR Pathways" in page
    assert "Sines by nobody" in page
    scores, utterances = read_evaluation(out / "test-dynamic.json")
    assert [entry.language for entry in scores.languages] == ["en", "fr"]
    assert len(utterances) == 4
    dynamic = load_model(out / "dynamic").pathways
    assert dynamic is not None
    assert all(abs(sparsity - 0.7) < 0.01 for sparsity in dynamic.summary().sparsity.values())

    before = (out / "dynamic" / "model.safetensors").stat().st_mtime_ns
    demo.run_demo(dense_model, out)
    assert (out / "dynamic" / "model.safetensors").stat().st_mtime_ns == before


def test_a_missing_model_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no such model folder"):
        demo.run_demo(tmp_path / "none", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
