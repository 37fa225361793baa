"""What an added language has outside the masks: a copy of every tensor, in the model while it is in use.

Every parameter and buffer that no mask covers (norms, biases, embeddings, unprunable weights) is copied for the new
language. While its pathway is in use its copies are in the places of the model's tensors, so that training them leaves
the languages that were there before as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.prunable import Owners, Prunable, tensors_of
from asr_pathways.pruning.weights import no_autograd


@dataclass(frozen=True)
class Place:
    """Where a tensor outside the masks is in the model.

    Attributes:
        names: every name that it has there; the first is its name everywhere here.
        owners: the modules that hold it, each with the attribute that it is there.
        persistent: whether it is in the model's state_dict: all but some buffers are.
    """

    names: tuple[str, ...]
    owners: Owners
    persistent: bool

    @property
    def present(self) -> Tensor:
        """The tensor that is there now."""
        module, attribute = self.owners[0]
        tensor: Tensor = getattr(module, attribute)
        return tensor


class LanguageTensors:
    """The tensors outside the masks of each language that was added, by their names in the model."""

    def __init__(self, model: nn.Module, prunable: Sequence[Prunable]) -> None:
        """No language has any yet."""
        self._model = model
        self._masked = {one.parameter for one in prunable}
        self._places: dict[str, Place] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def add(self, language: str) -> None:
        """Copies what is in the model outside the masks; parameters that are frozen there are frozen here as well."""
        self._places = {place.names[0]: place for place in self._find_places()}
        with no_autograd():
            self._tensors[language] = {name: _copy(place.present) for name, place in self._places.items()}

    def tensors(self, language: str) -> dict[str, Tensor]:
        """The tensors themselves; none for a language that was not added."""
        return dict(self._tensors.get(language, {}))

    @contextmanager
    def in_place(self, language: str) -> Iterator[None]:
        """The model holds the language's tensors inside the block, and the ones from before after it."""
        before: list[tuple[nn.Module, str, Tensor]] = []
        tensors = self._tensors.get(language, {})
        try:
            for name, tensor in tensors.items():
                _follow(tensor, self._places[name].present)
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
        """Takes copies of ``new`` tensors, which may be of another shape, in the places of the language's.

        Raises:
            PathwaysError: if the language has no such tensor, or one of another number of dimensions.
        """
        tensors = self._tensors.get(language, {})
        first = {name: place.names[0] for place in self._places.values() for name in place.names}
        for name, value in new.items():
            if first.get(name) not in tensors:
                raise PathwaysError(f"{name} is no tensor of {language!r}: see language_tensors({language!r})")
            if value.dim() != tensors[first[name]].dim():
                raise PathwaysError(f"{name} has {tensors[first[name]].dim()} dimensions, not {value.dim()}")
        with no_autograd():
            for name, value in new.items():
                old = tensors[first[name]]
                copy = value.detach().to(old).clone()
                tensors[first[name]] = nn.Parameter(copy, old.requires_grad) if isinstance(old, nn.Parameter) else copy

    def state(self, language: str) -> dict[str, Tensor]:
        """Copies of what is to be kept: parameters and persistent buffers."""
        tensors = self._tensors.get(language, {})
        return {n: value.detach().clone() for n, value in tensors.items() if self._places[n].persistent}

    def load_state(self, language: str, state: Mapping[str, Tensor], where: str) -> None:
        """Takes a `state` into the same parameters, which an optimizer may have.

        Raises:
            PathwaysError: if it is of another model: it names the first that differs.
        """
        tensors = self._tensors.get(language, {})
        kept = [name for name in tensors if self._places[name].persistent]
        for name in (*kept, *state):
            if name not in state:
                raise PathwaysError(f"{where}: made for another model: {language!r} has no tensor {name} there")
            if name not in kept:
                raise PathwaysError(f"{where}: made for another model: {language!r} has a tensor {name} there")
            if state[name].dim() != tensors[name].dim():
                raise PathwaysError(
                    f"{where}: made for another model: {name} of {language!r} was {list(state[name].shape)}, "
                    f"is {list(tensors[name].shape)}"
                )
        with no_autograd():
            for name in kept:
                tensors[name].grad = None  # of an unfinished step, and perhaps of another shape
                tensors[name].data = state[name].detach().to(tensors[name]).clone()

    def _find_places(self) -> Iterator[Place]:
        for tensor, (names, owners) in tensors_of(self._model).items():
            if tensor not in self._masked:
                transient = all(attribute in module._non_persistent_buffers_set for module, attribute in owners)
                yield Place(names, owners, persistent=not transient)


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().clone()
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _follow(tensor: Tensor, present: Tensor) -> None:
    """Moves ``tensor`` to the device and type to which the model may have moved."""
    if tensor.device != present.device or tensor.dtype != present.dtype:
        with no_autograd():
            tensor.data = tensor.data.to(present)
