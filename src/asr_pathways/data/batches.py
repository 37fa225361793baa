"""Batches of features and targets: endless and augmented for training, ordered and plain for evaluation."""

from __future__ import annotations

import math
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio, resample
from asr_pathways.data.augment import SpecAugment, SpecAugmentConfig
from asr_pathways.data.corpus import SLACK, WRITTEN
from asr_pathways.data.features import Fbank, FeatureConfig, Frontend
from asr_pathways.data.left_out import LeftOut, Unfit
from asr_pathways.data.sampling import Draw, LanguageSampler, SamplingConfig
from asr_pathways.data.tokenizer import TextCodec
from asr_pathways.errors import PathwaysError

T = TypeVar("T")

LengthCheck = Callable[[int, Sequence[int]], str | None]
"""From frames of features and targets to why they do not fit a model; see `SpeechModel.length_error`."""

LETTERS_A_SECOND = 50.0
"""Nobody speaks faster, and a CTC model of letters has no more frames: its loss would be infinite."""

_USUAL = 64
"""Steps of whose batches the mean size is taken."""


class DataConfig(SamplingConfig):
    """Everything about training batches: sampling, features, augmentation, and memory to spend."""

    features: FeatureConfig = FeatureConfig()
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    cache_gigabytes: float = Field(default=3.0, ge=0)  # features kept in memory from epoch to epoch
    prefetch: int = Field(default=4, ge=0)  # batches made ahead by threads; 0: none, and no threads
    workers: int = Field(default=1, gt=0)  # threads that make them
    max_left_out: int = Field(default=100, ge=0)  # utterances that may be unusable: one more ends the run


