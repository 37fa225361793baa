"""Languages that were added to finished pathways, which stay as they are bit for bit.

The new pathway may use every weight, and training it moves only weights that no other pathway keeps, and its copies of
everything outside the masks (`language_tensors`). From the first addition on only the last language trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.config import POLICIES, PathwayConfig
from asr_pathways.pruning.granularity import NOfM, parse_granularity
from asr_pathways.pruning.language_tensors import LanguageTensors
from asr_pathways.pruning.masks import PackedMasks, complement, popcount
from asr_pathways.pruning.prunable import Prunable
from asr_pathways.pruning.selection import Factor, kept
from asr_pathways.pruning.storage import Addition, ByLanguage


class Extension:
    """The added languages: how each was added, and its tensors; empty, and so False, until one is.

    Attributes:
        added: how each language was added, in order.
        tensors: what each has outside the masks.
    """

    def __init__(
        self, model: nn.Module, config: PathwayConfig, prunable: Sequence[Prunable], masks: PackedMasks
    ) -> None:
        self.added: dict[str, Addition] = {}
        self.tensors = LanguageTensors(model, prunable)
        self._config = config
        self._prunable = prunable
        self._masks = masks

    def __bool__(self) -> bool:
        return bool(self.added)

    def check(
        self, languages: Sequence[str], reached: float, language: str, sparsity: float | None, reuse: float
    ) -> Addition:
        """How ``language`` can be added to ``languages``, which are pruned to ``reached``.

        Args:
            sparsity: None: the config's.

        Raises:
            PathwaysError: with the reason why it cannot.
        """
        config = self._config
        if config.shared:
            raise PathwaysError(f"add: all languages share one mask here, so {language!r} cannot have another")
        if not POLICIES[config.gradient].masks_training:
            raise PathwaysError(
                f"add: gradient {config.gradient} trains all weights between two prunings, so the pathways that are "
                "there could not stay as they are: prune with gradient dense or frozen"
            )
        if language in languages:
            raise PathwaysError(f"add: {language!r} is there already: the pathways are {', '.join(languages)}")
        config.pathways([*languages, language])
        if reached != config.sparsity:
            raise PathwaysError(
                f"add: pruning has reached {reached:.1%} of {config.sparsity:.1%}: finish it before {language!r}"
            )
        asked = config.sparsity if sparsity is None else sparsity
        addition = parse_config(Addition, {"sparsity": asked, "reuse": reuse}, "add")
        if isinstance(parse_granularity(config.granularity), NOfM) and asked != config.sparsity:
            raise PathwaysError(f"add: granularity {config.granularity} fixes sparsity to {config.sparsity:g}")
        weights = self._masks.weights
        keeps = kept(weights, asked)
        free = weights - sum(map(popcount, self._masks.packed_union(languages)))
        if free < keeps:
            raise PathwaysError(
                f"add: {language!r} asks for {keeps / weights:.1%} of the weights ({keeps:,}) and only "
                f"{free / weights:.1%} ({free:,}) are kept by no pathway yet: raise the sparsity"
            )
        return addition

    def add(self, language: str, addition: Addition) -> None:
        """One more language, with copies of what is outside the masks; its mask is for `PackedMasks`."""
        self.tensors.add(language)
        self.added[language] = addition

    def settles(self, language: str) -> bool:
        """Whether another language was added after ``language``, which therefore has to stay as it is."""
        return bool(self.added) and language != next(reversed(self.added))

    def require_last(self, language: str, what: str) -> None:
        """Raises PathwaysError if ``language`` is settled."""
        if self.settles(language):
            last = next(reversed(self.added))
            raise PathwaysError(
                f"{what}: {language!r} stays as it is since {last!r} was added after it: only {last!r} trains and "
                "changes now; to evaluate another, call model.eval() first"
            )

    def sparsity(self, key: str, others: float) -> float:
        """What the mask ``key`` is to have: its language's, or what all ``others`` have."""
        return self.added[key].sparsity if key in self.added else others

    def factor(self, addition: Addition | None, earlier: Sequence[str]) -> Factor | None:
        """What the scores of a new mask are multiplied by: the addition's ``reuse`` where ``earlier`` pathways keep."""
        if addition is None or addition.reuse == 1:
            return None
        union = self._masks.packed_union(earlier)
        return lambda index: torch.where(self._masks.unpack_one(union, index), addition.reuse, 1.0)

    def movable(self, keys: Sequence[str]) -> Callable[[int], Tensor]:
        """From the index of a tensor to the bool mask of what training the last of all ``keys`` may move."""
        *earlier, last = keys
        union = self._masks.packed_union(earlier)
        free = [complement(bits, one.shape) for bits, one in zip(union, self._prunable, strict=True)]
        if POLICIES[self._config.gradient].freezes:
            free = [bits & of_last for bits, of_last in zip(free, self._masks.packed(last), strict=True)]
        return partial(self._masks.unpack_one, free)  # one tensor at a time, when it is needed

    def state(self) -> ByLanguage:
        """Copies of the tensors of every added language."""
        return {language: self.tensors.state(language) for language in self.added}

    def load_state(self, added: Mapping[str, Addition], state: ByLanguage, where: str) -> None:
        """Goes on from a `state` of the same languages.

        Raises:
            PathwaysError: if it is of another model.
        """
        for language in self.added:
            self.tensors.load_state(language, state.get(language, {}), where)
        self.added = dict(added)
