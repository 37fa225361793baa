"""Decodes recordings and test sets, each language through its pathway."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from asr_pathways.data.audio import Samples
from asr_pathways.data.batches import Batch, eval_batches, read_cut
from asr_pathways.data.corpus import languages_of, load_cuts, texts_of
from asr_pathways.data.normalize import letters_apart, scoring_text
from asr_pathways.data.progress import track
from asr_pathways.data.tokenizer import lost_words
from asr_pathways.data.voice_activity import is_silent, parts_within
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, require_words
from asr_pathways.model_folder.model import AsrModel


def recognized(asr: AsrModel, samples: Samples, language: str) -> str:
    """The text of samples that fit the model's window."""
    with asr.inference(language):
        features = asr.model.frontend(samples)[None].to(asr.device)
        lengths = torch.tensor([features.shape[1]], device=asr.device)
        (ids,) = asr.model.decode(features, lengths, language)
        return asr.tokenizer.decode(ids, language)


def decode_split(asr: AsrModel, data: Path, split: str, languages: Sequence[str] | None = None) -> list[Utterance]:
    """Decodes a split of a data folder, each language through its pathway.

    An utterance that is longer than the model's window is cut by voice activity, as by `Recognizer.transcribe`.
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
        parts = [samples[start:end] for start, end in parts_within(samples, model.window)]
        spoken_parts = [part for part in parts if not (model.free_text and is_silent(part))]  # else it makes words up
        texts = [recognized(asr, part, reference.language) for part in spoken_parts]
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
