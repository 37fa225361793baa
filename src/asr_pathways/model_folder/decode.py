"""Decodes recordings and test sets, each language through its pathway."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio
from asr_pathways.data.batches import Batch, eval_batches, read_cut
from asr_pathways.data.corpus import languages_of, load_cuts, texts_of
from asr_pathways.data.normalize import letters_apart, scoring_text
from asr_pathways.data.progress import track
from asr_pathways.data.tokenizer import Tokenizer, lost_words
from asr_pathways.data.voice_activity import is_silent, speech_segments
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, require_words
from asr_pathways.model_folder.language_id import LanguageIdentifier, rank
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch, Transducer

IDENTIFIED = 30.0
"""Seconds of a recording's speech, from its start, that decide which language it is in."""

CLEAR = 0.8
"""Probability from which a segment is taken to be in another language than the recording."""


@dataclass(frozen=True)
class Segment:
    """A part of a recording in which something was recognised.

    Attributes:
        start, end: in seconds from the start of the recording.
        language: the pathway that was used.
        text: as that of `Transcript`.
    """

    start: float
    end: float
    language: str
    text: str


@dataclass(frozen=True)
class Transcript:
    """What was recognised in the recording ``file``.

    Attributes:
        language: the pathway that was used; with ``auto``, for most of the recording.
        text: normalised words, or what a model of free text wrote.
        tokens: word pieces, each with the time (seconds) of the encoder frame that emitted it; empty for models
            from elsewhere.
        seconds: length of the recording.
        segments: the parts that have words, in order: one for a recording that the model decodes at once.
        languages: with ``auto``, the two likeliest languages and their probabilities.
    """

    file: str
    language: str
    text: str
    tokens: list[tuple[str, float]]
    seconds: float
    segments: list[Segment] = field(default_factory=list)
    languages: list[tuple[str, float]] = field(default_factory=list)


Span = tuple[int, int]  # samples


def transcribe(asr: AsrModel, path: Path, language: str, channel: int | None = None) -> Transcript:
    """Recognises a whole recording of any rate and format that libsndfile reads; ``channel`` as in `read_audio`.

    What is longer than the model's window is cut by voice activity; nothing is made of what has no speech there.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    (language,) = asr.check_languages([language])
    samples = read_samples(path, channel)
    parts = [(span, language) for span in _spans(samples, asr.model.window)]
    return _transcript(asr, path, samples, parts, language)


def transcribe_any(
    asr: AsrModel, identifier: LanguageIdentifier | None, path: Path, languages: Sequence[str] | None = None
) -> Transcript:
    """Recognises a whole recording in the language that is identified in its speech; silence is skipped.

    A segment after a long pause that is clearly in another language is recognised in that.

    Args:
        asr: the model.
        identifier: a fitted one; None: the model tells its languages apart by itself.
        path: of the recording.
        languages: to choose among, as from `language_id.choices`; None: all.

    Raises:
        PathwaysError: as :func:`transcribe`.
    """
    model, samples = asr.model, read_samples(path)
    most = round(min(model.window, IDENTIFIED) * SAMPLE_RATE)
    speech = speech_segments(samples, longest=min(model.window, IDENTIFIED))

    def ranked(spans: Sequence[Span]) -> list[tuple[str, float]]:
        part = np.concatenate([samples[start:end] for start, end in spans])[:most]
        return rank(asr, identifier, model.frontend(part), languages)

    likeliest = ranked(speech or [(0, len(samples))])
    main = likeliest[0][0]
    parts = [(span, main) for span in _spans(samples, model.window)]
    if len(speech) > 1:
        best = [ranked([span])[0] for span in speech]
        spoken = [language if share >= CLEAR else main for language, share in best]
        if set(spoken) != {main}:
            parts = list(zip(speech, spoken, strict=True))
            lengths = Counter[str]()
            for (start, end), language in parts:
                lengths[language] += end - start
            main = max(lengths, key=lambda language: lengths[language])
    return replace(_transcript(asr, path, samples, parts, main), languages=likeliest[:2])


def spoken_segments(parts: Iterable[tuple[float, float, str, str]]) -> list[Segment]:
    """Segments of (start, end, language, text), in seconds to the hundredth; those without text are left out."""
    return [Segment(round(start, 2), round(end, 2), language, text) for start, end, language, text in parts if text]


def _spans(samples: Samples, window: float) -> list[Span]:
    """The parts of a recording that are decoded at once: all of it if it fits the window, else those with speech."""
    if len(samples) <= window * SAMPLE_RATE:
        return [(0, len(samples))]
    return speech_segments(samples, longest=window)


def _transcript(
    asr: AsrModel, path: Path, samples: Samples, parts: Sequence[tuple[Span, str]], language: str
) -> Transcript:
    """The parts of a recording, each recognised in its language."""
    texts, tokens = [], []
    for (start, end), spoken in parts:
        text, pieces = recognized(asr, samples[start:end], spoken)
        texts.append((start / SAMPLE_RATE, end / SAMPLE_RATE, spoken, text))
        tokens += [(piece, round(start / SAMPLE_RATE + time, 2)) for piece, time in pieces]
    whole = " ".join(text for *_, text in texts if text)
    return Transcript(str(path), language, whole, tokens, len(samples) / SAMPLE_RATE, spoken_segments(texts))


def recognized(asr: AsrModel, samples: Samples, language: str) -> tuple[str, list[tuple[str, float]]]:
    """The text of samples that fit the model's window, and its word pieces with their times if it is a transducer."""
    model, device = asr.model, asr.device
    tokens: list[tuple[str, float]] = []
    if model.free_text and is_silent(samples):  # it would make something up
        return "", tokens
    with asr.inference(language):
        features = model.frontend(samples)[None].to(device)
        lengths = torch.tensor([features.shape[1]], device=device)
        if isinstance(model, Transducer):
            search = GreedySearch(model, 1)
            search.accept(model.encodings(features, lengths, language)[0])
            (ids,) = search.symbols
            tokens = _timed(asr, language, search)
        else:
            (ids,) = model.decode(features, lengths, language)
        return asr.tokenizer.decode(ids, language), tokens


