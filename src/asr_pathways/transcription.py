"""Audio files to text: at once, or piece by piece as a microphone would deliver them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio
from asr_pathways.data.batches import eval_batches, read_cut
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.data.segments import cut_at_pauses
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.evaluate import evaluate, pair
from asr_pathways.evaluation.wer import Utterance
from asr_pathways.language_id import LanguageIdentifier, rank
from asr_pathways.model_folder import Recognizer
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch, Transducer
from asr_pathways.runtime.streaming import Recognizer as StreamingRecognizer
from asr_pathways.runtime.streaming import Result

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


def transcribe(recognizer: Recognizer, path: Path, language: str) -> Transcript:
    """Recognises a whole recording of any rate and format that libsndfile reads.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    (language,) = recognizer.check_languages([language])
    samples = _read(path)
    text, tokens = _recognized(recognizer, samples, language)
    return Transcript(str(path), language, text, tokens, len(samples) / SAMPLE_RATE)


def _recognized(recognizer: Recognizer, samples: Samples, language: str) -> tuple[str, list[tuple[str, float]]]:
    """The text of a recording of any length, and its word pieces with their times if the model tells them."""
    model, device = recognizer.model, recognizer.device
    texts = []
    tokens: list[tuple[str, float]] = []
    with recognizer.hearing(language):
        for part in cut_at_pauses(samples, model.window):
            features = model.frontend(part)[None].to(device)
            lengths = torch.tensor([features.shape[1]], device=device)
            if isinstance(model, Transducer):
                search = GreedySearch(model, 1)
                search.accept(model.encodings(features, lengths, language)[0])
                (ids,) = search.symbols
                tokens = _timed(recognizer, language, search)
            else:
                (ids,) = model.decode(features, lengths, language)
            texts.append(recognizer.tokenizer.decode(ids, language))
    return " ".join(filter(None, texts)), tokens


def _timed(recognizer: Recognizer, language: str, search: GreedySearch) -> list[tuple[str, float]]:
    """Word pieces and their times in seconds."""
    assert isinstance(recognizer.tokenizer, Tokenizer)
    pieces = recognizer.tokenizer.of(language).pieces()
    found = zip(search.symbols[0], search.frames[0], strict=True)
    return [(pieces[symbol], round(frame * STRIDE * 0.01, 2)) for symbol, frame in found]


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
    recognizer: StreamingRecognizer, path: Path, language: str, chunk: float = CHUNK
) -> Iterator[tuple[Transcript, bool]]:
    """Recognises a recording ``chunk`` seconds at a time; yields what is known after each, and whether it is final.

    Raises:
        PathwaysError: as :func:`transcribe`.
    """
    stream = recognizer.stream(language)
    samples = _read(path)
    seconds = len(samples) / SAMPLE_RATE
    step = max(1, round(chunk * SAMPLE_RATE))
    for start in range(0, len(samples), step):
        stream.accept(samples[start : start + step])
        yield _transcript(path, stream.partial(), seconds)
    yield _transcript(path, stream.final(), seconds)


def transcribe_live(
    recognizer: StreamingRecognizer, sound: BinaryIO, language: str
) -> Iterator[tuple[Transcript, bool]]:
    """Recognises 16-bit mono samples at 16 kHz as they come, until ``sound`` ends.

    Yields what is known of a segment after each `CHUNK` seconds, and its final words once silence has ended it.

    Raises:
        PathwaysError: for an unknown language.
    """
    stream = recognizer.stream(language)
    while data := sound.read(2 * round(CHUNK * SAMPLE_RATE)):
        stream.accept(np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / np.float32(32768))
        found = stream.final() if stream.partial().text and stream.endpoint() else stream.partial()
        yield _transcript(Path("-"), found, found.end - found.start)
    if (last := stream.final()).text:
        yield _transcript(Path("-"), last, last.end - last.start)


def _transcript(path: Path, found: Result, seconds: float) -> tuple[Transcript, bool]:
    return Transcript(str(path), found.language, found.text, found.tokens, seconds), found.final


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

    An utterance that is longer than the model's window is cut at pauses, as by :func:`transcribe`.
    Without ``languages``, those that the model was made for; for a model from elsewhere, those of the data.

    Raises:
        PathwaysError: if the data folder is broken or has none of the languages.
    """
    languages = recognizer.languages_for(languages, languages_of(load_cuts(data, split)))
    return decode_cuts(recognizer, load_cuts(data, split, languages))


def decode_cuts(recognizer: Recognizer, cuts: Iterable[Any], *, progress: bool = True) -> list[Utterance]:
    """Decodes Lhotse cuts as `decode_split` does.

    Raises:
        PathwaysError: if there are none, or their audio is broken.
    """
    model = recognizer.model
    whole: list[Any] = []
    long: list[Any] = []
    for cut in cuts:
        (whole if cut.duration <= model.window else long).append(cut)
    found = []
    if whole or not long:
        batches = eval_batches(whole, frontend=model.frontend)
        options: dict[str, Any] = {"total": len(whole), "progress": progress, "device": recognizer.device}
        found = evaluate(model, recognizer.tokenizer, batches, recognizer.pathways, **options)
    for cut in long:
        said = cut.supervisions[0]
        heard, _ = _recognized(recognizer, read_cut(cut), said.language)
        found.append(pair(cut.id, said.language, said.text, heard, model.free_text))
    return sorted(found, key=lambda utterance: utterance.language)
