"""Decodes a test set, each language through its own pathway, into pairs of reference and hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from torch import Tensor

from asr_pathways.data.text import letters_apart, scoring_text
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance


class Model(Protocol):
    """The recogniser's face that evaluation needs."""

    training: bool
    free_text: bool

    def decode(self, features: Tensor, lengths: Tensor, language: str, /) -> Sequence[Sequence[int]]:
        """Token ids of each utterance from features (B, T, F), their lengths (B,) in frames and their language."""

    def train(self, mode: bool = True) -> Any: ...


class TokenDecoder(Protocol):
    """Turns token ids into text."""

    def decode(self, ids: Sequence[int], language: str, /) -> str: ...


class PathwaySwitch(Protocol):
    """Puts the model's weights under a language's mask for the length of a context."""

    def use(self, language: str, /) -> AbstractContextManager[Any]: ...


class EvaluationBatch(Protocol):
    """Utterances of one language; features (B, T, F) zero padded, feature_lengths (B,) in frames."""

    @property
    def language(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def features(self) -> Tensor: ...
    @property
    def feature_lengths(self) -> Tensor: ...
    def to(self, device: Any, /) -> EvaluationBatch: ...


def evaluate(
    model: Model,
    tokenizer: TokenDecoder,
    batches: Iterable[EvaluationBatch],
    pathways: PathwaySwitch | None = None,
    *,
    device: torch.device | str = "cpu",
    total: int | None = None,
    progress: bool = True,
    description: str = "Decoding",
) -> list[Utterance]:
    """Decodes ``batches`` in eval mode without gradients; the model's mode is as before afterwards.

    Consecutive batches of one language share one entry of its pathway. ``total`` is the number of utterances,
    for the progress bar on stderr (utterances per second, time left); ``progress=False`` shows none.

    Gradients are off by ``no_grad``, not ``inference_mode``: whatever the model caches while it decodes
    (attention masks, positions) can then be used by the next training step.

    Raises:
        PathwaysError: if ``batches`` is empty.
    """
    training = model.training
    utterances: list[Utterance] = []
    model.train(False)
    try:
        with _progress(progress) as bar:
            task = bar.add_task(description, total=total)
            for language, group in groupby(batches, key=lambda batch: batch.language):
                with nullcontext() if pathways is None else pathways.use(language):
                    for batch in group:
                        utterances += _decode(model, tokenizer, batch.to(device))
                        bar.update(task, completed=len(utterances))
    finally:
        model.train(training)
    if not utterances:
        raise PathwaysError("nothing to evaluate: the split has no utterances in the languages asked for")
    return utterances


def _decode(model: Model, tokenizer: TokenDecoder, batch: EvaluationBatch) -> Iterator[Utterance]:
    with torch.no_grad():
        tokens = model.decode(batch.features, batch.feature_lengths, batch.language)
    for name, text, ids in zip(batch.ids, batch.texts, tokens, strict=True):
        yield pair(name, batch.language, text, tokenizer.decode(ids, batch.language), model.free_text)


def pair(identifier: str, language: str, text: str, heard: str, free_text: bool) -> Utterance:
    """What was said and what was heard, normalised alike if the model writes cases and punctuation.

    In languages without spaces between words both are taken apart into letters.
    """
    if free_text:
        text, heard = (scoring_text(words, language) for words in (text, heard))
    text, heard = (letters_apart(words, language) for words in (text, heard))
    return Utterance(identifier, language, text, heard)


class _RateColumn(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Any:
        speed = task.finished_speed or task.speed
        return "" if speed is None else f"{speed:.1f}/s"


def _progress(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
