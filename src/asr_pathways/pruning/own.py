"""Own tensors: what a language that was added has of its own beside the masks.

Every parameter and buffer that no mask covers (norms, biases, embeddings, unprunable weights) is copied for the new
language. While its pathway is in use its copies stand in the model, in the places of the model's own tensors, so that
training them leaves the languages that were there before as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.targets import Owners, Target, tensors_of
from asr_pathways.pruning.weights import quiet


@dataclass(frozen=True)
class Place:
    """Where a tensor outside the masks stands in the model.

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
        """The tensor that stands there now."""
        module, attribute = self.owners[0]
        tensor: Tensor = getattr(module, attribute)
        return tensor


class OwnTensors:
    """The own tensors of each language that was added, by their names in the model."""

    def __init__(self, model: nn.Module, targets: Sequence[Target]) -> None:
        """No language has any yet."""
        self._model = model
        self._masked = {target.parameter for target in targets}
        self._places: dict[str, Place] = {}
        self._held: dict[str, dict[str, Tensor]] = {}

    def add(self, language: str) -> None:
        """Copies what stands in the model outside the masks; parameters that are frozen there are here as well."""
        self._places = {place.names[0]: place for place in self._find_places()}
        with quiet():
            self._held[language] = {name: _copy(place.present) for name, place in self._places.items()}

    def tensors(self, language: str) -> dict[str, Tensor]:
        """The own tensors themselves; none for a language that was not added."""
        return dict(self._held.get(language, {}))

    @contextmanager
    def in_place(self, language: str) -> Iterator[None]:
        """The model holds the language's own tensors inside the block, and the ones from before after it."""
        before: list[tuple[nn.Module, str, Tensor]] = []
        held = self._held.get(language, {})
        try:
            for name, own in held.items():
                _follow(own, self._places[name].present)
                for module, attribute in self._places[name].owners:
                    before.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, own)  # not behind the module's back: a recurrent one keeps a list
            yield
            for name in held:
                held[name] = self._places[name].present  # a module may have put another buffer there
        finally:
            for module, attribute, tensor in before:
                setattr(module, attribute, tensor)

    def replace(self, language: str, tensors: Mapping[str, Tensor]) -> None:
        """Takes copies of other tensors, which may be of another shape, in the places of own ones.

        Raises:
            PathwaysError: if one is no own tensor of the language, or has another number of dimensions.
        """
        held = self._held.get(language, {})
        first = {name: place.names[0] for place in self._places.values() for name in place.names}
        for name, new in tensors.items():
            if first.get(name) not in held:
                raise PathwaysError(f"set_own: {name} is no own tensor of {language!r}: see own_tensors({language!r})")
            if new.dim() != held[first[name]].dim():
                raise PathwaysError(f"set_own: {name} has {held[first[name]].dim()} dimensions, not {new.dim()}")
        with quiet():
            for name, new in tensors.items():
                old = held[first[name]]
                value = new.detach().to(old).clone()
                held[first[name]] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value

    def state(self, language: str) -> dict[str, Tensor]:
        """Copies of what is to be kept: parameters and persistent buffers."""
        held = self._held.get(language, {})
        return {n: value.detach().clone() for n, value in held.items() if self._places[n].persistent}

    def load_state(self, language: str, state: Mapping[str, Tensor], where: str) -> None:
        """Takes what `state` gave, into the same parameters, so that an optimizer keeps hold of them.

        Raises:
            PathwaysError: if it is of another model: it names the first odd tensor.
        """
        held = self._held.get(language, {})
        asked = [name for name in held if self._places[name].persistent]
        for name in (*asked, *state):
            if name not in state:
                raise PathwaysError(f"{where}: made for another model: {language!r} has no own {name} there")
            if name not in asked:
                raise PathwaysError(f"{where}: made for another model: {language!r} has an own {name} there")
            if state[name].dim() != held[name].dim():
                raise PathwaysError(
                    f"{where}: made for another model: {name} of {language!r} was {list(state[name].shape)}, "
                    f"is {list(held[name].shape)}"
                )
        with quiet():
            for name in asked:
                held[name].grad = None  # of an unfinished step, and perhaps of another shape
                held[name].data = state[name].detach().to(held[name]).clone()

    def _find_places(self) -> Iterator[Place]:
        for tensor, (names, owners) in tensors_of(self._model).items():
            if tensor not in self._masked:
                fleeting = all(attribute in module._non_persistent_buffers_set for module, attribute in owners)
                yield Place(names, owners, persistent=not fleeting)


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().clone()
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _follow(own: Tensor, present: Tensor) -> None:
    """Moves ``own`` to the device and type to which the model may have moved."""
    if own.device != present.device or own.dtype != present.dtype:
        with quiet():
            own.data = own.data.to(present)
