"""The active pathway: the one whose tensors are in the model, and what is observed of it while it trains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from asr_pathways import ranks
from asr_pathways.errors import PathwaysError
from asr_pathways.mixed_batches import MixedBatch
from asr_pathways.pruning.config import POLICIES
from asr_pathways.pruning.observe import Observer
from asr_pathways.pruning.state import State
from asr_pathways.pruning.weights import MaskedWeights, as_number, hook_gradients, no_tracing

MIXED = "use([...])"


class ActivePathway:
    """Puts one pathway at a time in the model, and remembers which were trained since the last step."""

    def __init__(self, model: nn.Module, state: State, weights: MaskedWeights) -> None:
        self._model = model
        self._state = state
        self._policy = POLICIES[state.config.gradient]
        self._weights = weights
        for observer in state.observations:
            observer.dense = weights.dense
        self._removers: list[Callable[[], None]] = []
        self._attached = True
        self._in_use: str | None = None  # the present block, as errors name it
        self._trained: set[str] = set()  # pathways used in training since the last step
        self._movable_now: Callable[[int], Tensor] | None = None  # of the present backward pass

    def __getstate__(self) -> dict[str, object]:
        """Of a copy: what hooks its model has are not the copy's."""
        return {**vars(self), "_removers": []}

    @contextmanager
    def use(self, language: str) -> Iterator[None]:
        """See `Pathways.use`, for batches of one language."""
        key = self._state.key(language)
        with self._block(f"use({language!r})", [language]) as training, self._in_place(key, training):
            yield

    @contextmanager
    def use_mixed(self, languages: Sequence[str]) -> Iterator[MixedBatch]:
        """See `Pathways.use`, for batches of several languages, one for each row."""
        keys = [self._state.key(language) for language in languages]
        if not keys:
            raise PathwaysError("use([]): pass the language of each row")
        with self._block(MIXED, languages) as training:

            @contextmanager
            def in_place(key: str) -> Iterator[None]:
                rows = [row for row, of_row in enumerate(keys) if of_row == key]
                with self._state.observations.of_rows(rows, len(keys)), self._in_place(key, training, tracked=False):
                    yield

            batch = MixedBatch(keys, in_place)
            try:
                yield batch
            finally:
                batch.close()

    @contextmanager
    def calibrate(self, language: str) -> Iterator[None]:
        """See `Pathways.calibrate`."""
        key, observations = self._state.key(language), self._state.observations
        if not self._state.config.score_needs:
            raise PathwaysError(f"score {self._state.config.score} needs no calibration: adapt() at once")
        if self._in_use == MIXED:
            raise PathwaysError(f"calibrate({language!r}) inside {MIXED}: calibrate one language at a time")
        self._hook()
        with self._weights.before_zeros(), observations.recording(key, most=sys.maxsize):
            yield
            observations.commit([key])

    def require_dense(self, what: str) -> None:
        """Raises PathwaysError inside a block, or after `detach`."""
        if self._in_use is not None:
            raise PathwaysError(f"{what} inside {self._in_use}: leave that block first, its weights are masked")
        if not self._attached:
            raise PathwaysError(f"{what} after detach: attach or load the pathways again")

    def require_stepped(self) -> None:
        """Raises PathwaysError if the optimizer moved weights that `end_step` has yet to put back."""
        if self._restores and self._trained and self._weights.moved():
            raise PathwaysError("the weights changed after use: call pathways.step() after every optimizer.step()")

    def end_step(self) -> list[str]:
        """Undoes what the optimizer did to weights that must not move; returns the pathways that were trained."""
        flags = ranks.anywhere([key in self._trained for key in self._state.keys], self._state.device)
        trained = [key for key, flag in zip(self._state.keys, flags, strict=True) if flag]
        self._trained.clear()
        self._weights.keep_zeros()
        self._state.observations.commit(trained, self._due)
        movable = self._movable(trained)
        if movable is not None:
            self._weights.restore_outside(movable)
        return trained

    def forget(self) -> None:
        """Drops what belongs to an unfinished step."""
        self._trained.clear()
        self._state.observations.forget(self._state.keys)

    def unhook(self) -> None:
        """Removes every hook from the model, until training needs them again."""
        for remove in self._removers:
            remove()
        self._removers = []

    def detach(self) -> None:
        """See `Pathways.detach`; no block can begin any more."""
        self._attached = False
        self.unhook()
        self._weights.release()

    @contextmanager
    def _block(self, what: str, languages: Sequence[str]) -> Iterator[bool]:
        """Refuses other blocks inside it; yields whether the model is in training mode.

        One that ends with an error, such as of memory, trained nothing.
        """
        self.require_dense(what)
        self.require_stepped()
        training = self._model.training
        if training:
            for language in languages:
                self._state.trainable_key(language, "use in training mode")
        self._in_use, before = what, set(self._trained)
        try:
            with no_tracing(self._model):
                yield training
        except BaseException:
            self._state.observations.forget(self._trained - before)
            self._trained = before
            raise
        finally:
            self._in_use = None

    @contextmanager
    def _in_place(self, key: str, training: bool, tracked: bool = True) -> Iterator[None]:
        """The pathway's tensors and masked weights are in the model, and what training needs is observed."""
        with self._state.extension.in_place(key):
            try:
                if not (training and self._policy.writes_zeros):
                    self._weights.mask(self._state.masks.unpacked(key), tracked)
                if training:
                    self._hook()
                    self._trained.add(key)
                    self._movable_now = self._movable([key])
                with self._state.observations.recording(key, self._due) if training else nullcontext():
                    yield
            finally:
                changed = self._weights.restore()
                self._movable_now = None
        if changed:
            raise PathwaysError(
                f"the weights were changed inside {self._in_use}, where they are masked, and the change is lost: call "
                "optimizer.step() or load_state_dict() after the block"
            )

    def _due(self, observer: Observer, key: str) -> bool:
        if observer.large and not self._state.chooses_again(key):
            return False
        return observer.due(key, self._state.own_steps[key], self._state.adapts_next(key))

    @property
    def _restores(self) -> bool:
        """Whether some weights must not move in training."""
        return self._policy.freezes or bool(self._state.extension)

    def _movable(self, keys: Sequence[str]) -> Callable[[int], Tensor] | None:
        """The bool mask, by a tensor's index, of what training ``keys`` may move; None: everything."""
        if not keys or not self._restores:
            return None
        if self._state.extension:  # then only the last trains
            return self._state.extension.movable(self._state.keys)
        return self._state.masks.union(keys).__getitem__

    def _hook(self) -> None:
        """Puts the hooks that score and policy need on the model; one that is only evaluated has none."""
        if self._removers:
            return
        for observer in self._state.observations:  # before gradients are masked
            self._removers += observer.hook()
        if self._restores:
            parameters = [one.parameter for one in self._state.prunable]
            self._removers += hook_gradients(parameters, [self._gradient_mask(i) for i in range(len(parameters))])

    def _gradient_mask(self, index: int) -> Callable[[Tensor], Tensor | None]:
        """Masks a gradient before it is added to ``.grad``, where several languages accumulate, and ranks exchange."""
        return lambda grad: None if self._movable_now is None else grad * as_number(self._movable_now(index))
