"""Audio files to text: at once, or piece by piece as a microphone would deliver them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.data.features import FbankStream
from asr_pathways.data.segments import cut_at_pauses
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.evaluate import evaluate
from asr_pathways.evaluation.wer import Utterance
from asr_pathways.language_id import LanguageIdentifier, rank
from asr_pathways.model_folder import Recognizer
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch, Transducer

CHUNK = 0.32
"""Seconds of audio handed over at a time when streaming."""

IDENTIFIED = 30.0
"""Seconds of a recording, from its start, that decide which language it is in."""


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one recording.

    Attributes:
        file: the recording.
        language: the pathway that was used.
        text: normalised words, or what a model of free text wrote.
        tokens: word pieces, each with the time (seconds) of the encoder frame that emitted it; empty for models
            from elsewhere.
        seconds: length of the recording.
        languages: with ``auto``, the two likeliest languages and their probabilities.
    """

    file: str
    language: str
    text: str
    tokens: list[tuple[str, float]]
    seconds: float
    languages: list[tuple[str, float]] = field(default_factory=list)


class StreamingDecoder:
    """Recognises one stream; use it under the pathway of its language.

    The result is the same as for the whole recording at once.
    """

    def __init__(self, recognizer: Recognizer, language: str) -> None:
        if not isinstance(recognizer.model, Transducer) or not isinstance(recognizer.tokenizer, Tokenizer):
            raise PathwaysError("only the transducers of this package stream: leave --stream out")
        self._language = language
        self._model, self._tokenizer = recognizer.model, recognizer.tokenizer.of(language)
        self._fbank = FbankStream(self._model.frontend.config)
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
        pieces = self._tokenizer.pieces()
        found = zip(self._search.symbols[0], self._search.frames[0], strict=True)
        return [(pieces[symbol], round(frame * STRIDE * 0.01, 2)) for symbol, frame in found]

    @torch.inference_mode()
    def _decode(self, features: torch.Tensor, final: bool) -> str:
        normalized = self._model.normalize(features[None], self._language)
        encodings = self._model.encoder.stream(normalized, self._state, final)
        if encodings.shape[1]:
            self._search.accept(encodings)
        return self._tokenizer.decode(self._search.symbols[0])


def transcribe(recognizer: Recognizer, path: Path, language: str) -> Transcript:
    """Recognises a whole recording of any rate and format that libsndfile reads.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    if isinstance(recognizer.model, Transducer):
        *_, last = transcribe_stream(recognizer, path, language, chunk=None)
        return last
    (language,) = recognizer.check_languages([language])
    samples = _read(path)
    model = recognizer.model.eval()
    texts = []
    with recognizer.use(language), torch.no_grad():
        for part in cut_at_pauses(samples, model.window):
            features = model.frontend(part)
            (ids,) = model.decode(features[None], torch.tensor([len(features)]), language)
            texts.append(recognizer.tokenizer.decode(ids, language))
    return Transcript(str(path), language, " ".join(filter(None, texts)), [], len(samples) / SAMPLE_RATE)


def transcribe_any(recognizer: Recognizer, identifier: LanguageIdentifier, path: Path) -> Transcript:
    """Recognises a whole recording in the language that ``identifier`` hears in it.

    Raises:
        PathwaysError: as :func:`transcribe`, or if the model has no pathway of that language.
    """
    model = recognizer.model
    part = next(cut_at_pauses(_read(path), min(model.window, IDENTIFIED)))
    languages = rank(recognizer, identifier, model.frontend(part))
    return replace(transcribe(recognizer, path, languages[0][0]), languages=languages[:2])


def transcribe_stream(
    recognizer: Recognizer, path: Path, language: str, chunk: float | None = CHUNK
) -> Iterator[Transcript]:
    """Recognises a recording ``chunk`` seconds at a time (None: at once); yields what is known after each.

    Raises:
        PathwaysError: as :func:`transcribe`.
    """
    (language,) = recognizer.check_languages([language])
    samples = _read(path)
    seconds = len(samples) / SAMPLE_RATE
    recognizer.model.eval()
    decoder = StreamingDecoder(recognizer, language)
    step = len(samples) if chunk is None else max(1, round(chunk * SAMPLE_RATE))
    with recognizer.use(language):
        for start in range(0, len(samples), step):
            text = decoder.accept(samples[start : start + step])
            yield Transcript(str(path), language, text, decoder.tokens, seconds)
        yield Transcript(str(path), language, decoder.finish(), decoder.tokens, seconds)


def _read(path: Path) -> Samples:
    samples = read_audio(path)
    if len(samples) < STRIDE * SAMPLE_RATE // 100:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise PathwaysError(f"{path}: only {milliseconds:.0f} ms of audio: too short to recognise")
    return samples


def decode_split(
    recognizer: Recognizer, data: Path, split: str, languages: Sequence[str] | None = None
) -> list[Utterance]:
    """Decodes a split of a data folder, each language through its own pathway.

    Without ``languages``, those that the model was made for; for a model from elsewhere, those of the data.

    Raises:
        PathwaysError: if the data folder is broken or has none of the languages.
    """
    languages = recognizer.languages_for(languages, languages_of(load_cuts(data, split)))
    cuts = load_cuts(data, split, languages).to_eager()
    batches = eval_batches(cuts, frontend=recognizer.model.frontend)
    return evaluate(recognizer.model, recognizer.tokenizer, batches, recognizer.pathways, total=len(cuts))
