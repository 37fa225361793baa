"""Languages that were added to finished pathways, which stay as they are bit for bit.

The new pathway may use every weight. Training it moves only weights that no other pathway keeps, and the language's
copy of every parameter and buffer that no mask covers (norms, biases, embeddings, unprunable weights). While its
pathway is in use the copies are in the places of the model's tensors. From the first addition on only the last
language trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.config import POLICIES, PathwayConfig
from asr_pathways.pruning.granularity import NOfM, parse_granularity
from asr_pathways.pruning.masks import PackedMasks, complement, popcount
from asr_pathways.pruning.prunable import Owners, Prunable, tensors_of
from asr_pathways.pruning.selection import Factor, kept
from asr_pathways.pruning.storage import Addition, ByLanguage
from asr_pathways.pruning.weights import no_autograd


@dataclass(frozen=True)
class Place:
    """Where a tensor outside the masks is in the model (see `Prunable`); all but some buffers are persistent."""

    names: tuple[str, ...]
    owners: Owners
    persistent: bool

    @property
    def present(self) -> Tensor:
        """The tensor that is there now."""
        tensor: Tensor = getattr(*self.owners[0])
        return tensor


class Extension:
    """The languages that were ``added``, in order, and their tensors; False until one is."""

    def __init__(
        self, model: nn.Module, config: PathwayConfig, prunable: Sequence[Prunable], masks: PackedMasks
    ) -> None:
        self.added: dict[str, Addition] = {}
        self._model = model
        self._config = config
        self._prunable = prunable
        self._masks = masks
        self._places: dict[str, Place] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self.added)

    def check(
        self, languages: Sequence[str], reached: float, language: str, sparsity: float | None, reuse: float
    ) -> Addition:
        """How ``language`` can be added to ``languages``, which are pruned to ``reached``.

        Raises:
            PathwaysError: with the reason why it cannot.
        """
        config = self._config
        if config.shared:
            raise PathwaysError(f"add: all languages share one mask here, so {language!r} cannot have another")
        if config.shared_middle:
            raise PathwaysError(
                f"add: the languages share their middle layers' masks, which would change with {language!r}: prune all "
                "of them together, or without shared_middle"
            )
        if POLICIES[config.gradient].writes_zeros:
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
        sparsity = config.sparsity if sparsity is None else sparsity
        addition = parse_config(Addition, {"sparsity": sparsity, "reuse": reuse}, "add")
        fixed = isinstance(parse_granularity(config.granularity), NOfM)
        if fixed and sparsity != config.sparsity:
            raise PathwaysError(f"add: granularity {config.granularity} fixes sparsity to {config.sparsity:g}")
        weights = self._masks.weights
        keeps = kept(weights, sparsity)
        free = weights - sum(map(popcount, self._masks.packed_union(languages)))
        if free < keeps:
            least = math.ceil(100 * (1 - free / weights)) / 100
            own = "" if fixed or least == 1 else f"raise its sparsity to {least:.2f} or more, or "
            raise PathwaysError(
                f"add: {language!r} needs {keeps / weights:.1%} of the weights ({keeps:,}) and only "
                f"{free / weights:.1%} ({free:,}) are kept by no pathway yet: {own}prune the others more"
            )
        return addition

    def add(self, language: str, addition: Addition) -> None:
        """Copies the model's tensors outside the masks, frozen parameters as frozen."""
        masked = {one.parameter for one in self._prunable}
        self._places = {}
        for tensor, (names, owners) in tensors_of(self._model).items():
            if tensor not in masked:
                transient = all(attribute in module._non_persistent_buffers_set for module, attribute in owners)
                self._places[names[0]] = Place(names, owners, persistent=not transient)
        with no_autograd():
            self._tensors[language] = {
                name: _copy(place.present, place.present) for name, place in self._places.items()
            }
        self.added[language] = addition

    def is_fixed(self, language: str) -> bool:
        """Whether another language was added after ``language``, which therefore has to stay as it is."""
        return bool(self.added) and language != next(reversed(self.added))

    def require_last(self, language: str, what: str) -> None:
        """Raises PathwaysError if ``language`` is fixed."""
        if self.is_fixed(language):
            last = next(reversed(self.added))
            raise PathwaysError(
                f"{what}: {language!r} stays as it is since {last!r} was added after it: only {last!r} trains and "
                "changes now; to evaluate another, call model.eval() first"
            )

    def factor(self, addition: Addition | None, earlier: Sequence[str]) -> Factor | None:
        """Of the scores of a new mask: the addition's ``reuse`` for weights that ``earlier`` pathways keep."""
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

    def tensors(self, language: str) -> dict[str, Tensor]:
        """The language's tensors, by their first names in the model; none of a language that was not added."""
        return dict(self._tensors.get(language, {}))

    @contextmanager
    def in_place(self, language: str) -> Iterator[None]:
        """The model holds the language's tensors inside the block, and the ones from before after it."""
        before: list[tuple[nn.Module, str, Tensor]] = []
        tensors = self._tensors.get(language, {})
        try:
            for name, tensor in tensors.items():
                present = self._places[name].present
                if tensor.device != present.device or tensor.dtype != present.dtype:  # the model has moved
                    with no_autograd():
                        tensor.data = tensor.data.to(present)
                for module, attribute in self._places[name].owners:
                    before.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, tensor)  # by setattr: a recurrent module keeps a list
            yield
            for name in tensors:
                tensors[name] = self._places[name].present  # a module may have put another buffer there
        finally:
            for module, attribute, earlier in before:
                setattr(module, attribute, earlier)

    def replace(self, language: str, new: Mapping[str, Tensor]) -> None:
        """See `Pathways.set_language_tensors`."""
        tensors = self._tensors.get(language, {})
        first = {name: place.names[0] for place in self._places.values() for name in place.names}
        for name, value in new.items():
            if first.get(name) not in tensors:
                raise PathwaysError(f"{name} is no tensor of {language!r}: see language_tensors({language!r})")
            if value.dim() != tensors[first[name]].dim():
                raise PathwaysError(f"{name} has {tensors[first[name]].dim()} dimensions, not {value.dim()}")
        with no_autograd():
            for name, value in new.items():
                tensors[first[name]] = _copy(value.to(tensors[first[name]]), tensors[first[name]])

    def state(self) -> ByLanguage:
        """Copies of the parameters and persistent buffers of every added language."""
        return {
            language: {n: t.detach().clone() for n, t in self._tensors[language].items() if self._places[n].persistent}
            for language in self.added
        }

    def load_state(self, added: Mapping[str, Addition], state: ByLanguage, where: str) -> None:
        """Takes a `state` of the same languages into the same parameters, which an optimizer may have.

        Raises:
            PathwaysError: if it is of another model: it names the first tensor that differs.
        """
        for language in self.added:
            new = state.get(language, {})
            tensors = {n: t for n, t in self._tensors[language].items() if self._places[n].persistent}
            for name in (*tensors, *new):
                difference = ""
                if name not in new:
                    difference = f"{language!r} has no tensor {name} there"
                elif name not in tensors:
                    difference = f"{language!r} has a tensor {name} there"
                elif new[name].dim() != tensors[name].dim():
                    shapes = list(new[name].shape), list(tensors[name].shape)
                    difference = f"{name} of {language!r} was {shapes[0]}, is {shapes[1]}"
                if difference:
                    raise PathwaysError(f"{where}: made for another model: {difference}")
            with no_autograd():
                for name, tensor in tensors.items():
                    tensor.grad = None  # of an unfinished step, and perhaps of another shape
                    tensor.data = new[name].detach().to(tensor).clone()
        self.added = dict(added)


def _copy(value: Tensor, like: Tensor) -> Tensor:
    """A copy of ``value``: a parameter if ``like`` is one, which then trains as that does."""
    copy = value.detach().clone()
    return nn.Parameter(copy, like.requires_grad) if isinstance(like, nn.Parameter) else copy
