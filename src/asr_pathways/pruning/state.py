"""The state of pathways: all that outlives a step, and how it is kept and taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import storage
from asr_pathways.pruning.allocation import kept
from asr_pathways.pruning.bank import MaskBank
from asr_pathways.pruning.config import SHARED, PathwayConfig
from asr_pathways.pruning.granularity import NOfM, parse_granularity
from asr_pathways.pruning.masks import popcount
from asr_pathways.pruning.own import OwnTensors
from asr_pathways.pruning.policy import POLICIES
from asr_pathways.pruning.statistics import InputStatistics
from asr_pathways.pruning.targets import find_targets


class State:
    """Masks, clocks, statistics and own tensors of the pathways of a model.

    Attributes:
        languages: in order; those that were added come last.
        keys: the names of the masks: the languages, or the one name of the mask that they share.
        added: how each language was added that was, in order.
        step, own_steps: steps done: all, and by mask.
        sparsity: what pruning has reached.
        start: the weights to which `rewind` goes back.
    """

    def __init__(self, model: nn.Module, config: PathwayConfig, languages: Sequence[str]) -> None:
        """Every mask is dense, and nothing was seen or done yet."""
        self.config = config
        self.keys = config.pathways(languages)
        self.languages = tuple(languages)
        self.targets = find_targets(model, config.include, config.exclude)
        self.bank = MaskBank(self.targets, self.keys)
        self.statistics = InputStatistics(self.targets if config.score == "activation" else [], self.keys)
        self.own = OwnTensors(model, self.targets)
        self.added: dict[str, storage.Addition] = {}
        self.step = 0
        self.own_steps = dict.fromkeys(self.keys, 0)
        self.sparsity = 0.0
        self.start: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets)

    @property
    def masks(self) -> dict[str, str]:
        """{language: the name of its mask}."""
        return {language: self.key(language) for language in self.languages}

    def key(self, language: str) -> str:
        """The name of a language's mask.

        Raises:
            PathwaysError: on an unknown language.
        """
        if language not in self.languages:
            raise PathwaysError(f"unknown language {language!r}: the pathways are {', '.join(self.languages)}")
        return SHARED if self.config.shared else language

    def sparsity_of(self, key: str) -> float:
        """What the mask ``key`` is to have at present."""
        return self.added[key].sparsity if key in self.added else self.sparsity

    def reuse_of(self, key: str) -> float:
        """What scores of weights of earlier pathways are multiplied by when the mask ``key`` is chosen."""
        return self.added[key].reuse if key in self.added else 1.0

    def settled(self, language: str) -> bool:
        """Whether another language was added after ``language``, which therefore has to stay as it is."""
        return bool(self.added) and language != self.languages[-1]

    def require_open(self, language: str, what: str) -> None:
        """Raises PathwaysError if ``language`` is unknown or settled."""
        self.key(language)
        if self.settled(language):
            last = self.languages[-1]
            raise PathwaysError(
                f"{what}: {language!r} stays as it is since {last!r} was added after it: only {last!r} trains and "
                "changes now; to evaluate another, call model.eval() first"
            )

    def check_addition(self, language: str, sparsity: float | None, reuse: float) -> storage.Addition:
        """How ``language`` can be added; at the config's sparsity if None is given.

        Raises:
            PathwaysError: with the reason why it cannot.
        """
        config = self.config
        if config.shared:
            raise PathwaysError(f"add: all languages share one mask here, so {language!r} cannot have one of its own")
        if not POLICIES[config.gradient].masks_training:
            raise PathwaysError(
                f"add: gradient {config.gradient} trains all weights between two prunings, so the pathways that are "
                "there could not stay as they are: prune with gradient dense or frozen"
            )
        if language in self.languages:
            raise PathwaysError(f"add: {language!r} is there already: the pathways are {', '.join(self.languages)}")
        config.pathways([*self.languages, language])
        if self.sparsity != config.sparsity:
            raise PathwaysError(
                f"add: pruning has reached {self.sparsity:.1%} of {config.sparsity:.1%}: finish it before {language!r}"
            )
        asked = config.sparsity if sparsity is None else sparsity
        addition = parse_config(storage.Addition, {"sparsity": asked, "reuse": reuse}, "add")
        if isinstance(parse_granularity(config.granularity), NOfM) and asked != config.sparsity:
            raise PathwaysError(f"add: granularity {config.granularity} fixes sparsity to {config.sparsity:g}")
        weights = self.bank.weights
        keeps = kept(weights, asked)
        free = weights - sum(map(popcount, self.bank.packed_union(self.keys)))
        if free < keeps:
            raise PathwaysError(
                f"add: {language!r} asks for {keeps / weights:.1%} of the weights ({keeps:,}) and only "
                f"{free / weights:.1%} ({free:,}) are kept by no pathway yet: raise the sparsity"
            )
        return addition

    def add(self, language: str, addition: storage.Addition, packed: Sequence[Tensor]) -> None:
        """One more language: its packed mask, and copies of what is outside the masks."""
        self.own.add(language)
        self.statistics.add(language)
        self.bank.put_packed(language, packed)
        self.languages += (language,)
        self.keys += (language,)
        self.own_steps[language] = 0
        self.added[language] = addition
        self.start = {}  # nothing is pruned any more, so nothing rewinds

    # --- in a folder ----------------------------------------------------------------------------------------

    @classmethod
    def stored_in(cls, model: nn.Module, stored: storage.Stored, where: str) -> State:
        """The state that `stored` gave, of a model of the same tensors.

        Raises:
            PathwaysError: if it is of another model.
        """
        description = stored.description
        first = len(description.languages) - len(description.added)
        state = cls(model, description.config, description.languages[:first])
        state._check_tensors(where, description.tensors)
        for language, addition in description.added.items():
            state.add(language, addition, state._in_order(stored.masks[language]))
        state.restore(stored, where)
        return state

    def stored(self) -> storage.Stored:
        """What `save` writes down; the tensors of masks are not copied."""
        description = storage.Description(
            config=self.config,
            languages=self.languages,
            tensors=self._shapes(),
            step=self.step,
            own_steps=self.own_steps,
            current_sparsity=self.sparsity,
            added=self.added,
        )
        return storage.Stored(description, self._packed(), self._own_state())

    def restore(self, stored: storage.Stored, where: str) -> None:
        """Goes back to what `stored` gave.

        Raises:
            PathwaysError: if it is of other pathways or of another model.
        """
        description = stored.description
        theirs = description.languages, description.config.shared, list(description.added)
        if theirs != (self.languages, self.config.shared, list(self.added)):
            raise PathwaysError(f"{where}: has other pathways ({', '.join(description.languages)}): use masks_from")
        self._check_tensors(where, description.tensors)
        self._load_own(stored.own, where)
        self._put_packed(stored.masks)
        self.added = dict(description.added)
        self.step = description.step
        self.own_steps = dict(description.own_steps)
        self.sparsity = description.current_sparsity

    def take_masks(self, stored: storage.Stored, where: str) -> list[str]:
        """Takes the masks of other pathways of the same model; gives the languages that got one.

        Languages after which another was added keep theirs.

        Raises:
            PathwaysError: if no language is in both, or the tensors differ.
        """
        description = stored.description
        self._check_tensors(where, description.tensors)
        open_ = [language for language in self.languages if not self.settled(language)]
        common = [language for language in open_ if language in description.languages]
        if not common:
            raise PathwaysError(f"{where}: has {', '.join(description.languages)}, none of {', '.join(open_)}")
        if self.config.shared and len(stored.masks) > 1:
            raise PathwaysError(f"{where}: has {len(stored.masks)} masks, and here all languages share one")
        for language in common:
            theirs = SHARED if description.config.shared else language
            self._put_packed({self.key(language): stored.masks[theirs]})
        return common

    def check_mask(self, mask: Mapping[str, Tensor]) -> None:
        """Raises PathwaysError unless ``mask`` has every prunable tensor, bool and in its shape."""
        self._check_tensors("mask", {name: tuple(tensor.shape) for name, tensor in mask.items()})
        for name, tensor in mask.items():
            if tensor.dtype != torch.bool:
                raise PathwaysError(f"mask: {name} is {tensor.dtype}, not torch.bool")

    # --- in a checkpoint ------------------------------------------------------------------------------------

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
            "statistics": self.statistics.state_dict(),
            "start": dict(self.start),
            "added": {language: addition.model_dump() for language, addition in self.added.items()},
            "own": self._own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`.

        Raises:
            PathwaysError: if it is of pathways with another config, other languages or other tensors.
        """
        where = "state of pathways"
        storage.check_config(where, state.get("config"), self.config)
        if state["languages"] != list(self.languages):
            raise PathwaysError(f"{where}: its languages are {', '.join(state['languages'])}")
        added = state.get("added", {})  # not in checkpoints of older releases
        if list(added) != list(self.added):
            raise PathwaysError(f"{where}: the languages added to it are {', '.join(added) or 'none'}")
        self._check_tensors(where, state["shapes"])
        self._load_own(state.get("own", {}), where)
        self._put_packed(state["masks"])
        self.statistics.load_state_dict(state["statistics"])
        self.added = {one: parse_config(storage.Addition, how, where) for one, how in added.items()}
        self.step = int(state["step"])
        self.own_steps = {key: int(state["own_steps"][key]) for key in self.keys}
        self.sparsity = float(state["sparsity"])
        self.start = {name: value.detach().clone() for name, value in state["start"].items()}

    # --- inside ---------------------------------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {target.name: tuple(target.shape) for target in self.targets}

    def _check_tensors(self, where: str, shapes: Mapping[str, Sequence[int]]) -> None:
        storage.check_tensors(where, shapes, self._shapes())

    def _packed(self) -> storage.ByLanguage:
        return {key: dict(zip(self.names, self.bank.packed(key), strict=True)) for key in self.keys}

    def _put_packed(self, packed: storage.ByLanguage) -> None:
        for key, held in packed.items():
            self.bank.put_packed(key, self._in_order(held))

    def _in_order(self, held: Mapping[str, Tensor]) -> list[Tensor]:
        return [held[name] for name in self.names]

    def _own_state(self) -> storage.ByLanguage:
        return {language: self.own.state(language) for language in self.added}

    def _load_own(self, own: storage.ByLanguage, where: str) -> None:
        for language in self.added:
            self.own.load_state(language, own.get(language, {}), where)
