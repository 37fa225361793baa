"""The systems that recognise whole recordings, each behind the same two methods; only `torch` ones import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from asr_pathways.bench.windows import TOKENS_AT_LEAST, TOKENS_PER_SECOND, windows
from asr_pathways.data.audio import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from torch import Tensor

OURS = "asr-pathways"


class WholeRecognizer(Protocol):
    """What is timed."""

    def load(self) -> None:
        """Makes it ready; the constructor does nothing that takes time."""

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        """The text of samples (N,) float32 at 16 kHz; ``first_token`` is called when that is known, or never."""


def open_recognizer(system: str, place: Path, language: str, threads: int) -> WholeRecognizer:
    """A system by its name, on what `asr_pathways.bench.rivals.prepare` made for it."""
    name, _, precision = system.partition(" ")
    if name == "onnxruntime" and (place / "encoder.onnx").is_file():
        from asr_pathways.bench.whisper_onnxruntime import OnnxWhisper

        return OnnxWhisper(place, threads)
    if name == "onnxruntime":
        from asr_pathways.bench.ctc_onnx import OnnxCtc

        return OnnxCtc(place, threads, language)
    others: dict[str, type[Ours | Torch | FasterWhisper | WhisperCpp]] = {
        OURS: Ours,
        "faster-whisper": FasterWhisper,
        "ctranslate2": CTranslate2,
        "whisper.cpp": WhisperCpp,
    }
    return others.get(name, Torch)(place, threads, language, precision)


class _System:
    """What is to be loaded, and how."""

    def __init__(self, place: Path, threads: int, language: str, precision: str) -> None:
        self._place, self._threads, self._language, self._precision = place, threads, language, precision


class Ours(_System):
    """The MODEL as this package runs it, by `Recognizer`."""

    def load(self) -> None:
        from asr_pathways.runtime.recognizer import Recognizer

        self._recognizer = Recognizer(self._place, self._language, threads=self._threads)

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        return self._recognizer.transcribe(samples).text


class Torch(_System):
    """The training side's model in eager torch, dense if it has no pathways; Whisper by a loop of its own.

    transformers' ``generate`` takes about as long again as the layers that it calls.
    """

    def load(self) -> None:
        import torch

        from asr_pathways.bundle.load import load_model

        torch.set_num_threads(self._threads)
        self._asr = load_model(self._place)
        self._dtype: torch.dtype = getattr(torch, self._precision)
        self._asr.model.network.to(self._dtype)

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        import torch

        from asr_pathways.bench.whisper_torch import greedy
        from asr_pathways.models.hub.whisper import Whisper

        model, texts = self._asr.model, []
        with self._asr.inference(self._language):
            for part in windows(samples, model.window):
                features: Tensor = model.frontend(part)[None].to(self._dtype)
                lengths = torch.tensor([features.shape[1]])
                if isinstance(model, Whisper):
                    ids = greedy(model, features, lengths, self._language, first_token)
                else:
                    (ids,) = model.decode(features, lengths, self._language)
                texts.append(self._asr.tokenizer.decode(ids, self._language))
        return " ".join(filter(None, texts))


class FasterWhisper(_System):
    """faster-whisper as it ships, in windows of 30 seconds; greedy, the language given, one temperature."""

    def load(self) -> None:
        from faster_whisper import WhisperModel

        self._model: Any = WhisperModel(
            str(self._place),
            device="cpu",
            compute_type=self._precision,
            cpu_threads=self._threads,
            local_files_only=True,
        )

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        segments, _ = self._model.transcribe(
            samples,
            language=self._language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(" ".join(segment.text for segment in segments).split())


class CTranslate2(FasterWhisper):
    """The engine under faster-whisper on what that loads, in windows of the utterance's own length; greedy."""

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        from ctranslate2 import StorageView
        from faster_whisper.tokenizer import Tokenizer

        wrapped, texts = self._model, []
        codec = Tokenizer(wrapped.hf_tokenizer, True, task="transcribe", language=self._language)
        prompt = [*codec.sot_sequence, codec.no_timestamps]
        for part in windows(samples, wrapped.feature_extractor.chunk_length):
            features = wrapped.feature_extractor(part, padding=0)[None]
            encoded = wrapped.model.encode(StorageView.from_array(features))
            limit = 2 * (TOKENS_AT_LEAST + int(TOKENS_PER_SECOND * len(part) / SAMPLE_RATE))  # half of it counts
            (found,) = wrapped.model.generate(encoded, [prompt], beam_size=1, max_length=limit, suppress_tokens=[])
            texts.append(codec.decode(found.sequences_ids[0]))
        return " ".join(" ".join(texts).split())


class WhisperCpp(_System):
    """whisper.cpp by pywhispercpp, greedy, the language given, one temperature; ``audio_ctx`` is the model's window."""

    def load(self) -> None:
        from pywhispercpp.model import Model

        self._window = json.loads((self._place / "window.json").read_text(encoding="utf-8"))
        self._model: Any = Model(
            str(self._place / "model.bin"),
            redirect_whispercpp_logs_to=None,
            context_params={"flash_attn": False},  # it attends to what a shorter window leaves in the cache's padding
            n_threads=self._threads,
            language=self._language,
            temperature_inc=0.0,
            no_timestamps=True,
            no_context=True,
            print_progress=False,
        )

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        texts = []
        for part in windows(samples, self._window["seconds"]):
            frames = math.ceil(len(part) / SAMPLE_RATE * self._window["rate"]) if self._window["short"] else 0
            texts += [segment.text for segment in self._model.transcribe(part, audio_ctx=frames)]
        return " ".join(" ".join(texts).split())