def _timed(asr: AsrModel, language: str, search: GreedySearch) -> list[tuple[str, float]]:
    """Word pieces and their times in seconds."""
    assert isinstance(asr.tokenizer, Tokenizer)
    pieces = asr.tokenizer.of(language).pieces()
    emitted = zip(search.symbols[0], search.frames[0], strict=True)
    return [(pieces[symbol], round(frame * STRIDE * 0.01, 2)) for symbol, frame in emitted]


def read_samples(path: Path, channel: int | None = None) -> Samples:
    """A recording at 16 kHz, mono: one of its channels, from 0, or their average.

    Raises:
        PathwaysError: if it cannot be read as audio, or is too short to recognise.
    """
    samples = read_audio(path, channel=channel)
    if len(samples) < STRIDE * SAMPLE_RATE // 100:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise PathwaysError(f"{path}: only {milliseconds:.0f} ms of audio: too short to recognise")
    return samples


def decode_split(asr: AsrModel, data: Path, split: str, languages: Sequence[str] | None = None) -> list[Utterance]:
    """Decodes a split of a data folder, each language through its pathway.

    An utterance that is longer than the model's window is cut by voice activity, as by :func:`transcribe`.
    Without ``languages``, those that the model was made for; for a model from elsewhere, those of the data.

    Raises:
        PathwaysError: if the data folder is broken, has none of the languages, or texts that the model cannot write.
    """
    languages = asr.languages_for(languages, languages_of(load_cuts(data, split)))
    cuts = load_cuts(data, split, languages)
    for language, texts in texts_of(cuts).items():
        if line := lost_words(asr.tokenizer, texts, language, f"{data}, {split}"):
            print(line, file=sys.stderr)
    return decode_cuts(asr, cuts)


def decode_cuts(asr: AsrModel, cuts: Iterable[Any], *, progress: bool = True) -> list[Utterance]:
    """Decodes Lhotse cuts as `decode_split` does.

    Raises:
        PathwaysError: if there are none, no reference of a language has words, or their audio is broken.
    """
    model = asr.model
    cuts = list(cuts)
    spoken = [cut.supervisions[0] for cut in cuts]
    require_words((one.language, reference_text(one.text, one.language, model.free_text)) for one in spoken)
    batched: list[Any] = []
    alone: list[Any] = []
    for cut in cuts:
        by_itself = cut.duration > model.window or (model.free_text and is_silent(read_cut(cut)))
        (alone if by_itself else batched).append(cut)
    utterances = []
    if batched or not alone:
        batches = eval_batches(batched, frontend=model.frontend)
        utterances = evaluate(asr, batches, total=len(batched) if progress else None)
    for cut in alone:
        reference, samples = cut.supervisions[0], read_cut(cut)
        texts = [
            recognized(asr, samples[start:end], reference.language)[0] for start, end in _spans(samples, model.window)
        ]
        hypothesis = " ".join(filter(None, texts))
        utterances.append(pair(cut.id, reference.language, reference.text, hypothesis, model.free_text))
    return sorted(utterances, key=lambda utterance: utterance.language)


def evaluate(asr: AsrModel, batches: Iterable[Batch], *, total: int | None = None) -> list[Utterance]:
    """Decodes ``batches`` in eval mode without gradients; the model's mode is as before afterwards.

    Consecutive batches of one language share one entry of its pathway. ``total`` is the number of utterances, for a
    progress bar on stderr; None shows none.

    Gradients are off by ``no_grad``, not ``inference_mode``: whatever the model caches while it decodes
    (attention masks, positions) can then be used by the next training step.

    Raises:
        PathwaysError: if ``batches`` is empty.
    """
    utterances: list[Utterance] = []
    if total is not None:
        batches = track(batches, "Decoding", total, lambda batch: len(batch.ids))
    for language, group in groupby(batches, key=lambda batch: batch.language):
        with asr.inference(language):
            for batch in group:
                utterances += _decode(asr, batch.to(asr.device))
    if not utterances:
        raise PathwaysError("nothing to evaluate: the split has no utterances in the languages asked for")
    return utterances


def _decode(asr: AsrModel, batch: Batch) -> Iterator[Utterance]:
    tokens = asr.model.decode(batch.features, batch.feature_lengths, batch.language)
    for name, text, ids in zip(batch.ids, batch.texts, tokens, strict=True):
        yield pair(name, batch.language, text, asr.tokenizer.decode(ids, batch.language), asr.model.free_text)


def pair(identifier: str, language: str, reference: str, hypothesis: str, free_text: bool) -> Utterance:
    """Reference and hypothesis, normalised alike if the model writes cases and punctuation.

    In languages without spaces between words both are split into letters.
    """
    texts = (reference_text(text, language, free_text) for text in (reference, hypothesis))
    return Utterance(identifier, language, *texts)


def reference_text(text: str, language: str, free_text: bool) -> str:
    """A text as it is compared; see `pair`."""
    return letters_apart(scoring_text(text, language) if free_text else text, language)
