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
from asr_pathways.runtime.streaming import Recognizer as StreamingRecognizer
from tests.pruned import FIVE, overlapping

sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa_onnx is not installed: pip install '.[export]'")

TINY = Path(__file__).parents[2] / "models" / "tiny"
RATE = 16_000
SENTENCES = {
    "en-us": ["please enter your password followed by pound", "you have five new messages", "goodbye"],
    "es": ["por favor introduzca su clave", "usted tiene cinco mensajes nuevos", "adiós"],
    "fr": ["veuillez entrer votre mot de passe", "vous avez cinq nouveaux messages", "au revoir"],
    "it": ["per favore inserire la password", "ci sono cinque nuovi messaggi", "arrivederci"],
    "ru": ["пожалуйста введите ваш пароль", "у вас пять новых сообщений", "до свидания"],
}
Found = list[tuple[str, float]]


@pytest.fixture(scope="module")
def speech() -> dict[str, list[Samples]]:
    """Three utterances in each of five languages, synthetic."""
    espeak = Espeak()
    said = {}
    for voice, texts in SENTENCES.items():
        samples = [espeak.say(text, f"{voice}+f2").astype(np.float32) / 32768 for text in texts]
        said[voice[:2]] = [resample(one, espeak.rate) for one in samples]
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
def exported(pruned: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_sherpa(pruned, tmp_path_factory.mktemp("sherpa") / "five")


@pytest.fixture(scope="module")
def theirs(exported: Exported) -> Any:
    return open_sherpa(exported.folder)


@pytest.fixture(scope="module")
def ours(pruned: AsrModel) -> StreamingRecognizer:
    return StreamingRecognizer(ModelSource(pruned), dtype="dense")


def open_sherpa(folder: Path) -> Any:
    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    return sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), num_threads=1, **files)


def ended(samples: Samples) -> Samples:
    """Audio after which the model hears nothing."""
    return np.concatenate([np.pad(samples, (0, 200), mode="symmetric"), np.full(RATE, np.nan, np.float32)])


def silenced(samples: Samples) -> Samples:
    """Audio with silence after it, as most programs pad it."""
    return np.concatenate([samples, np.zeros(RATE + 800, np.float32)])


def start(theirs: Any, language: str | None) -> Any:
    stream = theirs.create_stream()
    if language is not None:
        stream.set_option("language", language)
    return stream


def run(theirs: Any, samples: Samples, language: str | None, piece: int = 3000) -> Found:
    """Tokens and times by sherpa-onnx of audio that comes in pieces."""
    stream = start(theirs, language)
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
    theirs: Any, ours: StreamingRecognizer, speech: dict[str, list[Samples]], exported: Exported
) -> None:
    assert exported.difference < 1e-3
    count = 0
    for language in FIVE:
        for samples in speech[language]:
            expected = run_ours(ours, samples, language)
            assert run(theirs, ended(samples), language) == expected
            count += len(expected)
    assert count > 100


def test_silence_is_heard_by_both(theirs: Any, ours: StreamingRecognizer, speech: dict[str, list[Samples]]) -> None:
    for language in FIVE:
        for samples in speech[language]:
            padded = silenced(samples)
            assert run(theirs, padded, language) == run_ours(ours, padded, language, final=False)


def test_the_language_is_chosen_by_stream(theirs: Any, speech: dict[str, list[Samples]]) -> None:
    samples = ended(np.concatenate(speech["es"]))
    found = {language: run(theirs, samples, language) for language in FIVE}
    assert len({tuple(tokens) for tokens in found.values()}) == len(FIVE)
    assert run(theirs, samples, "fr-FR") == found["en"]  # other forms of a code are not understood
    assert run(theirs, samples, None) == found["en"]
    assert run(theirs, samples, "FR") == found["fr"]


def test_streams_of_all_languages_in_one_batch(theirs: Any, speech: dict[str, list[Samples]]) -> None:
    streams = [start(theirs, language) for language in FIVE]
    for language, stream in zip(FIVE, streams, strict=True):
        stream.accept_waveform(RATE, ended(speech[language][0]))
    while ready := [stream for stream in streams if theirs.is_ready(stream)]:
        theirs.decode_streams(ready)
    for language, stream in zip(FIVE, streams, strict=True):
        assert tokens_of(theirs, stream) == run(theirs, ended(speech[language][0]), language)


def test_the_script_on_the_card_runs(
    exported: Exported, ours: StreamingRecognizer, speech: dict[str, list[Samples]], tmp_path: Path
) -> None:
    card = (exported.folder / "README.md").read_text()
    assert "Languages: English (en), Spanish (es), French (fr), Italian (it), Russian (ru)." in card
    assert "voice: June Wallack" in card
    script = card.split("```python\n")[1].split("```")[0]
    for path in exported.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    soundfile.write(tmp_path / "speech.wav", speech["ru"][0], RATE, subtype="FLOAT")
    stream = ours.stream("ru")
    stream.accept(speech["ru"][0])
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == stream.final().text != ""


def test_one_language_of_another_layout(five: AsrModel, tmp_path: Path, speech: dict[str, list[Samples]]) -> None:
    exported = export_sherpa(five, tmp_path / "fr", ["fr"])
    theirs, ours = open_sherpa(exported.folder), StreamingRecognizer(ModelSource(five), dtype="dense")
    for samples in speech["fr"]:
        expected = run_ours(ours, samples, "fr")
        assert run(theirs, ended(samples), "fr") == run(theirs, ended(samples), None) == expected
    assert "no language to choose" in (exported.folder / "README.md").read_text()
