from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from asr_pathways.cli import main
from asr_pathways.runtime.bench import run
from asr_pathways.runtime.bench.timing import time_streams


class Counted:
    """Takes what it is told to, by chunk."""

    disk = 0

    def __init__(self) -> None:
        self.heard: list[list[int]] = []

    def stream(self):  # type: ignore[no-untyped-def]
        self.heard.append([])
        return lambda samples: self.heard[-1].append(len(samples))


def test_systems_take_turns_on_the_same_chunks() -> None:
    one, two = Counted(), Counted()
    found = time_streams({"one": one, "two": two}, np.zeros(16_000, np.float32), 0.3)
    assert set(found) == {"one", "two"}
    assert one.heard == two.heard == [[4800, 4800, 4800]] * 6  # the first is not counted
    assert 0 < found["one"].p50 <= found["one"].p95


def test_bench_prints_a_row_for_each_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "SECONDS", 1.0)
    monkeypatch.setattr("sys.argv", ["asr-pathways", "bench", "--preset", "micro", "--json", str(tmp_path / "b.json")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "sparse float32, block:4x1" in printed and "torch int8" in printed
    (result,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert {row["system"] for row in result["rows"]} == {*run.DENSE, *run.SPARSE}
    assert result["switch"]["loaded_ms"] < result["switch"]["packed_on_demand_ms"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "--preset huge: the presets are micro, tiny"),
        (["--threads", "0"], "--threads 0: between 1 and 256"),
        (["--chunk", "a"], "--chunk a: numbers with commas"),
    ],
)
def test_misuse_of_bench_is_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["asr-pathways", "bench", *options])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err
