"""What a score needs beside the weights: running statistics of inputs, and gradients, of each pathway.

Inputs are measured as far as hooks on modules have access to them:

- linear and convolution layers: their input. A linear layer whose weight is used without calling the layer (the
  output projection inside `nn.MultiheadAttention`) is not observed.
- `nn.MultiheadAttention`: query, key and value.
- LSTM, GRU, RNN: the input, and the output for the recurrent weights of the last layer. Of lower layers the hidden
  states of the last time step are taken for all. An LSTM's projection is not observed.
- cells: the input and the hidden state.

The diagonal of the Fisher information is that of linear layers alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from asr_pathways import ranks
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.prunable import CONVOLUTIONS, Prunable, by_module, matches
from asr_pathways.pruning.scores import Evidence, Need, Score, Sensitivity
from asr_pathways.pruning.weights import hook_gradients, no_autograd

# Means need few samples, so that observing costs a training step about a hundredth of its time.
EVERY = 4  # one in so many training steps of a pathway is observed, the first among them
POSITIONS = 256  # about so many positions of a training batch are used at most
FEWEST = 8  # steps of an input of many dimensions, such as time and frequency
GOLDEN = 0.6180339887498949  # whose multiples, modulo 1, are spread evenly
DECAY = 0.98  # of a running sum when the next step is added: an average over about 50 observed steps

Removers = list[Callable[[], None]]


class Observer(ABC):
    """Observes one thing that a score may need, of one pathway at a time.

    Attributes:
        recording: the pathway that is being observed; None: none.
        dense: {prunable weight's name: dense values}, as a function; the model's are masked inside `use`.
        most: about so many positions of an input are used.
        unpadded: see `Pathways.unpadded`.
        missing: why a mask cannot be chosen before anything was observed of the pathway ``{0!r}``.
        large: whether it keeps as much of each pathway as there are weights, and only while the config may choose its
            mask again.
    """

    missing: ClassVar[str]
    large: ClassVar[bool] = False

    def __init__(self, prunable: Sequence[Prunable]) -> None:
        self.recording: str | None = None
        self.most = POSITIONS
        self.unpadded: Mapping[str, Tensor] = {}
        self._prunable = {one.name: one for one in prunable}
        self.dense: Callable[[str], Tensor] = lambda name: self._prunable[name].parameter
        self._sums: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def hook(self) -> Removers:
        """Puts hooks on the model; returns what removes them."""

    @abstractmethod
    def due(self, pathway: str, language_steps: int, adapts: bool) -> bool:
        """Whether a training step is observed: after so many of the language, ``adapts`` if its mask adapts then."""

    def commit(self, pathways: Iterable[str]) -> None:  # noqa: B027
        """Counts the observations of ``pathways`` on all ranks: of one batch, or of all of a training step."""

    def end_step(self) -> None:  # noqa: B027
        """Masks that were due have adapted."""

    @abstractmethod
    def forget(self, pathway: str) -> None:
        """Drops the observations of a pathway in an unfinished step."""

    def clear(self, pathway: str) -> None:
        """Drops all that counts of a pathway."""
        self._sums.pop(pathway, None)

    @abstractmethod
    def observed(self, pathway: str) -> bool:
        """Whether anything counts of a pathway."""

    @abstractmethod
    def evidence(self, pathway: str) -> Callable[[str], Tensor | None]:
        """{prunable weight's name: observation}, as a function, called for every weight in order on every rank."""

    def state(self, pathway: str) -> dict[str, Tensor]:
        """Copies of what a checkpoint keeps of a pathway."""
        return {}

    def load_state(self, pathway: str, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Goes on from a `state`."""


Due = Callable[[Observer, str], bool]  # whether an observer is to observe a pathway now


class Observations:
    """The observers that a score needs, as one."""

    def __init__(self, score: type[Score], prunable: Sequence[Prunable]) -> None:
        self._observers = {need: OBSERVERS[need](prunable) for need in sorted(score.needs)}
        if isinstance(products := self._observers.get("products"), RunningProducts):
            assert issubclass(score, Sensitivity), f"score {score.name}: what needs products is a kind of sensitivity"
            products.score = score
        self._weights = {one.name: one.parameter for one in prunable}

    def __iter__(self) -> Iterator[Observer]:
        return iter(self._observers.values())

    @contextmanager
    def recording(self, pathway: str, due: Due = lambda *_: True, most: int = POSITIONS) -> Iterator[None]:
        """Inside, what runs is observed as of ``pathway`` by those observers that are ``due``."""
        before = [(observer.recording, observer.most) for observer in self]
        try:
            for observer in self:
                if due(observer, pathway):
                    observer.recording, observer.most = pathway, most
            yield
        finally:
            for observer, old in zip(self, before, strict=True):
                observer.recording, observer.most = old

    @contextmanager
    def unpadded(self, positions: Mapping[str, Tensor]) -> Iterator[None]:
        """See `Pathways.unpadded`."""
        before = [observer.unpadded for observer in self]
        for observer in self:
            observer.unpadded = positions
        try:
            yield
        finally:
            for observer, old in zip(self, before, strict=True):
                observer.unpadded = old

    def of_rows(self, rows: list[int], count: int) -> AbstractContextManager[None]:
        """Inside, a batch of ``count`` rows runs with these alone: positions that were stated for all are theirs."""
        stated = next((observer.unpadded for observer in self), dict[str, Tensor]())
        return self.unpadded({name: one[rows] if len(one) == count else one for name, one in stated.items()})

    def commit(self, pathways: Sequence[str], due: Due = lambda *_: True) -> None:
        """Counts the observations of ``pathways`` by those observers that are ``due``."""
        for observer in self:
            observer.commit([pathway for pathway in pathways if due(observer, pathway)])

    def forget(self, pathways: Iterable[str]) -> None:
        """Drops the observations of ``pathways`` in an unfinished step."""
        for observer in self:
            for pathway in pathways:
                observer.forget(pathway)

    def clear(self, pathways: Iterable[str]) -> None:
        """Drops all that counts of ``pathways``."""
        for observer in self:
            for pathway in pathways:
                observer.clear(pathway)

    def missing(self, pathway: str) -> str:
        """Why a mask cannot be chosen by the score yet; empty if it can."""
        return next((one.missing.format(pathway) for one in self if not one.observed(pathway)), "")

    def evidence(self, pathway: str) -> Callable[[str], Evidence]:
        """{prunable weight's name: evidence for a score}, as a function."""
        parts = {need: observer.evidence(pathway) for need, observer in self._observers.items()}
        return lambda name: Evidence(self._weights[name], **{need: of(name) for need, of in parts.items()})

    def weights(self, pathway: str) -> Callable[[str], Evidence]:
        """The same of the weights alone."""
        return lambda name: Evidence(self._weights[name])

    def state(self, pathway: str) -> dict[str, Tensor]:
        """What a checkpoint keeps of a pathway."""
        return {name: tensor for observer in self for name, tensor in observer.state(pathway).items()}

    def load_state(self, pathway: str, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`."""
        for observer in self:
            observer.load_state(pathway, state)


class _Hook:
    """A hook on a layer. Copies of the layer, pickled ones too, have one in its place that does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._call(*args, **kwargs)

    def __reduce__(self) -> tuple[type[_Hook], tuple[Callable[..., None]]]:
        return _Hook, (_nothing,)


def _nothing(*_: object, **__: object) -> None:
    """Of a copy."""


class InputStatistics(Observer):
    """Decayed sums of squares and counts, by pathway and tensor: (groups, columns + 1), the count last."""

    missing = "no activation of {0!r} was observed yet: run forward passes inside calibrate({0!r})"

    def __init__(self, prunable: Sequence[Prunable]) -> None:
        super().__init__(prunable)
        self._new: dict[str, dict[str, Tensor]] = defaultdict(self._zeros)  # since the last commit
        self._sums = defaultdict(self._zeros)

    def due(self, pathway: str, language_steps: int, adapts: bool) -> bool:
        return language_steps % EVERY == 0 or not self.observed(pathway)  # as of pathways that were loaded

    def commit(self, pathways: Iterable[str]) -> None:
        for pathway in pathways:
            # In a row, over all ranks, which communicate through the device that the model is on.
            device = next(iter(self._prunable.values())).parameter.device
            new = self._new.pop(pathway, None) or self._zeros()
            total = ranks.total(torch.cat([one.view(-1).to(device) for one in new.values()]))
            sums = self._sums[pathway].values()
            for old, part in zip(sums, torch.split(total, [old.numel() for old in sums]), strict=True):
                added = part.view_as(old).to(old.device)
                old.copy_(torch.where(added[:, -1:] > 0, DECAY * old + added, old))

    def forget(self, pathway: str) -> None:
        self._new.pop(pathway, None)

    def hook(self) -> Removers:
        removers: Removers = []
        for module, names in by_module(self._prunable.values()).items():
            rnn = isinstance(module, nn.RNNBase)
            register: Callable[..., Any] = module.register_forward_hook if rnn else module.register_forward_pre_hook
            removers.append(register(_Hook(self._hook(module, names)), with_kwargs=True).remove)
        return removers

    def observed(self, pathway: str) -> bool:
        return pathway in self._sums and any(map(_complete, self._sums[pathway].values()))

    def evidence(self, pathway: str) -> Callable[[str], Tensor | None]:
        return self.rms(pathway).get

    def rms(self, pathway: str) -> dict[str, Tensor]:
        """{tensor's name: (groups, columns)}, of the tensors whose inputs were observed."""
        return {
            name: (sums[:, :-1] / sums[:, -1:]).sqrt() for name, sums in self._sums[pathway].items() if _complete(sums)
        }

    def state(self, pathway: str) -> dict[str, Tensor]:
        return {name: sums.clone() for name, sums in self._sums[pathway].items()}

    def load_state(self, pathway: str, state: Mapping[str, Tensor]) -> None:
        sums = self._sums[pathway]
        for name, before in sums.items():
            sums[name] = state[name].detach().clone().to(before.device)

    def _record(self, name: str, group: int, x: Tensor, channel: int) -> None:
        """Adds an input of (part of) a weight; ``channel`` is the dimension of its columns."""
        if self.recording is None or x.numel() == 0:
            return
        squares, count = _sum_of_squares(without_padding(x.detach(), channel, name, self.unpadded), self.most)
        new = self._new[self.recording]
        if new[name].device != x.device:
            with no_autograd():
                new[name] = new[name].to(x.device)
        squares = squares.view(-1, new[name].shape[1] - 1)
        sums = new[name][group : group + len(squares)]
        # An overflowed activation is left out; it must not spoil the running sums for ever.
        sums[:, :-1].add_(squares.nan_to_num_(nan=0.0, posinf=0.0))
        sums[:, -1].add_(count)

    def _hook(self, observed: nn.Module, names: Mapping[str, str]) -> Callable[..., None]:
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def record(module: nn.Module, *call: Any) -> None:
            if module is not observed:  # a copy of it, such as a teacher, which has copies of its hooks
                return
            channel = -1 - len(module.kernel_size) if isinstance(module, CONVOLUTIONS) else -1
            for attribute, group, x in _inputs(module, *call):
                if attribute in names:
                    self._record(names[attribute], group, x, channel)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any = None) -> None:
            if self.recording is not None:
                record(module, args, kwargs, result)

        return hook

    def _zeros(self) -> dict[str, Tensor]:
        with no_autograd():
            return {name: torch.zeros(one.groups, one.shape[1] + 1) for name, one in self._prunable.items()}


class FisherDiagonal(InputStatistics):
    """Decayed sums over positions of the squared gradient of each weight of linear layers: (rows, columns + 1).

    The last column is the count.
    """

    missing = "no gradient of {0!r} was observed yet: run a backward pass inside calibrate({0!r})"
    large = True

    def __init__(self, prunable: Sequence[Prunable]) -> None:
        super().__init__(prunable)
        self._layers = [
            (names["weight"], module)  # several, where they share a weight
            for module, names in by_module(prunable).items()
            if isinstance(module, nn.Linear) and "weight" in names
        ]

    def hook(self) -> Removers:
        return [
            module.register_forward_hook(_Hook(self._after(name, module)), with_kwargs=True).remove
            for name, module in self._layers
        ]

    def evidence(self, pathway: str) -> Callable[[str], Tensor | None]:
        found = self.rms(pathway)

        def of(name: str) -> Tensor:
            if name not in found:
                raise PathwaysError(
                    f"score fisher: no gradient at the output of {name} was observed for {pathway!r}: it is for linear "
                    "layers that the loss depends on: exclude others"
                )
            return found[name]

        return of

    def state(self, pathway: str) -> dict[str, Tensor]:
        sums = super().state(pathway) if self.observed(pathway) else {}
        return {f"fisher/{name}": one for name, one in sums.items()}

    def load_state(self, pathway: str, state: Mapping[str, Tensor]) -> None:
        self.clear(pathway)
        if state:
            super().load_state(pathway, {name: state[f"fisher/{name}"] for name, _ in self._layers})

    def _after(self, name: str, observed: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if self.recording is not None and module is observed and output.requires_grad:
                ((_, _, x),) = _inputs(module, args, kwargs, output)
                backward = partial(self._backward, name, self.recording, x.detach(), self.unpadded)
                output.register_hook(backward)  # type: ignore[no-untyped-call]

        return hook

    def _backward(self, name: str, pathway: str, x: Tensor, unpadded: Mapping[str, Tensor], gradient: Tensor) -> None:
        both = [without_padding(one.detach(), -1, name, unpadded) for one in (x, gradient)]
        rows = [one.reshape(-1, one.shape[-1]) for one in both]
        every = max(1, len(rows[0]) // self.most)
        x, gradient = (one[::every].float().square() for one in rows)
        squares = (gradient.T @ x).nan_to_num_(nan=0.0, posinf=0.0)
        with no_autograd():
            self._new[pathway][name] = self._new[pathway][name].to(squares.device)
        self._new[pathway][name][:, :-1].add_(squares)
        self._new[pathway][name][:, -1].add_(len(x))

    def _zeros(self) -> dict[str, Tensor]:
        with no_autograd():
            shapes = {name: module.weight.shape for name, module in self._layers}
            return {name: torch.zeros(rows, columns + 1) for name, (rows, columns) in shapes.items()}


class GradientSums(Observer):
    """The sum of the dense gradients of a pathway, by tensor, in the step before its mask adapts."""

    missing = "no gradient of {0!r} was observed yet: run a backward pass inside calibrate({0!r})"

    def due(self, pathway: str, language_steps: int, adapts: bool) -> bool:
        return adapts

    def forget(self, pathway: str) -> None:
        self._sums.pop(pathway, None)

    def end_step(self) -> None:  # gradients count at once, and only in their step
        self._sums.clear()

    def hook(self) -> Removers:
        prunable = self._prunable.values()
        return hook_gradients([one.parameter for one in prunable], [partial(self._add, one.name) for one in prunable])

    def observed(self, pathway: str) -> bool:  # on any rank: all choose the same masks
        device = next(iter(self._prunable.values())).parameter.device
        return ranks.anywhere([bool(self._sums.get(pathway))], device)[0]

    def evidence(self, pathway: str) -> Callable[[str], Tensor | None]:
        def over_ranks(name: str) -> Tensor:
            local = self._sums.get(pathway, {}).get(name)
            if local is None:
                local = torch.zeros_like(self._prunable[name].parameter, dtype=torch.float32)
            return ranks.total(local)

        return over_ranks

    def _add(self, name: str, gradient: Tensor) -> None:
        if self.recording is not None:
            sums = self._sums.setdefault(self.recording, {})
            new = gradient.detach().float()
            sums[name] = sums[name] + new if name in sums else new.clone()


class RunningProducts(GradientSums):
    """What ``score`` keeps of theta * gradient from step to step: (vectors, ...) bfloat16, by pathway and tensor."""

    score: type[Sensitivity]

    def __init__(self, prunable: Sequence[Prunable]) -> None:
        super().__init__(prunable)
        self._running: dict[str, dict[str, Tensor]] = defaultdict(dict)

    def due(self, pathway: str, language_steps: int, adapts: bool) -> bool:
        return True

    def commit(self, pathways: Iterable[str]) -> None:
        for pathway in pathways:
            sums, running = super().evidence(pathway), self._running[pathway]
            device = next(iter(self._prunable.values())).parameter.device
            world, new = ranks.total(torch.tensor([1.0, bool(self._sums.get(pathway))], device=device)).tolist()
            for name, one in self._prunable.items() if new else ():
                with no_autograd():
                    # An overflow is left out; it must not spoil the running values for ever.
                    product = (sums(name) / world).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
                    values = running.get(name, torch.zeros(self.score.vectors, *one.shape)).to(product)
                    self.score.count(values, product)
                    running[name] = values.bfloat16()
            self._sums.pop(pathway, None)

    def clear(self, pathway: str) -> None:
        super().clear(pathway)
        self._running.pop(pathway, None)

    def observed(self, pathway: str) -> bool:
        return bool(self._running[pathway])

    def evidence(self, pathway: str) -> Callable[[str], Tensor | None]:
        def running(name: str) -> Tensor | None:
            values = self._running[pathway][name]
            return values.float() if values.any() else None

        return running

    def state(self, pathway: str) -> dict[str, Tensor]:
        return {f"products/{name}": values.clone() for name, values in self._running[pathway].items()}

    def load_state(self, pathway: str, state: Mapping[str, Tensor]) -> None:
        kept = {name: state[f"products/{name}"] for name in self._prunable if f"products/{name}" in state}
        self._running[pathway] = {name: values.detach().clone() for name, values in kept.items()}

    def _add(self, name: str, gradient: Tensor) -> None:
        super()._add(name, gradient.detach().float() * self.dense(name))


OBSERVERS: dict[Need, type[Observer]] = {
    "inputs": InputStatistics,
    "fisher": FisherDiagonal,
    "gradients": GradientSums,
    "products": RunningProducts,
}


def _complete(sums: Tensor) -> bool:
    """Whether inputs of every group of rows were observed."""
    return bool((sums[:, -1] > 0).all())


def without_padding(x: Tensor, channel: int, weight: str, positions: Mapping[str, Tensor]) -> Tensor:
    """An input of ``weight``, its columns (``channel``) moved last, without padding: see `Pathways.unpadded`."""
    if x.is_nested:  # how torch's encoder leaves padding out when it evaluates
        return torch.cat(list(x.unbind()))
    x = x.movedim(channel, -1)
    marked = next((marked for pattern, marked in positions.items() if matches([weight], [pattern])), None)
    return x if marked is None or x.shape[:-1] != marked.shape else x[marked.to(x.device)]


def _sum_of_squares(x: Tensor, most: int) -> tuple[Tensor, int]:
    """Sums over all dimensions but the last: ((C,), how many).

    Of every so-many-th step of the longest; where of three or more that would be but a few steps, of positions spread
    over all: a first step is often silence.
    """
    if x.dim() == 1:
        x = x[None]
    lead = x.shape[:-1]
    longest = max(range(len(lead)), key=lambda dim: lead[dim])
    every = max(1, math.prod(lead) // most)
    if every > 1 and lead[longest] // every < (FEWEST if len(lead) > 2 else 1):
        places = (torch.arange(most, dtype=torch.float64, device=x.device) * GOLDEN % 1 * math.prod(lead)).long()
        x = x[torch.unravel_index(places, lead)].float()
    else:
        x = x.movedim(longest, 0)[::every].float()
    return x.square().sum(dim=tuple(range(x.dim() - 1))), x.numel() // x.shape[-1]


def _inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Iterator[tuple[str, int, Tensor]]:
    """(attribute of a weight, group of its rows, their input), as far as it follows from a module's call."""

    def argument(index: int, name: str) -> Any:
        return args[index] if index < len(args) else kwargs.get(name)

    if isinstance(module, nn.MultiheadAttention):
        # Packed, the three inputs are the groups of one weight; else each enters another weight.
        for group, name in enumerate(("query", "key", "value")):
            yield "in_proj_weight", group, argument(group, name)
            yield f"{name[0]}_proj_weight", 0, argument(group, name)
    elif isinstance(module, nn.RNNBase):
        yield from _recurrent_inputs(module, argument(0, "input"), result)
    elif isinstance(module, nn.RNNCellBase):
        yield "weight_ih", 0, argument(0, "input")
        hidden = argument(1, "hx")
        if hidden is not None:
            yield "weight_hh", 0, hidden[0] if isinstance(hidden, tuple) else hidden
    else:
        yield "weight", 0, argument(0, "input")


def _recurrent_inputs(module: nn.RNNBase, sequence: Any, result: tuple[Any, Any]) -> Iterator[tuple[str, int, Tensor]]:
    output, state = result
    directions = ["", "_reverse"] if module.bidirectional else [""]
    hidden = list(state[0] if isinstance(state, tuple) else state)  # (layers * directions) of (batch, size) or (size,)
    hidden[-len(directions) :] = _unpadded(output).chunk(len(directions), dim=-1)
    entering = _unpadded(sequence)
    for layer in range(module.num_layers):
        of_layer = hidden[layer * len(directions) : (layer + 1) * len(directions)]
        for direction, of_direction in zip(directions, of_layer, strict=True):
            yield f"weight_ih_l{layer}{direction}", 0, entering
            yield f"weight_hh_l{layer}{direction}", 0, of_direction
        entering = torch.cat(of_layer, dim=-1)


def _unpadded(sequence: Tensor | PackedSequence) -> Tensor:
    return sequence.data if isinstance(sequence, PackedSequence) else sequence
