"""Audio files to text: at once, or piece by piece as a microphone would deliver them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.features import FbankStream
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.evaluate import evaluate
from asr_pathways.evaluation.wer import Utterance
from asr_pathways.model_folder import Recognizer
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch

CHUNK = 0.32
"""Seconds of audio handed over at a time when streaming."""


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one recording.

    Attributes:
        file: the recording.
        language: the pathway that was used.
        text: normalised words.
        tokens: word pieces, each with the time (seconds) of the encoder frame that emitted it.
        seconds: length of the recording.
    """

    file: str
    language: str
    text: str
    tokens: list[tuple[str, float]]
    seconds: float


class StreamingDecoder:
    """Recognises one stream; use it under the pathway of its language.

    The result is the same as for the whole recording at once.
    """

    def __init__(self, recognizer: Recognizer, language: str) -> None:
        self._recognizer, self._language = recognizer, language
        self._model = recognizer.model
        self._fbank = FbankStream(recognizer.card.features)
        self._state = self._model.encoder.initial_state(1, self._model.feature_mean)
        self._search = GreedySearch(self._model, 1)

    def accept(self, samples: Samples) -> str:
        """Takes samples (n,) at 16 kHz, gives the text so far."""
        return self._decode(self._fbank.accept(samples), final=False)

    def finish(self) -> str:
        """No more samples will come: gives the whole text."""
        return self._decode(self._fbank.flush(), final=True)

    @property
    def tokens(self) -> list[tuple[str, float]]:
        """Word pieces so far and their times in seconds."""
        pieces = self._recognizer.tokenizer.pieces()
        found = zip(self._search.symbols[0], self._search.frames[0], strict=True)
        return [(pieces[symbol], round(frame * STRIDE * 0.01, 2)) for symbol, frame in found]

    @torch.inference_mode()
    def _decode(self, features: torch.Tensor, final: bool) -> str:
        normalized = self._model.normalize(features[None], self._language)
        encodings = self._model.encoder.stream(normalized, self._state, final)
        if encodings.shape[1]:
            self._search.accept(encodings)
        return self._recognizer.tokenizer.decode(self._search.symbols[0])


def transcribe(recognizer: Recognizer, path: Path, language: str) -> Transcript:
    """Recognises a whole recording of any rate and format that libsndfile reads.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    *_, last = transcribe_stream(recognizer, path, language, chunk=None)
    return last


def transcribe_stream(
    recognizer: Recognizer, path: Path, language: str, chunk: float | None = CHUNK
) -> Iterator[Transcript]:
    """Recognises a recording ``chunk`` seconds at a time (None: at once); yields what is known after each.

    Raises:
        PathwaysError: as :func:`transcribe`.
    """
    recognizer.check_languages([language])
    samples = read_audio(path)
    seconds = len(samples) / SAMPLE_RATE
    if len(samples) < STRIDE * SAMPLE_RATE // 100:
        raise PathwaysError(f"{path}: only {1000 * seconds:.0f} ms of audio: too short to recognise")
    recognizer.model.eval()
    decoder = StreamingDecoder(recognizer, language)
    step = len(samples) if chunk is None else max(1, round(chunk * SAMPLE_RATE))
    with recognizer.use(language):
        for start in range(0, len(samples), step):
            text = decoder.accept(samples[start : start + step])
            yield Transcript(str(path), language, text, decoder.tokens, seconds)
        yield Transcript(str(path), language, decoder.finish(), decoder.tokens, seconds)


def decode_split(recognizer: Recognizer, data: Path, split: str, languages: Sequence[str]) -> list[Utterance]:
    """Decodes a split of a data folder, each language through its own pathway.

    Raises:
        PathwaysError: if the data folder is broken or has none of the languages.
    """
    cuts = load_cuts(data, split, languages).to_eager()
    batches = eval_batches(cuts, features=recognizer.card.features)
    return evaluate(recognizer.model, recognizer.tokenizer, batches, recognizer.pathways, total=len(cuts))
