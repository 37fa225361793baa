"""sherpa-onnx itself runs what we export, and writes what our own streaming recogniser writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import Samples, resample
from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.export.onnx import Exported
from asr_pathways.export.sherpa import export_sherpa
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.runtime.sources import ModelSource
from asr_pathways.runtime.streaming import StreamingTransducer as StreamingRecognizer
from tests.pruned import FIVE, overlapping

sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa_onnx is not installed: pip install '.[export]'")

TINY = Path(__file__).parents[2] / "models" / "tiny"
RATE = 16_000
LANGUAGES = ("fr", "ru")
SENTENCES = {
    "fr": ["veuillez entrer votre mot de passe", "vous avez cinq nouveaux messages", "au revoir"],
    "ru": ["пожалуйста введите ваш пароль", "у вас пять новых сообщений", "до свидания"],
}
Found = list[tuple[str, float]]


@pytest.fixture(scope="module")
def speech() -> dict[str, list[Samples]]:
    """Three utterances in each language, synthetic."""
    espeak = Espeak()
    said = {}
    for voice, texts in SENTENCES.items():
        samples = [espeak.say(text, f"{voice}+f2").astype(np.float32) / 32768 for text in texts]
        said[voice] = [resample(one, espeak.rate) for one in samples]
    return said


@pytest.fixture(scope="module")
def pruned() -> AsrModel:
    """The shipped model with half of its weights in each of five pathways that differ."""
    asr = load_model(TINY)
    config = PathwayConfig(sparsity=0.5, exclude=asr.model.unprunable)
    asr.pathways = Pathways.attach(asr.model, config, FIVE)
    overlapping(asr, 0.5)
    return asr


@pytest.fixture(scope="module")
def exported(pruned: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Two languages, in a folder each."""
    done = export_sherpa(pruned, tmp_path_factory.mktemp("sherpa") / "some", LANGUAGES)
    return {language: one for one in done for language in one.languages}


@pytest.fixture(scope="module")
def theirs(exported: dict[str, Exported]) -> dict[str, Any]:
    return {language: open_sherpa(one.folder) for language, one in exported.items()}


@pytest.fixture(scope="module")
def ours(pruned: AsrModel) -> StreamingRecognizer:
    return StreamingRecognizer(ModelSource(pruned), precision=None)


def open_sherpa(folder: Path) -> Any:
    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    return sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), num_threads=1, **files)


def ended(samples: Samples) -> Samples:
    """Audio and the mark of its end."""
    return np.concatenate([np.pad(samples, (0, 200), mode="symmetric"), np.full(RATE, np.nan, np.float32)])


def silenced(samples: Samples) -> Samples:
    """Audio with silence after it, as most programs pad it."""
    return np.concatenate([samples, np.zeros(RATE + 800, np.float32)])


def run(theirs: Any, samples: Samples, piece: int = 3000) -> Found:
    """Tokens and times by sherpa-onnx of audio that comes in pieces."""
    stream = theirs.create_stream()
    for at in range(0, len(samples), piece):
        stream.accept_waveform(RATE, samples[at : at + piece])
        while theirs.is_ready(stream):
            theirs.decode_stream(stream)
    return tokens_of(theirs, stream)


def tokens_of(theirs: Any, stream: Any) -> Found:
    times = [round(time, 2) for time in theirs.timestamps(stream)]
    return list(zip(theirs.tokens(stream), times, strict=True))


def as_sherpa_writes(tokens: Found) -> Found:
    return [(piece.replace("\u2581", " "), time) for piece, time in tokens]


def run_ours(ours: StreamingRecognizer, samples: Samples, language: str, final: bool = True) -> Found:
    stream = ours.stream(language)
    stream.accept(samples)
    return as_sherpa_writes((stream.final() if final else stream.partial()).tokens)


def test_tokens_are_those_of_our_own_recogniser(
    theirs: dict[str, Any],
    ours: StreamingRecognizer,
    speech: dict[str, list[Samples]],
    exported: dict[str, Exported],
) -> None:
    assert max(one.difference for one in exported.values()) < 1e-3
    count = 0
    for language in LANGUAGES:
        for samples in speech[language]:
            expected = run_ours(ours, samples, language)
            assert run(theirs[language], ended(samples)) == expected
            count += len(expected)
    assert count > 40


def test_silence_is_recognised_by_both(
    theirs: dict[str, Any], ours: StreamingRecognizer, speech: dict[str, list[Samples]]
) -> None:
    for language in LANGUAGES:
        for samples in speech[language]:
            padded = silenced(samples)
            assert run(theirs[language], padded) == run_ours(ours, padded, language, final=False)


def test_streams_in_one_batch(theirs: dict[str, Any], speech: dict[str, list[Samples]]) -> None:
    french = theirs["fr"]
    streams = [french.create_stream() for _ in speech["fr"]]
    for samples, stream in zip(speech["fr"], streams, strict=True):
        stream.accept_waveform(RATE, ended(samples))
    while ready := [stream for stream in streams if french.is_ready(stream)]:
        french.decode_streams(ready)
    for samples, stream in zip(speech["fr"], streams, strict=True):
        assert tokens_of(french, stream) == run(french, ended(samples))


def test_the_script_on_the_card_runs(
    exported: dict[str, Exported], ours: StreamingRecognizer, speech: dict[str, list[Samples]], tmp_path: Path
) -> None:
    folder = exported["ru"].folder
    card = (folder / "README.md").read_text()
    assert "Languages: Russian (ru)." in card and "no language to choose" in card
    assert "voice: June Wallack" in card
    script = card.split("```python\n")[1].split("```")[0]
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    soundfile.write(tmp_path / "speech.wav", speech["ru"][0], RATE, subtype="FLOAT")
    stream = ours.stream("ru")
    stream.accept(speech["ru"][0])
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == stream.final().text != ""


def test_another_layout(five: AsrModel, exported_five: list[Exported], speech: dict[str, list[Samples]]) -> None:
    theirs, ours = open_sherpa(exported_five[0].folder), StreamingRecognizer(ModelSource(five), precision=None)
    for samples in speech["fr"]:
        assert run(theirs, ended(samples)) == run_ours(ours, samples, "fr")
