"""Pathways: sparse sub-networks of one model, one for each language, that adapt while they train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import masks, storage
from asr_pathways.pruning.bank import MaskBank
from asr_pathways.pruning.chooser import Chooser
from asr_pathways.pruning.config import SHARED, PathwayConfig
from asr_pathways.pruning.gradients import GradientHooks
from asr_pathways.pruning.policy import POLICIES
from asr_pathways.pruning.report import MaskEvent, Summary, mean_iou, overlaps, summarize, union_density
from asr_pathways.pruning.statistics import EVERY, InputStatistics
from asr_pathways.pruning.targets import find_targets
from asr_pathways.pruning.training import copy_weights, reset_revived, rewind
from asr_pathways.pruning.weights import MaskedWeights, as_numbers


class Pathways:
    """The masks of a model, its languages, and the clocks by which they change.

    Make one with `attach` (masks are chosen there and then) or `load`. The model's parameters and state_dict
    stay its own: masks are multiplied in while a pathway is in use, and the dense values are back after.

        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, adapt_every=100), ["en", "fr"])
        with pathways.use("fr"):
            loss = model(batch)
            loss.backward()
        optimizer.step()
        pathways.step(optimizer)

    Under DistributedDataParallel, attach to the model before it is wrapped and give every rank a batch of the
    same language: every rank then chooses the same masks. Parameters sharded over ranks are not supported.
    """

    def __init__(self, model: nn.Module, config: PathwayConfig, languages: Sequence[str]) -> None:
        """Use `attach` or `load`: this leaves every mask dense."""
        self._model = model
        self._config = config
        self._keys = config.pathways(languages)
        self._languages = tuple(languages)
        self._policy = POLICIES[config.gradient]
        self._targets = find_targets(model, config.include, config.exclude)
        self._bank = MaskBank(self._targets, self._keys)
        self._weights = MaskedWeights(self._targets)
        self._statistics = InputStatistics(self._targets if config.score == "activation" else [], self._keys)
        self._gradients = GradientHooks(self._targets, take=config.score == "gradient")
        self._chooser = Chooser(config, self._targets, self._statistics, self._gradients)
        self._removers: list[Callable[[], None]] = []
        self._step = 0
        self._own_steps = dict.fromkeys(self._keys, 0)
        self._sparsity = 0.0
        self._start: dict[str, Tensor] = {}  # the weights to which `rewind` goes back
        self._hooked = False
        self._attached = True
        self._in_use: str | None = None
        self._trained: set[str] = set()  # pathways used in training since the last step

    @classmethod
    def attach(cls, model: nn.Module, config: PathwayConfig, languages: Sequence[str]) -> Pathways:
        """Gives ``model`` one pathway for each language, pruned at once if the schedule starts at step 0.

        Nothing has been seen of the languages yet, so these first masks are chosen by magnitude whatever the
        score is; see `calibrate` and `masks_from` for better ones.

        Raises:
            PathwaysError: if there is nothing to prune, or the languages or patterns make no sense.
        """
        pathways = cls(model, config, languages)
        if config.rewind:
            pathways._start = copy_weights(model)
        stage = config.stage_at(0)
        if stage is not None:
            pathways._prune(stage, None)
        return pathways

    @classmethod
    def load(cls, model: nn.Module, folder: str | Path) -> Pathways:
        """Attaches what `save` wrote to a model of the same tensors; the weights are left as they are.

        Raises:
            PathwaysError: if the folder is not one that `save` wrote, or is of another model.
        """
        description, packed = storage.read_folder(Path(folder))
        pathways = cls(model, description.config, description.languages)
        pathways._restore(description, packed, str(folder))
        return pathways

    @property
    def config(self) -> PathwayConfig:
        return self._config

    @property
    def languages(self) -> tuple[str, ...]:
        return self._languages

    @property
    def names(self) -> tuple[str, ...]:
        """The prunable tensors, by their first names in the model."""
        return tuple(target.name for target in self._targets)

    @property
    def sparsity(self) -> float:
        """What pruning has reached so far; `config.sparsity` once the schedule has run out."""
        return self._sparsity

    @property
    def at_target(self) -> bool:
        """Whether pruning has reached `config.sparsity`; masks may still adapt."""
        return self._sparsity == self._config.sparsity

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._step

    # --- in a training loop ---------------------------------------------------------------------------------

    @contextmanager
    def use(self, language: str) -> Iterator[None]:
        """The model is the sub-network of ``language`` inside the block; the dense weights are back after.

        Run forward and backward inside it. A backward pass outside is an error of autograd's, because the
        weights it needs have changed. Under gradient policy ``parp`` the model stays dense in training mode.

        Raises:
            PathwaysError: on an unknown language, inside another `use`, or where `step` was forgotten.
        """
        key = self._key(language)
        self._require_dense(f"use({language!r})")
        if self._policy.freezes and self._trained and self._weights.moved():
            raise PathwaysError("the weights changed after use: call pathways.step() after every optimizer.step()")
        training = self._model.training
        self._in_use = key
        try:
            if self._policy.masks_training or not training:
                self._weights.mask(self._bank.unpacked(key))
            if training:
                self._hook()
                self._trained.add(key)
                if self._own_steps[key] % EVERY == 0:
                    self._statistics.recording = key
                if self._sparsity > 0 and self._config.adapts_at(self._own_steps[key] + 1):
                    self._gradients.taking = key
                if self._policy.freezes:
                    self._gradients.masks = as_numbers(self._bank.unpacked(key))
            yield
        finally:
            self._weights.restore()
            self._gradients.masks = self._gradients.taking = self._statistics.recording = None
            self._in_use = None

    @contextmanager
    def calibrate(self, language: str) -> Iterator[None]:
        """Collects what the score needs of ``language`` from what is run inside the block, in any mode.

        For score ``activation`` run forward passes, for ``gradient`` backward passes as well; then `adapt`.
        The model runs with the weights it has: dense, or a pathway's inside `use`.

        Raises:
            PathwaysError: on an unknown language, or if the score is ``magnitude``, which needs nothing.
        """
        key = self._key(language)
        if self._config.score == "magnitude":
            raise PathwaysError("score magnitude needs no calibration: adapt() at once")
        self._hook()
        before = self._statistics.recording, self._gradients.taking
        self._statistics.recording = self._gradients.taking = key
        try:
            yield
        finally:
            self._statistics.recording, self._gradients.taking = before

    def step(self, optimizer: Optimizer | None = None) -> list[MaskEvent]:
        """Call it after every ``optimizer.step()``: advances the clocks, prunes and adapts when due.

        Under policy ``frozen`` it also undoes what weight decay and momentum did to frozen weights: those in
        none of the masks used since the last call.

        Args:
            optimizer: needed if ``rewind``, or ``revived="reset"``, so that its state can follow.

        Returns:
            The masks that changed, in order.

        Raises:
            PathwaysError: inside `use`, or if the optimizer is needed and missing.
        """
        self._require_dense("step()")
        if optimizer is None and (self._config.rewind or self._config.revived == "reset"):
            raise PathwaysError("step(): give it the optimizer, whose state is to follow rewound or revived weights")
        trained = [key for key in self._keys if key in self._trained]
        self._trained.clear()
        if self._policy.freezes and trained:
            self._weights.restore_outside(self._bank.union(trained))
        self._step += 1
        for key in trained:
            self._own_steps[key] += 1
        stage = self._config.stage_at(self._step)
        if stage is not None:
            events = self._prune(stage, optimizer)
        elif self._sparsity > 0:
            due = [key for key in trained if self._config.adapts_at(self._own_steps[key])]
            events = [self._adapt(key, optimizer) for key in due]
        else:
            events = []  # a dense mask has nothing to choose
        self._gradients.forget()
        return events

    def adapt(self, language: str, optimizer: Optimizer | None = None) -> MaskEvent:
        """Chooses the mask of ``language`` again at the present sparsity (for all, if they share it).

        Raises:
            PathwaysError: on an unknown language, inside `use`, or if the score has nothing to go by yet.
        """
        self._require_dense("adapt()")
        if optimizer is None and self._config.revived == "reset" and self._step > 0:
            raise PathwaysError("adapt(): give it the optimizer, whose state is to follow revived weights")
        return self._adapt(self._key(language), optimizer)

    # --- masks ----------------------------------------------------------------------------------------------

    def mask(self, language: str) -> dict[str, Tensor]:
        """{tensor's name: bool tensor of its shape}; True is kept. The tensors are the caller's own."""
        return self._bank.named(self._key(language))

    def set_mask(self, language: str, mask: Mapping[str, Tensor]) -> None:
        """Takes a mask from elsewhere: {tensor's name: bool tensor}, every prunable tensor in it.

        Raises:
            PathwaysError: if a tensor is missing, unknown, not bool, or of another shape.
        """
        self._require_dense("set_mask()")
        key = self._key(language)
        found = {name: tuple(tensor.shape) for name, tensor in mask.items()}
        storage.check_tensors("mask", found, self._shapes())
        for name, tensor in mask.items():
            if tensor.dtype != torch.bool:
                raise PathwaysError(f"mask: {name} is {tensor.dtype}, not torch.bool")
        self._bank.put(key, (mask[target.name].to(target.parameter.device) for target in self._targets))
        self._after_new_masks()

    def masks_from(self, source: Pathways | str | Path) -> list[str]:
        """Takes the masks of other pathways of the same model, or of a folder that `save` wrote.

        A language takes its own mask there, or the shared one. This is how dynamic pathways start from masks
        of language-specific (LSP) or language-agnostic (LAP) pruning; call it once for each such run.

        Returns:
            The languages that got a mask; the others keep theirs.

        Raises:
            PathwaysError: if no language is in both, or the tensors differ.
        """
        self._require_dense("masks_from()")
        if isinstance(source, Pathways):
            description, packed, where = source._describe(), source._packed(), "masks_from"
        else:
            (description, packed), where = storage.read_folder(Path(source)), str(source)
        storage.check_tensors(where, description.tensors, self._shapes())
        common = [language for language in self._languages if language in description.languages]
        if not common:
            raise PathwaysError(
                f"{where}: has {', '.join(description.languages)}, none of {', '.join(self._languages)}"
            )
        if self._config.shared and len(packed) > 1:
            raise PathwaysError(f"{where}: has {len(packed)} masks, and here all languages share one")
        for language in common:
            self._put_packed({self._key(language): packed[SHARED if description.config.shared else language]})
        self._after_new_masks()
        return common

    def overlap(self) -> dict[tuple[str, str], float]:
        """Intersection over union of the masks of every pair of languages; 1.0 means that they are the same."""
        return overlaps(self._bank, self._own_masks())

    def summary(self) -> Summary:
        """Sparsities by language and tensor, union density, mean overlap, bytes of masks."""
        return summarize(self._bank, self._targets, self._own_masks())

    # --- keeping --------------------------------------------------------------------------------------------

    def extract(self, language: str) -> dict[str, Tensor]:
        """A copy of the model's state_dict with the zeros of ``language`` written in."""
        self._require_dense("extract()")
        state = {name: value.clone() for name, value in self._model.state_dict().items()}
        for target, mask in zip(self._targets, self._bank.unpacked(self._key(language)), strict=True):
            for name in target.names:
                state[name].masked_fill_(~mask.to(state[name].device), 0)
        return state

    def save(self, folder: str | Path) -> None:
        """Writes masks, config and clocks to ``folder`` (pathways.json, masks.safetensors), whole or not at all.

        The weights are the model's to save; what training needs beside is in `state_dict`.

        Raises:
            PathwaysError: if the folder cannot be written or holds other files.
        """
        storage.write_folder(Path(folder), self._describe(), self._packed())

    def load_masks(self, folder: str | Path) -> None:
        """Goes back to the masks and clocks that these pathways once saved to ``folder``; weights stay.

        Raises:
            PathwaysError: if the folder is not one that `save` wrote, or is of other languages or another model.
        """
        self._require_dense("load_masks()")
        description, packed = storage.read_folder(Path(folder))
        if description.languages != self._languages or description.config.shared != self._config.shared:
            raise PathwaysError(f"{folder}: has other pathways ({', '.join(description.languages)}): use masks_from")
        self._restore(description, packed, str(folder))

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming exactly needs, as of the last finished `step`.

        Only tensors, dicts, lists, numbers and strings: `torch.load(..., weights_only=True)` reads it back.
        """
        return {
            "config": self._config.model_dump(mode="json"),
            "languages": list(self._languages),
            "shapes": {name: list(shape) for name, shape in self._shapes().items()},
            "step": self._step,
            "own_steps": dict(self._own_steps),
            "sparsity": self._sparsity,
            "masks": self._packed(),
            "statistics": self._statistics.state_dict(),
            "start": dict(self._start),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict` of pathways with the same config, languages and tensors.

        Raises:
            PathwaysError: if it is of others.
        """
        self._require_dense("load_state_dict()")
        storage.check_config("state of pathways", state.get("config"), self._config)
        if state["languages"] != list(self._languages):
            raise PathwaysError(f"state of pathways: its languages are {', '.join(state['languages'])}")
        storage.check_tensors("state of pathways", state["shapes"], self._shapes())
        self._put_packed(state["masks"])
        self._statistics.load_state_dict(state["statistics"])
        self._step = int(state["step"])
        self._own_steps = {key: int(state["own_steps"][key]) for key in self._keys}
        self._sparsity = float(state["sparsity"])
        self._start = {name: value.detach().clone() for name, value in state["start"].items()}
        self._forget()

    def detach(self) -> None:
        """Takes every hook off the model and frees what was kept beside it; the weights stay dense."""
        self._require_dense("detach()")
        self._attached = False
        for remove in self._removers:
            remove()
        self._removers = []
        self._weights.release()

    def __repr__(self) -> str:
        return (
            f"Pathways({', '.join(self._languages)}: {len(self._targets)} tensors at sparsity {self._sparsity:g}, "
            f"step {self._step})"
        )

    # --- inside ---------------------------------------------------------------------------------------------

    def _key(self, language: str) -> str:
        if language not in self._languages:
            raise PathwaysError(f"unknown language {language!r}: the pathways are {', '.join(self._languages)}")
        return SHARED if self._config.shared else language

    def _own_masks(self) -> dict[str, str]:
        return {language: self._key(language) for language in self._languages}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {target.name: tuple(target.shape) for target in self._targets}

    def _describe(self) -> storage.Description:
        return storage.Description(
            config=self._config,
            languages=self._languages,
            tensors=self._shapes(),
            step=self._step,
            own_steps=self._own_steps,
            current_sparsity=self._sparsity,
        )

    def _packed(self) -> storage.PackedMasks:
        return {key: dict(zip(self.names, self._bank.packed(key), strict=True)) for key in self._keys}

    def _restore(self, description: storage.Description, packed: storage.PackedMasks, where: str) -> None:
        storage.check_tensors(where, description.tensors, self._shapes())
        self._put_packed(packed)
        self._step = description.step
        self._own_steps = dict(description.own_steps)
        self._sparsity = description.current_sparsity
        self._forget()

    def _forget(self) -> None:
        """Drops what belongs to an unfinished step."""
        self._trained.clear()
        self._gradients.forget()

    def _put_packed(self, packed: storage.PackedMasks) -> None:
        for key, held in packed.items():
            self._bank.put_packed(key, [held[name] for name in self.names])

    def _require_dense(self, what: str) -> None:
        if self._in_use is not None:
            raise PathwaysError(f"{what} inside use({self._in_use!r}): leave that block first, its weights are masked")
        if not self._attached:
            raise PathwaysError(f"{what} after detach: attach or load the pathways again")

    def _hook(self) -> None:
        """Puts the hooks that score and policy need on the model; one that is only evaluated carries none."""
        if not self._hooked:
            self._removers += self._statistics.hook()
            if self._policy.freezes or self._config.score == "gradient":
                self._removers += self._weights.hook_gradients(self._gradients.hooks())
            self._hooked = True

    def _prune(self, sparsity: float, optimizer: Optimizer | None) -> list[MaskEvent]:
        self._sparsity = sparsity
        events = []
        for key in self._keys:
            score, new = self._chooser.prune(key, sparsity, self._bank.unpacked(key))
            events.append(self._take(key, "prune", score, new, optimizer))
        if self._config.rewind and self._step > 0:
            if not self._start:
                raise PathwaysError("rewind: saved pathways do not keep the starting weights: resume the training run")
            rewind(self._model, self._start, optimizer)
        return events

    def _adapt(self, key: str, optimizer: Optimizer | None) -> MaskEvent:
        others = [other for other in self._keys if other != key]
        score, new = self._chooser.adapt(
            key, self._sparsity, self._bank.unpacked(key), self._own_steps[key], partial(self._bank.share, others)
        )
        return self._take(key, "adapt", score, new, optimizer)

    def _take(
        self, key: str, kind: Literal["prune", "adapt"], score: str, new: Iterator[Tensor], optimizer: Optimizer | None
    ) -> MaskEvent:
        before = self._bank.packed(key)
        union_before = self._bank.packed_union(self._keys)
        self._bank.put(key, new)
        after = self._bank.packed(key)
        if self._config.revived == "reset" and optimizer is not None:
            revived = [bits & ~held for bits, held in zip(after, union_before, strict=True)]
            reset_revived(optimizer, self._targets, self._bank.unpack(revived))
        self._after_new_masks()
        return MaskEvent(
            kind=kind,
            language=None if self._config.shared else key,
            step=self._step,
            sparsity=1 - sum(map(masks.popcount, after)) / self._bank.weights,
            changed=sum(masks.popcount(a ^ b) for a, b in zip(before, after, strict=True)) / self._bank.weights,
            score=score,
            union_density=union_density(self._bank, self._keys),
            mean_iou=None if self._config.shared else mean_iou(self._bank, self._own_masks()),
            rewound=kind == "prune" and self._config.rewind and self._step > 0,
        )

    def _after_new_masks(self) -> None:
        if self._policy.writes_zeros:
            self._weights.write_zeros(self._bank.unpacked(self._keys[0]))
