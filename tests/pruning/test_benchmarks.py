from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_adaptation_is_measured_beside_torch_prune(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARKS / "adaptation.py"))["run"](layers=1, runs=1)
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == 4 * 512 * 512 + 2 * 512 * 2048
    assert min(result[f"{score}_ratio_to_torch_prune"] for score in ("magnitude", "activation")) > 0


def test_a_training_step_is_measured_with_and_without_pathways(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARKS / "training_step.py"))["run"](batch=1, seconds=1.0, runs=1)
    result = json.loads(capsys.readouterr().out)
    assert result["step_ratio"] > 0
    assert 0 < result["prunable"] < result["weights"]


def test_faster_ways_of_training_are_measured_beside_the_plain_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, model = tmp_path / "steps.json", BENCHMARKS.parent / "models" / "tiny"
    runpy.run_path(str(BENCHMARKS / "faster_training.py"))["run"](model, rounds=1, json_out=out)
    result = json.loads(capsys.readouterr().out)
    assert min(result["times_as_fast"].values()) > 0
    assert json.loads(out.read_text())["tiny at 70%"] == result


def test_attaching_holds_what_is_promised() -> None:
    found = runpy.run_path(str(BENCHMARKS / "attach.py"))["measure"](layers=1, dim=64)
    assert found["within_bound"] is True
    assert found["weights"] == 12 * 64 * 64
    assert 0 < found["held_mib"] <= found["bound_mib"] + found["score_state_mib"] + 0.1
