from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_adaptation_is_measured_beside_torch_prune(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(BENCHMARKS / "adaptation.py"))["main"]
    main(["--layers", "1", "--runs", "1"])
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == 4 * 512 * 512 + 2 * 512 * 2048
    assert min(result[f"{score}_ratio_to_torch_prune"] for score in ("magnitude", "activation")) > 0


def test_a_training_step_is_measured_with_and_without_pathways(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(BENCHMARKS / "training_step.py"))["main"]
    main(["tiny", "--batch", "1", "--seconds", "1", "--runs", "1"])
    result = json.loads(capsys.readouterr().out)
    assert result["step_ratio"] > 0
    assert 0 < result["prunable"] < result["weights"]


def test_attaching_is_measured_against_its_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(BENCHMARKS / "attach.py"))["main"]
    main(["--layers", "2", "--width", "64"])
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == 2 * 12 * 64**2
    assert result["bound_bytes"] == result["weights"] * (4 + 1) + 5 * result["weights"] // 8
    assert result["tensor_bytes"] == result["bound_bytes"]
    assert (
        result["passes"]["tensor_bytes"] and result["passes"]["attach_seconds"] and result["passes"]["detach_seconds"]
    )
