from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_pathways.bench.clips import Clip
from asr_pathways.bench.recognizers import OURS
from asr_pathways.bench.worker import Answer
from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.cells import cell_folder
from asr_pathways.model_folder.folder import save_model
from asr_pathways.pruning import PathwayConfig, Pathways
from benchmarks import neurons
from tests.experiment.example import planned
from tests.models.hub.tiny import whisper


def test_models_that_ran_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned()
    with pytest.raises(PathwaysError, match="block plain has no model there yet"):
        neurons.models_of(plan, tmp_path, "plain")
    folder = cell_folder(tmp_path, plan.row("plain", "dense").runs[0].cell)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert neurons.models_of(plan, tmp_path, "plain") == {"dense": folder}
    assert "never run: has no model yet: left out" in capsys.readouterr().err


def test_models_are_exported_for_each_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "missing_packages", lambda name: ("faster-whisper",))
    dense = whisper(tmp_path / "w")
    asr = load_model(dense)
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr")})
    config = PathwayConfig(sparsity=0.5, granularity="neurons", pairs=asr.model.pairs)
    asr.pathways = Pathways.attach(asr.model.network, config, ["en", "fr"])
    pruned = tmp_path / "pruned"
    pruned.mkdir()
    save_model(pruned, asr)
    places = {name: neurons.exported(path, "fr", tmp_path / name) for name, path in (("d", dense), ("p", pruned))}
    for one in places.values():
        assert list(one) == [neurons.TORCH, OURS]
    assert Bundle.open(places["p"][OURS]).languages == ("fr",) == Bundle.open(places["d"][OURS]).languages
    size = "encoder_ffn_dim"
    smaller, whole = (getattr(load_model(places[k][neurons.TORCH]).model.network.config, size) for k in ("p", "d"))  # type: ignore[union-attr]
    assert 2 * smaller == whole
    written = places["p"][OURS].stat().st_mtime_ns
    assert neurons.exported(pruned, "fr", tmp_path / "p") == places["p"]
    assert places["p"][OURS].stat().st_mtime_ns == written  # what is there is not made again


def test_seconds_are_medians_and_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, system: str, place: Path, language: str, threads: int) -> None:
            self.times = iter([9.0, 1.0, 2.0, 6.0, 3.0, 4.0, 6.0, 9.0, 9.0, 7.0])

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def transcribe(self, path: Path) -> Answer:
            return Answer("", next(self.times), None, 0.0)

    monkeypatch.setattr(neurons, "Worker", Fake)
    samples = np.zeros(8, dtype=np.float32)
    clips = [Clip("2-5", samples), Clip("2-5", samples), Clip("11", samples)]
    places: dict[str, Any] = {"dense": {"torch float32": tmp_path}}
    found = neurons.timed(places, clips, "fr", 3, tmp_path)
    assert found == {"dense": {"torch float32": {"2-5": 3.5, "11": 6.0}}}
