"""Engines by torch: transducers of this package, which stream, and the models of the hub that are not Whisper."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from asr_pathways.bundle.load import load_identifier, load_model
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.decode import recognized
from asr_pathways.model_folder.language_id import LanguageIdentifier, choices, rank
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime.results import Segment
from asr_pathways.runtime.streaming import StreamingTransducer


class _Identification:
    """Tells languages apart by a fitted identifier, or by the model itself.

    Args:
        model: the MODEL, where the identifier is; None: there is none.
        asr: it in memory; None: it is loaded when it is first needed.
    """

    def __init__(self, model: Path | None, asr: AsrModel | None = None) -> None:
        self._model, self._given = model, asr
        self.lock = threading.Lock()  # the model holds one pathway at a time

    @cached_property
    def _asr(self) -> AsrModel:
        return self._given or load_model(self._path)

    @property
    def _path(self) -> Path:
        if self._model is None:
            raise PathwaysError("a model in memory has no language identifier: save it, and fit one")
        return self._model

    @cached_property
    def _identifier(self) -> LanguageIdentifier | None:
        """None if the model tells languages apart by itself."""
        return None if self._given and self._given.model.tells_languages else load_identifier(self._path)

    def check(self) -> None:
        """Raises PathwaysError if languages cannot be told apart."""
        _ = self._identifier

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        with self.lock:
            asked = choices(self._asr, self._identifier, languages)
            return dict(rank(self._asr, self._identifier, self._asr.model.frontend(samples), asked))


class TransducerEngine:
    """A transducer of this package: a recording is a stream that is accepted at once.

    Args:
        streaming: of the model.
        model: the MODEL, where a language identifier may be; None: there is none.
    """

    window = float("inf")
    free_text = False

    def __init__(self, streaming: StreamingTransducer, model: Path | None) -> None:
        self._streaming, self.languages = streaming, streaming.languages
        self._identification = _Identification(model)

    def check_identification(self) -> None:
        self._identification.check()

    def load(self, language: str) -> None:
        self._streaming.load(language)

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        stream = self._streaming.stream(language)
        stream.accept(samples)
        result = stream.final()
        if not result.text:
            return None
        return Segment(result.text, 0.0, len(samples) / SAMPLE_RATE, language, result.words if words else ())

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        return self._identification.probabilities(samples, languages)


class TorchEngine:
    """A model of the hub, by torch.

    Args:
        asr: the model.
        model: the MODEL, where a language identifier may be; None: there is none.
    """

    def __init__(self, asr: AsrModel, model: Path | None) -> None:
        self._asr = asr
        self.languages, self.window, self.free_text = asr.languages, asr.model.window, asr.model.free_text
        self._identification = _Identification(model, asr)

    def check_identification(self) -> None:
        self._identification.check()

    def load(self, language: str) -> None:
        """Nothing is to be prepared."""

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        if words:
            raise PathwaysError("this model times no words")
        with self._identification.lock:
            text, _ = recognized(self._asr, samples, language)
        return Segment(text, 0.0, len(samples) / SAMPLE_RATE, language) if text else None

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        return self._identification.probabilities(samples, languages)
