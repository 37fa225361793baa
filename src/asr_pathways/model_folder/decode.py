"""Decodes recordings and test sets, each language through its pathway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples, cut_at_pauses, read_audio
from asr_pathways.data.batches import Batch, eval_batches, read_cut
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.data.normalize import letters_apart, scoring_text
from asr_pathways.data.progress import track
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, require_words
from asr_pathways.model_folder.language_id import LanguageIdentifier, rank
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch, Transducer

IDENTIFIED = 30.0
"""Seconds of a recording, from its start, that decide which language it is in."""


@dataclass(frozen=True)
class Transcript:
    """What was recognised in the recording ``file``.

    Attributes:
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


def transcribe(asr: AsrModel, path: Path, language: str, channel: int | None = None) -> Transcript:
    """Recognises a whole recording of any rate and format that libsndfile reads; ``channel`` as in `read_audio`.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    (language,) = asr.check_languages([language])
    samples = read_samples(path, channel)
    text, tokens = _recognized(asr, samples, language)
    return Transcript(str(path), language, text, tokens, len(samples) / SAMPLE_RATE)


def _recognized(asr: AsrModel, samples: Samples, language: str) -> tuple[str, list[tuple[str, float]]]:
    """The text of a recording of any length, and its word pieces with their times if it is a transducer."""
    model, device = asr.model, asr.device
    texts = []
    tokens: list[tuple[str, float]] = []
    with asr.inference(language):
        for part in cut_at_pauses(samples, model.window):
            features = model.frontend(part)[None].to(device)
            lengths = torch.tensor([features.shape[1]], device=device)
            if isinstance(model, Transducer):
                search = GreedySearch(model, 1)
                search.accept(model.encodings(features, lengths, language)[0])
                (ids,) = search.symbols
                tokens = _timed(asr, language, search)
            else:
                (ids,) = model.decode(features, lengths, language)
            texts.append(asr.tokenizer.decode(ids, language))
    return " ".join(filter(None, texts)), tokens


def _timed(asr: AsrModel, language: str, search: GreedySearch) -> list[tuple[str, float]]:
    """Word pieces and their times in seconds."""
    assert isinstance(asr.tokenizer, Tokenizer)
    pieces = asr.tokenizer.of(language).pieces()
    emitted = zip(search.symbols[0], search.frames[0], strict=True)
    return [(pieces[symbol], round(frame * STRIDE * 0.01, 2)) for symbol, frame in emitted]


def transcribe_any(asr: AsrModel, identifier: LanguageIdentifier, path: Path, channel: int | None = None) -> Transcript:
    """Recognises a whole recording in the language that ``identifier`` finds.

    Raises:
        PathwaysError: as :func:`transcribe`, or if the model has no pathway of that language.
    """
    model = asr.model
    part = next(cut_at_pauses(read_samples(path, channel), min(model.window, IDENTIFIED)))
    languages = rank(asr, identifier, model.frontend(part))
    return replace(transcribe(asr, path, languages[0][0], channel), languages=languages[:2])


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

    An utterance that is longer than the model's window is cut at pauses, as by :func:`transcribe`.
    Without ``languages``, those that the model was made for; for a model from elsewhere, those of the data.

    Raises:
        PathwaysError: if the data folder is broken or has none of the languages.
    """
    languages = asr.languages_for(languages, languages_of(load_cuts(data, split)))
    return decode_cuts(asr, load_cuts(data, split, languages))


def decode_cuts(asr: AsrModel, cuts: Iterable[Any], *, progress: bool = True) -> list[Utterance]:
    """Decodes Lhotse cuts as `decode_split` does.

    Raises:
        PathwaysError: if there are none, no reference of a language has words, or their audio is broken.
    """
    model = asr.model
    cuts = list(cuts)
    spoken = [cut.supervisions[0] for cut in cuts]
    require_words((one.language, reference_text(one.text, one.language, model.free_text)) for one in spoken)
    whole: list[Any] = []
    long: list[Any] = []
    for cut in cuts:
        (whole if cut.duration <= model.window else long).append(cut)
    utterances = []
    if whole or not long:
        batches = eval_batches(whole, frontend=model.frontend)
        utterances = evaluate(asr, batches, total=len(whole) if progress else None)
    for cut in long:
        reference = cut.supervisions[0]
        hypothesis, _ = _recognized(asr, read_cut(cut), reference.language)
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