@dataclass(frozen=True)
class Batch:
    """Utterances of one language, padded with zeros."""

    language: str
    ids: list[str]
    texts: list[str]
    features: Tensor  # (B, T, F) float32, or (B, T) for a model whose input is waveforms
    feature_lengths: Tensor  # (B,) int64, frames
    targets: Tensor  # (B, U) int64
    target_lengths: Tensor  # (B,) int64
    frame_rate: float = 100.0  # frames a second

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> float:
        """Audio in the batch, padding not counted."""
        return float(self.feature_lengths.sum()) / self.frame_rate

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""
        names = ("features", "feature_lengths", "targets", "target_lengths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class _Utterance:
    identifier: str
    path: Path
    offset: float  # seconds
    duration: float  # seconds
    text: str
    targets: tuple[int, ...]
    channel: int | None  # None: all, averaged

    def samples(self) -> Samples:
        """(N,) at 16 kHz."""
        with self._named():
            samples = read_audio(self.path, self.offset, self.duration, self.channel)
            seconds = len(samples) / SAMPLE_RATE
            if seconds < self.duration - SLACK:
                raise PathwaysError(f"{self.path}: {seconds:.2f} s of audio where {self.duration:.2f} s should be")
            return samples

    def features(self, frontend: Frontend, speed: float = 1.0) -> Tensor:
        """(T, ...) of this utterance, spoken ``speed`` times as fast (pitch moves too, as when a tape does)."""
        samples = self.samples()
        with self._named():
            return frontend(resample(samples, SAMPLE_RATE * speed))

    def check_text(self) -> None:
        """Raises PathwaysError if the text is too long for the audio."""
        if len(self.text) > LETTERS_A_SECOND * self.duration:
            many = f"{len(self.text)} letters in {self.duration:.2f} s"
            raise PathwaysError(f"utterance {self.identifier}: {many}: the text cannot be spoken in it")

    def check_size(self, frames: int, length_error: LengthCheck | None) -> None:
        """Raises `Unfit` if that many frames, or the text, do not fit the model."""
        if length_error is not None and (reason := length_error(frames, self.targets)) is not None:
            raise Unfit(f"utterance {self.identifier}: {reason}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except PathwaysError as error:
            raise PathwaysError(f"utterance {self.identifier}: {error}") from None


class FeatureCache:
    """Features of utterances at each speed, as float16, up to a number of bytes.

    Features are rounded to float16 whether or not they fit, so that the size of the cache changes nothing but time.
    """

    def __init__(self, frontend: Frontend, max_bytes: int) -> None:
        self._frontend = frontend
        self._free = max_bytes
        self._lock = threading.Lock()
        self._features: dict[tuple[str, float], NDArray[np.float16]] = {}

    def get(self, utterance: _Utterance, speed: float) -> Tensor:
        """Features (T, ...), float32."""
        key = (utterance.identifier, speed)
        features = self._features.get(key)
        if features is None:
            features = utterance.features(self._frontend, speed).numpy().astype(np.float16)
            with self._lock:
                if features.nbytes <= self._free and key not in self._features:
                    self._features[key] = features
                    self._free -= features.nbytes
        return torch.from_numpy(features.astype(np.float32))

    @staticmethod
    def bytes_of_second(batch: Batch) -> float:
        """What a second of audio occupies, of features such as those of ``batch``."""
        return np.dtype(np.float16).itemsize * batch.frame_rate * math.prod(batch.features.shape[2:])


class TrainBatches:
    """Endless, augmented, language-homogeneous batches of Lhotse cuts, with an exactly resumable state.

    Iterating goes on from the state: that of the last batch handed out, or the one loaded.

    Args:
        cuts: as from :func:`asr_pathways.data.corpus.load_cuts`.
        tokenizer: turns texts into targets.
        config: sampling, features, augmentation (waveforms are not masked, only changed in speed).
        frontend: the model's; None: filter banks by ``config.features``.
        rank, world_size, accumulate: see `LanguageSampler`.
        left_out: collects the utterances that cannot be used; None: a new collection.
        length_error: the model's; utterances for which it returns a reason are left out: by what cuts state, before
            anything is drawn, and languages with nothing else likewise.
        written: whether targets have case, punctuation and digits, where cuts have them and the tokenizer does.

    Raises:
        PathwaysError: if nothing can be used, or, here or while iterating, too many utterances are broken, or all of a
            language are.
    """

    def __init__(
        self,
        cuts: Iterable[Any],
        tokenizer: TextCodec,
        config: DataConfig,
        frontend: Frontend | None = None,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        left_out: LeftOut | None = None,
        length_error: LengthCheck | None = None,
        written: bool = False,
    ) -> None:
        frontend = frontend or Fbank(config.features)
        self.config = config
        self.left_out = LeftOut(config.max_left_out) if left_out is None else left_out
        self._frame_rate = frontend.frame_rate
        self._length_error = length_error
        self._utterances = _by_language(cuts, tokenizer, written)
        self._leave_out()
        self._ranks = (rank, world_size, accumulate)
        self._cache = FeatureCache(frontend, int(config.cache_gigabytes * 1e9))
        self._augment = SpecAugment(config.spec_augment) if config.spec_augment else None
        self._state = self._sampler().state_dict()

    def _leave_out(self) -> None:
        """Of what cuts show to be unusable nothing is drawn; what does not fit the model is no longer there at all."""
        errors: dict[str, PathwaysError] = {}
        for utterance in chain.from_iterable(self._utterances.values()):
            try:
                utterance.check_text()
                utterance.check_size(int(utterance.duration * self._frame_rate), self._length_error)
            except PathwaysError as error:
                errors[utterance.identifier] = error
        self.left_out.note(errors)
        self.left_out.require_few()  # all of them are counted
        unfit = {name for name, error in errors.items() if isinstance(error, Unfit)}
        fit = {
            language: [one for one in utterances if one.identifier not in unfit]
            for language, utterances in self._utterances.items()
        }
        self._utterances = {language: utterances for language, utterances in fit.items() if utterances}
        if unfit and not self._utterances:
            raise PathwaysError(f"none of the {len(unfit)} utterances can be used: {self.left_out.last}")

    def targets(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """{language: {utterance's id: the ids of its text}}."""
        return {
            language: {utterance.identifier: utterance.targets for utterance in utterances}
            for language, utterances in self._utterances.items()
        }

    def usual(self) -> Batch:
        """Of the next batches one about as large as they are in the mean, in padded seconds; the state stays."""
        sampler = self._sampler()
        sampler.load_state_dict(self._state)
        draws = [draw for _ in range(_USUAL) for draw in sampler.next()]
        sizes = []
        for draw in draws:
            utterances = self._utterances[draw.language]
            sizes.append(len(draw.items) * max(utterances[index].duration / speed for index, speed in draw.items))
        mean = sum(sizes) / len(sizes)
        return self._make(min(zip(draws, sizes, strict=True), key=lambda pair: abs(pair[1] - mean))[0])

    def state_dict(self) -> dict[str, Any]:
        """The state after the last step whose batches were all handed out, as plain JSON values."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration go on from ``state``: the same batches, bit for bit.

        Raises:
            PathwaysError: if the state is of other data or another config.
        """
        sampler = self._sampler()
        sampler.load_state_dict(state)
        self._state = sampler.state_dict()

    def __iter__(self) -> Iterator[Batch]:
        sampler = self._sampler()
        sampler.load_state_dict(self._state)
        for batch, state in _ahead(self._drawn(sampler), self._make, self.config):
            self._state = state
            yield batch

    def _sampler(self) -> LanguageSampler:
        durations = {
            language: [utterance.duration for utterance in utterances]
            for language, utterances in self._utterances.items()
        }
        config = SamplingConfig(**{name: getattr(self.config, name) for name in SamplingConfig.model_fields})
        return LanguageSampler(durations, config, *self._ranks)

    def _drawn(self, sampler: LanguageSampler) -> Iterator[tuple[Draw, dict[str, Any]]]:
        """Each draw with the state that its batch leaves behind."""
        while True:
            before = sampler.state_dict()
            *others, last = sampler.next()
            for draw in others:
                yield draw, before
            yield last, sampler.state_dict()

    def _make(self, draw: Draw) -> Batch:
        """The utterances drawn, without those that cannot be used; where none is left, the next one that can be."""
        every = self._utterances[draw.language]
        first, speed = draw.items[0]
        stand_ins = (((first + place) % len(every), speed) for place in range(1, len(every)))
        chosen: list[tuple[_Utterance, Tensor]] = []
        for items in chain((draw.items,), ((item,) for item in stand_ins)):
            for index, factor in items:
                features = self._features(every[index], factor, draw.epoch)
                if features is not None:
                    chosen.append((every[index], features))
            if chosen:
                return _collate(draw.language, chosen, self._frame_rate)
        raise PathwaysError(f"none of the {len(every)} utterances of {draw.language} can be used: {self.left_out.last}")

    def _features(self, utterance: _Utterance, speed: float, epoch: int) -> Tensor | None:
        """(T, ...), augmented; None if the utterance is left out."""
        if utterance.identifier in self.left_out:
            return None
        try:
            features = self._unmasked(utterance, speed)
        except PathwaysError as error:
            self.left_out.add(utterance.identifier, error)
            return None
        if self._augment is not None and features.dim() == 2:
            # One utterance comes once in an epoch: these two and the seed determine its masks.
            key = f"{self.config.seed}/{epoch}/{utterance.identifier}"
            features = self._augment(features, torch.Generator().manual_seed(zlib.crc32(key.encode())))
        return features

    def _unmasked(self, utterance: _Utterance, speed: float) -> Tensor:
        """(T, ...) that fit the model: at the original speed if the other makes an utterance too long or too short."""
        features = self._cache.get(utterance, speed)
        if self._length_error is not None and self._length_error(len(features), utterance.targets) is not None:
            features = self._cache.get(utterance, 1.0)
            utterance.check_size(len(features), self._length_error)
        return features


def joined(batch: Batch, length_error: LengthCheck, alone: int = 0) -> Batch:
    """The same speech in fewer rows: utterances one after the other, as long as ``length_error`` returns None.

    For a model that pads every row to a window, which then costs as much as the speech in it. The first ``alone``
    utterances stay in rows of their own.
    """
    rows: list[list[int]] = []
    frames, tokens = batch.feature_lengths.tolist(), batch.target_lengths.tolist()
    texts = [batch.targets[i, : tokens[i]].tolist() for i in range(len(batch))]
    for index in range(len(batch)):
        last = [*rows[-1], index] if rows else []
        text = [token for i in last for token in texts[i]]
        if last and index > alone and length_error(sum(frames[i] for i in last), text) is None:
            rows[-1] = last
        else:
            rows.append([index])
    features = [torch.cat([batch.features[i, : frames[i]] for i in row]) for row in rows]
    targets = [torch.cat([batch.targets[i, : tokens[i]] for i in row]) for row in rows]
    return replace(
        batch,
        ids=["+".join(batch.ids[i] for i in row) for row in rows],
        texts=[" ".join(batch.texts[i] for i in row) for row in rows],
        features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        feature_lengths=torch.tensor([len(one) for one in features]),
        targets=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        target_lengths=torch.tensor([len(one) for one in targets]),
    )


def eval_batches(
    cuts: Iterable[Any],
    tokenizer: TextCodec | None = None,
    max_seconds: float = 120.0,
    frontend: Frontend | None = None,
    left_out: LeftOut | None = None,
    length_error: LengthCheck | None = None,
    written: bool = False,
) -> Iterator[Batch]:
    """Every cut once, language by language, from short to long, without augmentation.

    Args:
        cuts: as from :func:`asr_pathways.data.corpus.load_cuts`.
        tokenizer: turns texts into targets; without one, targets are empty.
        max_seconds: padded audio in a batch; a longer utterance is a batch by itself.
        frontend: the model's; None: filter banks.
        left_out: collects utterances whose audio is broken or does not fit the model; None: they are an error.
        length_error: the model's.
        written: see `TrainBatches`.

    Raises:
        PathwaysError: if an utterance's audio is broken, or that of all of a language.
    """
    frontend = frontend or Fbank()
    for language, utterances in sorted(_by_language(cuts, tokenizer, written).items()):
        pending: list[tuple[_Utterance, Tensor]] = []
        used = False
        for utterance in sorted(utterances, key=lambda item: (item.duration, item.identifier)):
            try:
                features = utterance.features(frontend)
                utterance.check_size(len(features), length_error)
            except PathwaysError as error:
                if left_out is None:
                    raise
                left_out.add(utterance.identifier, error)
                continue
            if pending and utterance.duration * (len(pending) + 1) > max_seconds:
                yield _collate(language, pending, frontend.frame_rate)
                pending = []
            pending.append((utterance, features))
            used = True
        if pending:
            yield _collate(language, pending, frontend.frame_rate)
        if not used and left_out is not None:
            raise PathwaysError(f"none of the {len(utterances)} utterances of {language} can be used: {left_out.last}")


def read_cut(cut: Any) -> Samples:
    """The samples (N,) of a Lhotse cut, at 16 kHz.

    Raises:
        PathwaysError: if its audio is broken, or shorter than the cut states; the cut is named.
    """
    return _utterance(cut, None).samples()


def _by_language(cuts: Iterable[Any], tokenizer: TextCodec | None, written: bool) -> dict[str, list[_Utterance]]:
    utterances: dict[str, list[_Utterance]] = defaultdict(list)
    for cut in cuts:
        utterances[cut.supervisions[0].language].append(_utterance(cut, tokenizer, written))
    return dict(utterances)


def _utterance(cut: Any, tokenizer: TextCodec | None, written: bool = False) -> _Utterance:
    supervision = cut.supervisions[0]
    source, channel = source_of(cut)
    if source.type != "file":
        raise PathwaysError(f"utterance {cut.id}: its audio is of type {source.type!r}: it must be a file")
    target = supervision.text
    if tokenizer and written and isinstance(text := (supervision.custom or {}).get(WRITTEN), str):
        target = target if tokenizer.unknown([text], supervision.language) else text
    targets = tuple(tokenizer.encode(target, supervision.language)) if tokenizer else ()
    return _Utterance(cut.id, Path(source.source), cut.start, cut.duration, supervision.text, targets, channel)


def source_of(cut: Any) -> tuple[Any, int | None]:
    """The source of a Lhotse cut's audio, and which of its channels it is; None: all, averaged.

    Raises:
        PathwaysError: if it is more than one channel and not all.
    """
    first, *others = cut.recording.sources
    wanted = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    ids = cut.recording.channel_ids or [0]
    if not others and (len(ids) == 1 or sorted(wanted) == sorted(ids)):
        return first, None
    sources = [source for source in (first, *others) if wanted[0] in source.channels]
    if len(wanted) > 1 or not sources:
        raise PathwaysError(
            f"utterance {cut.id}: channel {cut.channel} of a recording with {ids}: it must be one of them"
        )
    return sources[0], sources[0].channels.index(wanted[0]) if len(sources[0].channels) > 1 else None


def _collate(language: str, items: Sequence[tuple[_Utterance, Tensor]], frame_rate: float) -> Batch:
    """A batch of utterances with their features (T, ...)."""
    features = [item for _, item in items]
    targets = [torch.tensor(utterance.targets, dtype=torch.int64) for utterance, _ in items]
    return Batch(
        language=language,
        ids=[utterance.identifier for utterance, _ in items],
        texts=[utterance.text for utterance, _ in items],
        features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        feature_lengths=torch.tensor([len(item) for item in features], dtype=torch.int64),
        targets=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        target_lengths=torch.tensor([len(item) for item in targets], dtype=torch.int64),
        frame_rate=frame_rate,
    )


def _ahead(
    draws: Iterator[tuple[Draw, T]], make: Callable[[Draw], Batch], config: DataConfig
) -> Iterator[tuple[Batch, T]]:
    """The batches of draws, in their order, each with the state beside the draw; some are made ahead by threads.

    Threads are enough: libsndfile, soxr and kaldi-native-fbank release the interpreter's lock.
    """
    if config.prefetch == 0:
        for draw, state in draws:
            yield make(draw), state
        return
    pool = ThreadPoolExecutor(config.workers, "batches")
    waiting: deque[tuple[Future[Batch], T]] = deque()
    try:
        for draw, state in draws:
            waiting.append((pool.submit(make, draw), state))
            if len(waiting) > config.prefetch:
                batch, its_state = waiting.popleft()
                yield batch.result(), its_state
    finally:
        pool.shutdown(cancel_futures=True)
