"""Pathways: sparse sub-networks of one model, one for each language, that adapt while they train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asr_pathways import ranks
from asr_pathways.errors import PathwaysError
from asr_pathways.mixed_batches import MixedBatch
from asr_pathways.pruning import storage
from asr_pathways.pruning.active import ActivePathway
from asr_pathways.pruning.config import POLICIES, SHARED, PathwayConfig
from asr_pathways.pruning.masks import pack, popcount
from asr_pathways.pruning.selection import Factor, MaskSelector
from asr_pathways.pruning.state import State
from asr_pathways.pruning.summary import MaskEvent, Summary, mean_iou, overlaps, summarize
from asr_pathways.pruning.weights import MaskedWeights, copy_weights, no_autograd, reset_revived, rewind

_MEANT = {
    "masks": "mask(language), or masks_of(name of a tensor)",
    "density": "summary().union_density, or 1 - sparsity",
    "iou": "overlap()",
}
"""What is meant by names that it has not."""


class Pathways:
    """The masks of a model, its languages, and the clocks by which they change.

    Make one with `attach` (masks are chosen there and then) or `load`. The model's parameters and state_dict
    stay as they are: masks are multiplied in while a pathway is in use, and the dense values are back after.

        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, adapt_every=100), ["en", "fr"])
        with pathways.use("fr"):
            loss = model(batch)
            loss.backward()
        optimizer.step()
        pathways.step(optimizer)

    Under DistributedDataParallel, attach to the model before it is wrapped and call `step` on every rank: all then
    choose the same masks, whatever languages their batches are of. Parameters sharded over ranks are not supported.
    """

    def __init__(self, model: nn.Module, state: State) -> None:
        """Use `attach` or `load`."""
        self._model = model
        self._state = state
        self._config = state.config
        self._masks = state.masks
        self._weights = MaskedWeights(state.prunable, state.granularity)
        self._active = ActivePathway(model, state, self._weights)
        sharing = dict.fromkeys(state.middle, state.keys)
        self._selector = MaskSelector(state.config, state.prunable, state.observations, sharing)

    @classmethod
    def attach(cls, model: nn.Module, config: PathwayConfig, languages: Sequence[str]) -> Pathways:
        """One pathway of ``model`` for each language, pruned at once if the schedule starts at step 0.

        These first masks are chosen by magnitude whatever the score is; see `calibrate` and `masks_from` for better.

        Raises:
            PathwaysError: if there is nothing to prune, or the languages or patterns make no sense.
        """
        pathways = cls(model, State(model, config, languages))
        if config.rewind:
            pathways._state.start = copy_weights(model)
        stage = config.stage_at(0)
        if stage is not None:
            pathways._state.sparsity = stage
            mask = pathways._new_mask(pathways._state.keys[0], stage)
            for key in pathways._state.keys:  # magnitudes are the same for every language
                pathways._masks.put_packed(key, mask)
            pathways._after_new_masks(first=True)
        return pathways

    @classmethod
    def load(cls, model: nn.Module, folder: str | Path) -> Pathways:
        """Attaches what `save` wrote to a model of the same tensors; the weights are left as they are.

        Raises:
            PathwaysError: if the folder is not one that `save` wrote, or is of another model.
        """
        return cls.from_stored(model, storage.read_folder(Path(folder)), str(folder))

    @classmethod
    def from_stored(cls, model: nn.Module, stored: storage.Stored, where: str) -> Pathways:
        """`load` from memory; raises PathwaysError, which names ``where``, if it is of another model."""
        return cls(model, State.stored_in(model, stored, where))

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def config(self) -> PathwayConfig:
        return self._config

    @property
    def languages(self) -> tuple[str, ...]:
        return self._state.languages

    @property
    def added(self) -> tuple[str, ...]:
        """The languages of `add`, in order; only the last of them can be trained."""
        return tuple(self._state.extension.added)

    @property
    def names(self) -> tuple[str, ...]:
        """The prunable tensors, by their first names in the model."""
        return self._state.names

    @property
    def sparsity(self) -> float:
        """The sparsity that pruning has reached; `config.sparsity` once the schedule has run out."""
        return self._state.sparsity

    @property
    def at_target(self) -> bool:
        """Whether pruning has reached `config.sparsity`; masks may still adapt."""
        return self._state.sparsity == self._config.sparsity

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._state.step

    @overload
    def use(self, language: str) -> AbstractContextManager[None]: ...

    @overload
    def use(self, language: list[str] | tuple[str, ...]) -> AbstractContextManager[MixedBatch]: ...

    def use(self, language: str | list[str] | tuple[str, ...]) -> AbstractContextManager[MixedBatch | None]:
        """The model is the sub-network of ``language`` inside the block; the dense weights are back after.

        Run forward and backward inside it. A backward pass outside is an error of autograd's, because the weights
        have changed; only with activation checkpointing, which recomputes from the present weights, are gradients
        wrong without an error. Under gradient policy ``parp`` the model stays dense in training mode.

        A block that ends with an error counts as no training; gradients that it left are the caller's to clear.

        For a batch of several languages pass the language of each row; the block then yields a `MixedBatch`, which
        calls functions with each row in the pathway of its language:

            with pathways.use(["en", "fr", "en"]) as rows:
                loss = criterion(rows(model, features), targets)
                loss.backward()

        Raises:
            PathwaysError: on an unknown language, inside another `use`, where `step` was forgotten, or in training
                mode on a language after which another was added; at the end of the block, if masked weights were
                changed in it, as by ``optimizer.step()`` or ``load_state_dict``: that would be lost.
        """
        return self._active.use(language) if isinstance(language, str) else self._active.use_mixed(language)

    def calibrate(self, language: str) -> AbstractContextManager[None]:
        """Observes what the score needs of ``language`` while the model runs inside the block, in any mode.

        For score ``activation`` run forward passes, for those of gradients backward passes as well; then `adapt`.
        The model runs with the weights it has: dense, or a pathway's inside `use`. What ``fisher`` needs, as much as
        there are weights, is dropped by the first `step` after which the config chooses the mask no more.

        Raises:
            PathwaysError: on an unknown language, or if the score needs nothing, as ``magnitude`` does.
        """
        return self._active.calibrate(language)

    def unpadded(self, positions: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """What is observed of layers' inputs inside the block leaves padding out, where ``positions`` tell it.

        Args:
            positions: {pattern of modules, as in `PathwayConfig.include`: bool, True at what is not padding}. The first
                pattern that matches counts, for inputs of that shape but for their channels, such as (B, T) for
                (B, T, C) and a convolution's (B, C, T); inputs of another shape are observed whole. In a batch of
                several languages, those of all its rows.

        Raises:
            PathwaysError: if positions are numbers, as transformers' attention masks are: they would be indices.
        """
        for pattern, marked in positions.items():
            if marked.dtype != torch.bool:
                raise PathwaysError(f"unpadded: {pattern} is {marked.dtype}, not torch.bool: pass mask.bool()")
        return self._state.observations.unpadded(positions)

    def step(self, optimizer: Optimizer | None = None) -> list[MaskEvent]:
        """Call it after every ``optimizer.step()``: advances the clocks, prunes and adapts when due.

        Under policy ``frozen`` it also undoes what weight decay and momentum did to frozen weights: those in
        none of the masks used since the last call. Once a language was added, it does so under every policy for
        the weights that the languages before it keep.

        Args:
            optimizer: needed if ``rewind``, or ``revived="reset"``, so that its state can follow.

        Returns:
            The masks that changed, in order.

        Raises:
            PathwaysError: inside `use`, if no pathway was used in training mode since the last call, if the
                optimizer is needed and missing, or if the ranks of a run chose different masks, which are compared
                by checksum each time.
        """
        self._active.require_dense("step()")
        if optimizer is None and (self._config.rewind or self._config.revived == "reset"):
            raise PathwaysError("step(): pass the optimizer, whose state is to follow rewound or revived weights")
        state = self._state
        trained = self._active.end_step()
        if not trained:
            raise PathwaysError("step(): no pathway was used in training mode: call model.train(), then run in use()")
        adapting = [key for key in trained if state.adapts_next(key)]
        state.step += 1
        for key in trained:
            state.own_steps[key] += 1
        stage = None if state.extension else self._config.stage_at(state.step)
        if stage is not None:
            events = self._prune(stage, optimizer)
        else:
            events = [self._adapt(key, optimizer) for key in adapting]
        for observer in state.observations:
            observer.end_step()
            for key in trained:
                if observer.large and not state.chooses_again(key):
                    observer.clear(key)
        for key in [event.language or SHARED for event in events]:
            parts = zip(state.names, self._masks.packed(key), strict=True)
            ranks.require_same(f"step {self.steps}: the mask of {key} for", parts, state.device)
        return events

    def drop_step(self) -> None:
        """Instead of `step`, where the optimizer made none: no clock advances for what ran since the last one.

        Raises:
            PathwaysError: inside `use`, or if the weights have changed.
        """
        self._active.require_dense("drop_step()")
        self._active.require_stepped()
        self._active.forget()

    def adapt(self, language: str, optimizer: Optimizer | None = None) -> MaskEvent:
        """Chooses the mask of ``language`` again at the present sparsity (for all, if they share it).

        Raises:
            PathwaysError: on an unknown language or one after which another was added, inside `use`, or if what the
                score needs was not observed yet.
        """
        self._active.require_dense("adapt()")
        key = self._state.trainable_key(language, "adapt")
        if optimizer is None and self._config.revived == "reset" and self._state.step > 0:
            raise PathwaysError("adapt(): pass the optimizer, whose state is to follow revived weights")
        self._state.observations.commit([key])  # those of an unfinished step as well
        with self._weights.before_zeros():
            return self._adapt(key, optimizer)

    def prune(self, sparsity: float) -> list[MaskEvent]:
        """Chooses all masks at another sparsity; at a higher one, among the weights that each keeps.

        For a model that gets sparse in stages outside of training, with refitting between them. Before the
        `config.sparsity` is reached, what was observed is forgotten then: it is of another network.

        Raises:
            PathwaysError: if it is not in [0, `config.sparsity`], inside `use`, or if a language was added.
        """
        self._active.require_dense("prune()")
        state = self._state
        if not 0 <= sparsity <= self._config.sparsity:
            raise PathwaysError(f"prune({sparsity:g}): the sparsity is to be from 0 to {self._config.sparsity:g}")
        if self.added:
            raise PathwaysError(f"prune(): {self.added[0]!r} was added: the pathways before it must stay as they are")
        narrows, state.sparsity = sparsity > state.sparsity, sparsity
        state.observations.commit(state.keys)
        events = []
        for key in state.keys:
            with self._weights.before_zeros():
                score, new = self._selector.prune(key, sparsity, self._masks.unpacked(key), narrows=narrows)
                events.append(self._replace_mask(key, "prune", score, new, None))
            parts = zip(state.names, self._masks.packed(key), strict=True)
            ranks.require_same(f"prune: the mask of {key} for", parts, state.device)
        if not self.at_target:
            state.observations.clear(state.keys)
        return events

    def add(self, language: str, sparsity: float | None = None, *, reuse: float = 1.0) -> None:
        """Adds a language; the outputs of those that are there stay the same bit for bit.

        The new pathway may use every weight. Training it moves only weights that no other pathway keeps, and
        its copies of everything outside the masks (norms, biases, embeddings and the like), which are in the
        model while it is in use. From here on only this language trains; it is not pruned further and adapts by
        the config. Its first mask is chosen by magnitude; see `calibrate` and `adapt` for better ones.

        Pass `parameters` of the language to the optimizer. Gradients of an unfinished step are dropped. The copies
        are unknown to DistributedDataParallel: train an added language in one process.

        Args:
            sparsity: of its mask; by default the config's.
            reuse: 0 to 1: factor of the scores of weights that other pathways keep, when its mask is chosen. Such
                weights, which do not train, are the largest: at 1 they may be all that it keeps. Swaps of score
                ``gradient`` ignore it.

        Raises:
            PathwaysError: if it is there already, if pruning or a step is not finished, if fewer weights are free
                than its mask keeps, or if the languages share a mask or train densely (``parp``).
        """
        self._active.require_dense("add()")
        self._active.require_stepped()
        state = self._state
        addition = state.extension.check(state.languages, state.sparsity, language, sparsity, reuse)
        packed = self._new_mask(language, addition.sparsity, state.extension.factor(addition, state.keys))
        self._model.zero_grad(set_to_none=True)
        self._active.forget()
        self._active.unhook()  # other gradients are to be masked from here on
        state.add(language, addition)
        self._masks.put_packed(language, packed)

    def parameters(self, language: str) -> dict[str, nn.Parameter]:
        """{name: parameter} that training ``language`` moves, for an optimizer.

        Of a language that was added: the prunable weights and its copies of the other parameters; else all.

        Raises:
            PathwaysError: on an unknown language, or one after which another was added.
        """
        self._state.trainable_key(language, "parameters")
        if language not in self.added:
            return dict(self._model.named_parameters())
        prunable = {one.name: one.parameter for one in self._state.prunable}
        copies = self.language_tensors(language)
        return prunable | {name: tensor for name, tensor in copies.items() if isinstance(tensor, nn.Parameter)}

    def language_tensors(self, language: str) -> dict[str, Tensor]:
        """{name in the model: copy of a parameter or buffer} of a language that was added; none of another."""
        return self._state.extension.tensors(self._state.key(language))

    def set_language_tensors(self, language: str, tensors: Mapping[str, Tensor]) -> None:
        """Replaces `language_tensors` by copies of ``tensors``, by their names in the model.

        They may have other sizes, such as more rows of an embedding and of the output layer. A parameter becomes
        a new parameter: do it before the optimizer is made.

        Raises:
            PathwaysError: if the language has no such tensor or one of another number of dimensions, inside `use`,
                or if another language was added after it.
        """
        self._active.require_dense("set_language_tensors()")
        self._state.trainable_key(language, "set_language_tensors")
        self._state.extension.replace(language, tensors)

    def mask(self, language: str) -> dict[str, Tensor]:
        """{tensor's name: bool tensor of its shape}; True is kept. The tensors are copies."""
        packed = self._masks.packed(self._state.key(language))
        return dict(zip(self.names, self._masks.unpack(packed), strict=True))

    def masks_of(self, name: str) -> dict[str, Tensor]:
        """{language: bool mask} of one prunable tensor."""
        index, masks = self.names.index(name), self._masks
        return {lang: masks.unpack_one(masks.packed(key), index) for lang, key in self._state.by_language.items()}

    def set_mask(self, language: str, mask: Mapping[str, Tensor]) -> None:
        """Replaces a language's mask by ``mask``: {tensor's name: bool tensor}, with every prunable tensor.

        What all languages share of it (`PathwayConfig.shared_middle`) is replaced for all.

        Raises:
            PathwaysError: if a tensor is missing, unknown, not bool, or of another shape, or if another language
                was added after this one.
        """
        self._active.require_dense("set_mask()")
        self._state.set_mask(language, mask)
        self._after_new_masks()

    def masks_from(self, source: Pathways | str | Path) -> list[str]:
        """Copies the masks of other pathways of the same model, or of a folder that `save` wrote.

        A language gets its mask there, or the shared one. This is how dynamic pathways start from masks of
        language-specific (LSP) or language-agnostic (LAP) pruning; call it once for each such run.

        Returns:
            The languages that got a mask; the others keep theirs, as do those after which one was added.

        Raises:
            PathwaysError: if no language is in both, or the tensors differ, or the granularity of the masks.
        """
        self._active.require_dense("masks_from()")
        if isinstance(source, Pathways):
            languages = self._state.copy_masks(source.stored(), "masks_from")
        else:
            languages = self._state.copy_masks(storage.read_folder(Path(source)), str(source))
        self._after_new_masks()
        return languages

    def overlap(self) -> dict[tuple[str, str], float]:
        """Intersection over union of the masks of every pair of languages; 1.0 means that they are the same."""
        return overlaps(self._masks, self._state.by_language)

    def neurons(self, language: str) -> dict[str, Tensor]:
        """Of granularity ``neurons``: {first weight of a pair, by name: bool (N,), True at kept ones}; else nothing."""
        if len(self._state.granularity.parts) == 1:
            return {}
        mask = self.mask(language)
        return {name: mask[name].any(dim=1) for name in self.names[::2]}

    def summary(self) -> Summary:
        """Sparsities by language and tensor, union density, mean overlap, bytes of masks."""
        return summarize(self._masks, self._state.prunable, self._state.by_language)

    def extract(self, language: str) -> dict[str, Tensor]:
        """A copy of the model's state_dict with the zeros of ``language`` and its tensors outside the masks.

        Raises:
            PathwaysError: if parameters were renamed since the pathways were attached, as PEFT does.
        """
        self._active.require_dense("extract()")
        key = self._state.key(language)
        with self._state.extension.in_place(key):
            state = {name: value.clone() for name, value in self._model.state_dict().items()}
        for one, mask in zip(self._state.prunable, self._masks.unpacked(key), strict=True):
            for name in one.names:
                if name not in state:
                    raise PathwaysError(f"extract(): the model has no {name} any more: extract before it is wrapped")
                state[name].masked_fill_(~mask.to(state[name].device), 0)
        return state

    def save(self, folder: str | Path) -> None:
        """Writes masks, config and clocks to ``folder`` (pathways.json, masks.safetensors), whole or not at all.

        The tensors of languages that were added go to own.safetensors. The weights are saved with the model; what
        resuming needs as well is in `state_dict`.

        Raises:
            PathwaysError: if the folder cannot be written or holds other files.
        """
        storage.write_folder(Path(folder), self._state.stored())

    def stored(self) -> storage.Stored:
        """The content of `save`, for other formats; masks are not copied."""
        return self._state.stored()

    def load_masks(self, folder: str | Path) -> None:
        """Goes back to the masks, clocks and copies that these pathways once saved to ``folder``; weights stay.

        Raises:
            PathwaysError: if the folder is not one that `save` wrote, or is of other languages or another model.
        """
        self._active.require_dense("load_masks()")
        self._state.restore(storage.read_folder(Path(folder)), str(folder))
        self._active.forget()
        self._after_loaded_masks()

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming exactly needs, as of the last finished `step`.

        Only tensors, dicts, lists, numbers and strings: `torch.load(..., weights_only=True)` reads it back.
        """
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict` of pathways with the same config, languages and tensors.

        Copies of added languages are written into the parameters that an optimizer may have already.

        Raises:
            PathwaysError: if it is of others.
        """
        self._active.require_dense("load_state_dict()")
        self._state.load_state_dict(state)
        self._active.forget()
        self._after_loaded_masks()

    def detach(self) -> None:
        """Removes every hook from the model and frees copies of its weights, which stay dense."""
        self._active.require_dense("detach()")
        self._active.detach()

    def __repr__(self) -> str:
        return (
            f"Pathways({', '.join(self.languages)}: {len(self.names)} tensors at sparsity {self.sparsity:g}, "
            f"step {self.steps})"
        )

    if not TYPE_CHECKING:  # which is to go on calling wrong names wrong

        def __getattr__(self, name: str) -> Any:
            near = _MEANT.get(name) or ", ".join(get_close_matches(name, dir(type(self)), 2))
            hint = f": use {near}" if near and not name.startswith("_") else ""
            raise AttributeError(f"Pathways has no {name!r}{hint}")

    def _new_mask(self, key: str, sparsity: float, factor: Factor | None = None) -> list[Tensor]:
        """The packed first mask of a pathway."""
        with no_autograd():
            return [pack(mask) for mask in self._selector.prune(key, sparsity, None, factor)[1]]

    def _prune(self, sparsity: float, optimizer: Optimizer | None) -> list[MaskEvent]:
        self._state.sparsity = sparsity
        events = []
        for key in self._state.keys:
            score, new = self._selector.prune(key, sparsity, self._masks.unpacked(key))
            events.append(self._replace_mask(key, "prune", score, new, optimizer))
        if self._config.rewind:
            if not self._state.start:
                raise PathwaysError("rewind: saved pathways do not keep the starting weights: resume the training run")
            rewind(self._model, self._state.start, optimizer)
        return events

    def _adapt(self, key: str, optimizer: Optimizer | None) -> MaskEvent:
        state = self._state
        factor = state.extension.factor(state.extension.added.get(key), [one for one in state.keys if one != key])
        present, steps = self._masks.unpacked(key), state.own_steps[key]
        score, new = self._selector.adapt(key, state.sparsity_of(key), present, steps, factor)
        return self._replace_mask(key, "adapt", score, new, optimizer)

    def _replace_mask(
        self, key: str, kind: Literal["prune", "adapt"], score: str, new: Iterator[Tensor], optimizer: Optimizer | None
    ) -> MaskEvent:
        state, config = self._state, self._config
        before = self._masks.packed(key)
        union_before = self._masks.packed_union(state.keys)
        self._masks.put(key, new)
        state.share_middle(key)
        after = self._masks.packed(key)
        if config.revived == "reset" and optimizer is not None:
            revived = [now & ~earlier for now, earlier in zip(after, union_before, strict=True)]
            reset_revived(optimizer, state.prunable, self._masks.unpack(revived))
        self._after_new_masks()
        return MaskEvent(
            kind=kind,
            language=None if config.shared else key,
            step=state.step,
            sparsity=1 - sum(map(popcount, after)) / self._masks.weights,
            changed=sum(popcount(a ^ b) for a, b in zip(before, after, strict=True)) / self._masks.weights,
            score=score,
            union_density=self._masks.union_density(state.keys),
            mean_iou=None if config.shared else mean_iou(self._masks, state.by_language),
            rewound=kind == "prune" and config.rewind,
        )

    def _after_new_masks(self, first: bool = False) -> None:
        if POLICIES[self._config.gradient].writes_zeros:
            self._weights.write_zeros(self._masks.unpacked(self._state.keys[0]), first)

    def _after_loaded_masks(self) -> None:
        if POLICIES[self._config.gradient].writes_zeros:
            self._weights.write_again(self._masks.unpacked(self._state.keys[0]))
