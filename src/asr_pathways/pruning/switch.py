"""Switching a model between its pathways, and watching what training needs while one is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from asr_pathways import ranks as distributed
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.gradients import GradientHooks
from asr_pathways.pruning.policy import POLICIES
from asr_pathways.pruning.rows import Rows
from asr_pathways.pruning.state import State
from asr_pathways.pruning.statistics import EVERY
from asr_pathways.pruning.weights import MaskedWeights

ROWS = "use([...])"


class Switch:
    """Puts one pathway at a time in the model, and remembers which were trained since the last step."""

    def __init__(self, model: nn.Module, state: State, weights: MaskedWeights, gradients: GradientHooks) -> None:
        self._model = model
        self._state = state
        self._config = state.config
        self._policy = POLICIES[state.config.gradient]
        self._weights = weights
        self._gradients = gradients
        self._removers: list[Callable[[], None]] = []
        self._attached = True
        self._in_use: str | None = None  # the block that is going on, as errors name it
        self._trained: set[str] = set()  # pathways used in training since the last step

    @contextmanager
    def use(self, language: str) -> Iterator[None]:
        """See `Pathways.use`, for batches of one language."""
        key = self._state.key(language)
        with self._block(f"use({language!r})", [language]) as training, self._in_place(key, training):
            yield

    @contextmanager
    def use_rows(self, languages: Sequence[str]) -> Iterator[Rows]:
        """See `Pathways.use`, for batches of several languages, given by row."""
        keys = [self._state.key(language) for language in languages]
        if not keys:
            raise PathwaysError("use([]): give the language of each row")
        with self._block(ROWS, languages) as training:
            rows = Rows(keys, partial(self._in_place, training=training, tracked=False))
            try:
                yield rows
            finally:
                rows.close()

    @contextmanager
    def calibrate(self, language: str) -> Iterator[None]:
        """See `Pathways.calibrate`."""
        key = self._state.key(language)
        if self._config.score == "magnitude":
            raise PathwaysError("score magnitude needs no calibration: adapt() at once")
        if self._in_use == ROWS:
            raise PathwaysError(f"calibrate({language!r}) inside {ROWS}: calibrate one language at a time")
        self._hook()
        statistics, gradients = self._state.statistics, self._gradients
        before = statistics.recording, gradients.taking
        statistics.recording = gradients.taking = key
        try:
            yield
            statistics.commit([key])
        finally:
            statistics.recording, gradients.taking = before

    def require_dense(self, what: str) -> None:
        """Raises PathwaysError inside a block, or after `detach`."""
        if self._in_use is not None:
            raise PathwaysError(f"{what} inside {self._in_use}: leave that block first, its weights are masked")
        if not self._attached:
            raise PathwaysError(f"{what} after detach: attach or load the pathways again")

    def require_stepped(self) -> None:
        """Raises PathwaysError if the optimizer moved weights that `end_step` has yet to put back."""
        restores = self._policy.freezes or self._state.added
        if restores and self._trained and self._weights.moved():
            raise PathwaysError("the weights changed after use: call pathways.step() after every optimizer.step()")

    def end_step(self) -> list[str]:
        """Undoes what the optimizer did to weights that must not move; gives the pathways that were trained."""
        trained = self.trained()
        self._trained.clear()
        self._state.statistics.commit(key for key in trained if self._state.own_steps[key] % EVERY == 0)
        movable = self._movable(trained)
        if movable is not None:
            self._weights.restore_outside(movable)
        return trained

    def trained(self) -> list[str]:
        """The pathways used in training since the last step, on any rank."""
        keys, device = self._state.keys, self._state.targets[0].parameter.device
        flags = distributed.anywhere([key in self._trained for key in keys], device)
        return [key for key, flag in zip(keys, flags, strict=True) if flag]

    def forget(self) -> None:
        """Drops what belongs to an unfinished step."""
        self._trained.clear()
        self._state.statistics.forget()
        self._gradients.forget()

    def unhook(self) -> None:
        """Takes every hook off the model, until training needs them again."""
        for remove in self._removers:
            remove()
        self._removers = []

    def detach(self) -> None:
        """The end: no block can begin any more."""
        self._attached = False
        self.unhook()
        self._weights.release()

    @contextmanager
    def _block(self, what: str, languages: Sequence[str]) -> Iterator[bool]:
        """Lets no other block begin inside it; yields whether the model trains in it."""
        self.require_dense(what)
        self.require_stepped()
        training = self._model.training
        if training:
            for language in languages:
                self._state.require_open(language, "use in training mode")
        self._in_use = what
        try:
            yield training
        finally:
            self._in_use = None

    @contextmanager
    def _in_place(self, key: str, training: bool, tracked: bool = True) -> Iterator[None]:
        """The pathway's own tensors and masked weights are in the model, and what training needs is watched."""
        statistics, gradients = self._state.statistics, self._gradients
        before = gradients.mask, gradients.taking, statistics.recording  # of a calibrate() that this is in
        with self._state.own.in_place(key):
            try:
                if self._policy.masks_training or not training:
                    self._weights.mask(self._state.bank.unpacked(key), tracked)
                if training:
                    self._watch(key)
                yield
            finally:
                self._weights.restore()
                gradients.mask, gradients.taking, statistics.recording = before

    def _watch(self, key: str) -> None:
        self._hook()
        self._trained.add(key)
        own_steps = self._state.own_steps[key]
        if own_steps % EVERY == 0:
            self._state.statistics.recording = key
        if self._state.sparsity_of(key) > 0 and self._config.adapts_at(own_steps + 1):
            self._gradients.taking = key
        self._gradients.mask = self._movable([key])

    def _movable(self, keys: Sequence[str]) -> Callable[[int], Tensor] | None:
        """From the index of a tensor to the bool mask of what training ``keys`` may move; None: it may move all."""
        bank = self._state.bank
        if keys and self._state.added:  # then only the last trains
            *earlier, last = self._state.keys
            free = bank.packed_outside(earlier)
            if self._policy.freezes:
                free = [bits & own for bits, own in zip(free, bank.packed(last), strict=True)]
            return partial(bank.unpack_one, free)  # one tensor at a time, when it is needed
        if keys and self._policy.freezes:
            return bank.union(keys).__getitem__
        return None

    def _hook(self) -> None:
        """Puts the hooks that score and policy need on the model; one that is only evaluated carries none."""
        if not self._removers:
            self._removers += self._state.statistics.hook()
            if self._policy.freezes or self._state.added or self._config.score == "gradient":
                self._removers += self._weights.hook_gradients(self._gradients.hooks())
