"""The examples of models run, on tiny random ones."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.runtime.recognizer import Recognizer
from tests.conftest import make_model
from tests.models.hub.tiny import hubert, parakeet_tdt, whisper

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whisper(speech: Path, tmp_path: Path) -> None:
    heard = example("whisper_pathways").main(whisper(tmp_path / "w"), speech, ("en", "fr"), tmp_path / "out", steps=4)
    assert set(heard) == {"en", "fr"}
    pathways = load_model(tmp_path / "out").pathways
    assert pathways is not None and abs(pathways.summary().sparsity["en"] - 0.7) < 0.01


def test_ctc(speech: Path, tmp_path: Path) -> None:
    heard = example("ctc_pathways").main(str(hubert(tmp_path / "h")), speech, ("en", "fr"), epochs=1)
    assert set(heard) == {"en-test-0", "en-test-1", "fr-test-0", "fr-test-1"}


def test_transducer(speech: Path, tmp_path: Path) -> None:
    wer = example("transducer_pathways").main(
        str(parakeet_tdt(tmp_path / "p")), speech, ("en", "fr"), tmp_path / "out", steps=4
    )
    assert wer > 0
    assert load_model(tmp_path / "out").languages == ("en", "fr")


def test_streaming(speech: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    asr = make_model(tokenizer)
    asr.pathways = Pathways.attach(asr.model, PathwayConfig(sparsity=0.5), ["en", "fr"])
    write_bundle(asr, tmp_path / "b.asrp")
    files = [next((speech / "audio" / language).glob("*.flac")) for language in ("en", "fr")]
    heard = example("streaming").main(tmp_path / "b.asrp", list(zip(("en", "fr"), files, strict=True)))
    shipped = load_model(tmp_path / "b.asrp")
    assert heard == [
        Recognizer(shipped, language).transcribe(file).text for language, file in zip(("en", "fr"), files, strict=True)
    ]
