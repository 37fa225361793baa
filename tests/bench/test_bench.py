from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from asr_pathways.bench import run
from asr_pathways.bench.footprint import Footprint, footprint
from asr_pathways.bench.models import sound
from asr_pathways.bench.systems import DENSE, SPARSE
from asr_pathways.bench.timing import time_streams
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.cli.main import main
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.runtime.sources import ModelSource
from asr_pathways.runtime.streaming import StreamingTransducer
from tests.conftest import make_model


class Counted:
    """Takes what it is told to, by chunk."""

    disk = 0

    def __init__(self) -> None:
        self.heard: list[list[int]] = []

    def stream(self):  # type: ignore[no-untyped-def]
        self.heard.append([])

        def accept(samples):  # type: ignore[no-untyped-def]
            self.heard[-1].append(len(samples))
            return [("a", 0.44), ("b", 0.6)] if len(self.heard[-1]) > 1 else []

        return accept


def test_systems_take_turns_on_the_same_chunks() -> None:
    one, two = Counted(), Counted()
    found = time_streams({"one": one, "two": two}, np.zeros(16_000, np.float32), 0.3)
    assert set(found) == {"one", "two"}
    assert one.heard == two.heard == [[4800, 4800, 4800]] * 6  # the first is not counted
    assert 0 < found["one"].p50 <= found["one"].p95
    assert found["one"].first == pytest.approx(1000 * (0.6 - 0.48), abs=20)  # the second chunk ends at 0.6 s


def test_bench_prints_a_row_for_each_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "SECONDS", 1.0)
    monkeypatch.setattr(run, "find_spec", lambda name: None)  # exports take their time, and have tests of their own
    loaded: list[str] = []
    monkeypatch.setattr(run, "footprint", lambda kind, place: loaded.append(kind) or Footprint(0.1, 10.0))
    monkeypatch.setattr("sys.argv", ["asr-pathways", "bench", "--preset", "micro", "--json", str(tmp_path / "b.json")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "sparse float32, block:4x1" in printed and "torch int8" in printed
    (result,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert {row["system"] for row in result["rows"]} == set(loaded) == {*DENSE, *SPARSE}
    assert all(row["rtf"] > 0 for row in result["rows"])
    assert result["switch"]["loaded_ms"] < result["switch"]["packed_on_demand_ms"]


def test_a_footprint_is_of_a_process_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = make_model(tokenizer)
    asr.pathways = Pathways.attach(asr.model, PathwayConfig(sparsity=0.5), ["en", "fr"])
    write_bundle(asr, tmp_path / "b.asrp")
    found = footprint("sparse float32", tmp_path / "b.asrp")
    assert found.load > 0 and found.peak > 50


def test_onnxruntime_finds_what_our_recogniser_finds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from asr_pathways.bench.onnx_systems import OnnxRuntime
    from asr_pathways.export.onnx import export_onnx

    asr = make_model(tokenizer)
    asr.model.joiner.output.bias.data[-1] -= 2  # words, too
    asr.pathways = Pathways.attach(asr.model, PathwayConfig(sparsity=0.5), ["en", "fr"])
    export_onnx(asr, tmp_path / "onnx", ["en"])
    accept, samples = OnnxRuntime(tmp_path / "onnx", 1).stream(), sound(2.0)
    stream = StreamingTransducer(ModelSource(asr), precision="float32").stream("en")
    for start in range(0, len(samples), 3_000):
        found = accept(samples[start : start + 3_000])
        stream.accept(samples[start : start + 3_000])
    pieces = tokenizer.pieces()
    assert len(found) > 1
    assert [(pieces[symbol], round(time, 2)) for symbol, time in found] == stream.partial().tokens


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
