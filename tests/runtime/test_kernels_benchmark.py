from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest

import asr_pathways.runtime.kernels as kernels
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.layers import formats

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_pruned_products_are_timed_beside_dense_ones_and_the_roofline() -> None:
    script = runpy.run_path(str(SCRIPT))
    found = list(script["measure"](["64x128"], [2], [0.75], layers=2, rounds=1))
    wanted = [(granularity, one.name) for granularity in script["GRANULARITIES"] for one in formats("auto")]
    assert [(result["granularity"], result["format"]) for result in found] == wanted
    for result in found:
        assert result["shape"] == "64x128"
        assert result["in_cache_over_torch"] > 0
        assert result["layers_times_roofline"] > 1
        assert "64x128 n=2  75%" in script["line"](json.loads(json.dumps(result)))


def test_without_kernels_there_is_nothing_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.extension, "compiled", None)
    with pytest.raises(PathwaysError, match="the sparse kernels were not built"):
        next(runpy.run_path(str(SCRIPT))["measure"]())
