"""The state of pathways: all that outlives a step, and how it is saved and loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import storage
from asr_pathways.pruning.config import SHARED, PathwayConfig
from asr_pathways.pruning.extension import Extension
from asr_pathways.pruning.granularity import parse_granularity
from asr_pathways.pruning.masks import PackedMasks, unpack
from asr_pathways.pruning.observe import Observations
from asr_pathways.pruning.prunable import in_the_middle, to_prune
from asr_pathways.pruning.scores import SCORES


class State:
    """Masks, clocks and observations of the pathways of a model, and the languages that were added to them.

    Attributes:
        languages: in order; those that were added come last.
        keys: the names of the masks: the languages, or the one name of the mask that they share.
        step, own_steps: steps done: all, and by mask.
        sparsity: that pruning has reached.
        middle: the tensors, by index, whose masks are the same for all languages (`PathwayConfig.shared_middle`).
        start: the weights to which `rewind` goes back.
    """

    def __init__(self, model: nn.Module, config: PathwayConfig, languages: Sequence[str]) -> None:
        """Every mask is dense, and nothing was observed or done yet."""
        self.config = config
        self.keys = config.pathways(languages)
        self.languages = tuple(languages)
        self.granularity = parse_granularity(config.granularity)
        self.prunable = to_prune(model, config)
        self.masks = PackedMasks(self.prunable, self.keys)
        self.middle = in_the_middle(model, self.prunable) if config.shared_middle else frozenset[int]()
        if config.shared_middle and not self.middle:
            raise PathwaysError("shared_middle: the model has no list of three or more layers: leave it out")
        self.observations = Observations(SCORES[config.score], self.prunable)
        self.extension = Extension(model, config, self.prunable, self.masks)
        self.step = 0
        self.own_steps = dict.fromkeys(self.keys, 0)
        self.sparsity = 0.0
        self.start: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.prunable)

    @property
    def device(self) -> torch.device:
        return self.prunable[0].parameter.device

    @property
    def by_language(self) -> dict[str, str]:
        """{language: the name of its mask}."""
        return {language: self.key(language) for language in self.languages}

    def key(self, language: str) -> str:
        """The name of a language's mask; raises PathwaysError on an unknown language."""
        if language not in self.languages:
            raise PathwaysError(f"unknown language {language!r}: the pathways are {', '.join(self.languages)}")
        return SHARED if self.config.shared else language

    def trainable_key(self, language: str, what: str) -> str:
        """`key`, but raises PathwaysError too if another language was added after this one, which ends its training."""
        key = self.key(language)
        self.extension.require_last(language, what)
        return key

    def sparsity_of(self, key: str) -> float:
        """The sparsity that the mask ``key`` is to have at present."""
        return self.extension.added[key].sparsity if key in self.extension.added else self.sparsity

    def adapts_next(self, key: str) -> bool:
        """Whether the next step of the mask's language is one after which the mask is chosen again."""
        return self.sparsity_of(key) > 0 and self.config.adapts_at(self.own_steps[key] + 1)

    def chooses_again(self, key: str) -> bool:
        """Whether the config has the mask ``key`` chosen once more: by a stage, or where it adapts."""
        config = self.config
        stages_end = config.prune_start + (len(config.stages) - 1) * (config.prune_every or 0)
        adapts = config.adapt_every is not None and self.own_steps[key] < (config.adapt_until or sys.maxsize)
        return adapts or self.step < stages_end

    def add(self, language: str, addition: storage.Addition) -> None:
        """One more language; its mask is still to be put into ``masks``."""
        self.extension.add(language, addition)
        self.languages += (language,)
        self.keys += (language,)
        self.own_steps[language] = 0
        self.start = {}  # nothing is pruned any more, so nothing rewinds

    @classmethod
    def stored_in(cls, model: nn.Module, stored: storage.Stored, where: str) -> State:
        """The state that `stored` returned; raises PathwaysError if it is of another model."""
        description = stored.description
        first = len(description.languages) - len(description.added)
        state = cls(model, description.config, description.languages[:first])
        for language, addition in description.added.items():
            state.add(language, addition)
        state.restore(stored, where)
        return state

    def stored(self) -> storage.Stored:
        """What `Pathways.save` writes; the tensors of masks are not copied."""
        description = storage.Description(
            config=self.config,
            languages=self.languages,
            tensors=self._shapes(),
            step=self.step,
            own_steps=self.own_steps,
            current_sparsity=self.sparsity,
            added=self.extension.added,
        )
        return storage.Stored(description, self._packed(), self.extension.state())

    def restore(self, stored: storage.Stored, where: str) -> None:
        """Goes back to what `stored` returned; raises PathwaysError if it is of other pathways or another model."""
        description = stored.description
        stored_pathways = description.languages, description.config.shared, list(description.added)
        if stored_pathways != (self.languages, self.config.shared, list(self.extension.added)):
            raise PathwaysError(f"{where}: has other pathways ({', '.join(description.languages)}): use masks_from")
        self._check_tensors(where, description.tensors)
        self.extension.load_state(description.added, stored.language_tensors, where)
        self._put_packed(stored.masks)
        self.step = description.step
        self.own_steps = dict(description.own_steps)
        self.sparsity = description.current_sparsity

    def copy_masks(self, stored: storage.Stored, where: str) -> list[str]:
        """See `Pathways.masks_from`."""
        description = stored.description
        self._check_tensors(where, description.tensors)
        trainable = [language for language in self.languages if not self.extension.is_fixed(language)]
        common = [language for language in trainable if language in description.languages]
        if not common:
            raise PathwaysError(f"{where}: has {', '.join(description.languages)}, none of {', '.join(trainable)}")
        if self.config.shared and len(stored.masks) > 1:
            raise PathwaysError(f"{where}: has {len(stored.masks)} masks, and here all languages share one")
        sources = {language: SHARED if description.config.shared else language for language in common}
        for name in (self.prunable[index].name for index in sorted(self.middle)):
            if len(common) < len(self.languages):
                raise PathwaysError(f"{where}: has {', '.join(common)} alone, and here all share the mask of {name}")
            first, *others = [stored.masks[source][name] for source in sources.values()]
            if not all(torch.equal(first, other) for other in others):
                raise PathwaysError(f"{where}: has a mask of {name} for each language, and here they share that")
        for source in dict.fromkeys(sources.values()):
            for index, one in enumerate(self.prunable):
                part = self.granularity.parts[index % len(self.granularity.parts)]
                if not part.fits(unpack(stored.masks[source][one.name], one.shape)):
                    raise PathwaysError(
                        f"{where}: its masks are not of granularity {self.config.granularity}, as that of {one.name}: "
                        "prune with the same granularity"
                    )
        for language, source in sources.items():
            self._put_packed({self.key(language): stored.masks[source]})
        return common

    def share_middle(self, key: str) -> None:
        """Gives all languages the mask ``key`` of the tensors of which they share one."""
        source = self.masks.packed(key)
        for other in self.keys if self.middle else ():
            present = self.masks.packed(other)
            self.masks.put_packed(other, [source[i] if i in self.middle else present[i] for i in range(len(present))])

    def set_mask(self, language: str, mask: Mapping[str, Tensor]) -> None:
        """See `Pathways.set_mask`."""
        key = self.trainable_key(language, "set_mask")
        self._check_tensors("mask", {name: tuple(tensor.shape) for name, tensor in mask.items()})
        for name, tensor in mask.items():
            if tensor.dtype != torch.bool:
                raise PathwaysError(f"mask: {name} is {tensor.dtype}, not torch.bool")
        masks = [mask[one.name] for one in self.prunable]
        self._check_units("mask", masks)
        self.masks.put(key, (one.to(each.parameter.device) for one, each in zip(masks, self.prunable, strict=True)))
        self.share_middle(key)

    def state_dict(self) -> dict[str, Any]:
        """Only tensors, dicts, lists, numbers and strings."""
        return {
            "config": self.config.model_dump(mode="json"),
            "languages": list(self.languages),
            "shapes": {name: list(shape) for name, shape in self._shapes().items()},
            "step": self.step,
            "own_steps": dict(self.own_steps),
            "sparsity": self.sparsity,
            "masks": self._packed(),
            "statistics": {key: self.observations.state(key) for key in self.keys},
            "start": dict(self.start),
            "added": {language: addition.model_dump() for language, addition in self.extension.added.items()},
            "own": self.extension.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pathways.load_state_dict`."""
        where = "state of pathways"
        storage.check_config(where, state.get("config"), self.config)
        if state["languages"] != list(self.languages):
            raise PathwaysError(f"{where}: its languages are {', '.join(state['languages'])}")
        added = {one: parse_config(storage.Addition, how, where) for one, how in state["added"].items()}
        if list(added) != list(self.extension.added):
            raise PathwaysError(f"{where}: the languages added to it are {', '.join(added) or 'none'}")
        self._check_tensors(where, state["shapes"])
        self.extension.load_state(added, state["own"], where)
        self._put_packed(state["masks"])
        for key in self.keys:
            self.observations.load_state(key, state["statistics"][key])
        self.step = int(state["step"])
        self.own_steps = {key: int(state["own_steps"][key]) for key in self.keys}
        self.sparsity = float(state["sparsity"])
        self.start = {name: value.detach().clone() for name, value in state["start"].items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {one.name: tuple(one.shape) for one in self.prunable}

    def _check_tensors(self, where: str, shapes: Mapping[str, Sequence[int]]) -> None:
        storage.check_tensors(where, shapes, self._shapes())

    def _packed(self) -> storage.ByLanguage:
        return {key: dict(zip(self.names, self.masks.packed(key), strict=True)) for key in self.keys}

    def _put_packed(self, packed: storage.ByLanguage) -> None:
        for key, named in packed.items():
            ordered = [named[name] for name in self.names]
            if len(self.granularity.parts) > 1:
                self._check_units(f"mask of {key}", self.masks.unpack(ordered))
            self.masks.put_packed(key, ordered)

    def _check_units(self, where: str, masks: Sequence[Tensor]) -> None:
        """Raises PathwaysError unless weights that share their units have the same ones whole: not all are masked."""
        parts = self.granularity.parts
        for start in range(0, len(masks) if len(parts) > 1 else 0, len(parts)):
            group = masks[start : start + len(parts)]
            units = parts[0].pool(group[0].float()) > 0
            if not all(torch.equal(part.expand(units, one.shape), one) for part, one in zip(parts, group, strict=True)):
                names = " and ".join(self.names[start : start + len(parts)])
                raise PathwaysError(f"{where}: does not keep whole {self.config.granularity} of {names}")
