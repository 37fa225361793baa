"""Running root mean squares of what enters each prunable weight, one for each pathway.

What a module's hooks can see decides what is measured:

- linear and convolution layers: their input. A linear layer whose weight is used without calling the layer (the
  output projection inside `nn.MultiheadAttention`) is not seen.
- `nn.MultiheadAttention`: query, key and value.
- LSTM, GRU, RNN: the input, and the output for the recurrent weights of the last layer. The hidden states of lower
  layers are seen at the last time step only, and stand for the rest. An LSTM's projection is not seen.
- cells: the input and the hidden state that they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from asr_pathways import ranks as distributed
from asr_pathways.pruning.targets import CONVOLUTIONS, Target, modules_of
from asr_pathways.pruning.weights import quiet

# Means need few samples, so that watching costs a training step about a hundredth of its time.
EVERY = 4  # one in so many of a pathway's own training steps is watched, the first among them
ROWS = 256  # at most about so many positions of a batch are looked at
MEMORY = 0.98  # what a running sum keeps when the next step is added: about 50 watched steps are remembered

Removers = list[Callable[[], None]]


class InputStatistics:
    """Decayed sums of squares and counts, by pathway and tensor: (groups, columns + 1), the count last."""

    def __init__(self, targets: Iterable[Target], pathways: Iterable[str]) -> None:
        """Nothing has been seen yet; without ``targets`` nothing ever is."""
        self.recording: str | None = None  # the pathway whose inputs are being measured
        self._targets = {target.name: target for target in targets}
        self._new: dict[str, dict[str, Tensor]] = {}  # what was seen since the last commit
        self._sums: dict[str, dict[str, Tensor]] = {pathway: self._zeros() for pathway in pathways}

    def add(self, pathway: str) -> None:
        """One more pathway, of which nothing has been seen yet."""
        self._sums[pathway] = self._zeros()

    def commit(self, pathways: Iterable[str]) -> None:
        """Adds what was seen of ``pathways``, on all ranks, to their sums: one batch, or all of a training step."""
        for pathway in pathways if self._targets else ():
            seen = self._new.pop(pathway, None) or self._zeros()
            parts = torch.split(self._everywhere(seen), [self._length(target) for target in self._targets.values()])
            for sums, part in zip(self._sums[pathway].values(), parts, strict=True):
                new = part.view_as(sums).to(sums.device)
                sums.copy_(torch.where(new[:, -1:] > 0, MEMORY * sums + new, sums))

    def forget(self) -> None:
        """Drops what was seen since the last commit."""
        self._new.clear()

    def hook(self) -> Removers:
        """Puts a hook on every module that holds a target; returns what removes them."""
        removers: Removers = []
        for module, names in modules_of(self._targets.values()):
            if isinstance(module, nn.RNNBase):
                removers.append(module.register_forward_hook(self._recurrent(names), with_kwargs=True).remove)
            else:
                watch = self._watcher(module, names)
                removers.append(module.register_forward_pre_hook(watch, with_kwargs=True).remove)
        return removers

    def rms(self, pathway: str) -> dict[str, Tensor]:
        """{tensor's name: (groups, columns)}, for the tensors whose inputs were seen."""
        found: dict[str, Tensor] = {}
        for name, sums in self._sums.get(pathway, {}).items():
            if bool((sums[:, -1] > 0).all()):
                found[name] = (sums[:, :-1] / sums[:, -1:]).sqrt()
        return found

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {pathway: {n: s.clone() for n, s in sums.items()} for pathway, sums in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for pathway, sums in self._sums.items():
            for name, held in sums.items():
                sums[name] = state[pathway][name].detach().clone().to(held.device)

    def _record(self, name: str, group: int, x: Tensor, channel: int = -1) -> None:
        """Adds the tensor that entered (part of) a weight; ``channel`` is the dimension of its columns."""
        if self.recording is None or x.numel() == 0:
            return
        squares, count = _sum_of_squares(x, channel)
        if self.recording not in self._new:
            self._new[self.recording] = self._zeros()
        seen = self._new[self.recording]
        if seen[name].device != x.device:
            with quiet():
                seen[name] = seen[name].to(x.device)
        squares = squares.view(-1, seen[name].shape[1] - 1)
        sums = seen[name][group : group + len(squares)]
        # An overflowed activation says nothing; it must not spoil the running sums for ever.
        sums[:, :-1].add_(squares.nan_to_num_(nan=0.0, posinf=0.0))
        sums[:, -1].add_(count)

    def _watcher(self, module: nn.Module, names: dict[str, str]) -> Callable[..., None]:
        record = torch.compiler.disable(self._record)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.MultiheadAttention):
            # Packed, the three inputs are the groups of one weight; else each enters a weight of its own.
            packed = names.get("in_proj_weight")
            places = [
                (packed or names.get(f"{letter}_proj_weight"), group if packed else 0)
                for group, letter in enumerate("qkv")
            ]

            def attention(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if self.recording is not None:
                    for index, (name, group) in enumerate(places):
                        if name is not None:
                            record(name, group, _argument(args, kwargs, index, ("query", "key", "value")[index]))

            return attention
        if isinstance(module, nn.RNNCellBase):

            def cell(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if self.recording is not None:
                    hidden = _argument(args, kwargs, 1, "hx")
                    inputs = {
                        "weight_ih": _argument(args, kwargs, 0, "input"),
                        "weight_hh": hidden[0] if isinstance(hidden, tuple) else hidden,
                    }
                    for attribute, name in names.items():
                        if inputs[attribute] is not None:
                            record(name, 0, inputs[attribute])

            return cell
        name = names["weight"]
        channel = -1
        if isinstance(module, CONVOLUTIONS):
            channel = -1 - len(module.kernel_size)

        def layer(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.recording is not None:
                record(name, 0, _argument(args, kwargs, 0, "input"), channel)

        return layer

    def _recurrent(self, names: dict[str, str]) -> Callable[..., None]:
        record = torch.compiler.disable(self._record)  # type: ignore[no-untyped-call]

        def recurrent(
            module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], result: tuple[Any, Any]
        ) -> None:
            if self.recording is not None:
                for attribute, x in _recurrent_inputs(module, _argument(args, kwargs, 0, "input"), result).items():
                    if attribute in names:
                        record(names[attribute], 0, x)

        return recurrent

    def _everywhere(self, seen: Mapping[str, Tensor]) -> Tensor:
        """The sums in a row, over all ranks, which talk through the device that the model is on."""
        device = next(iter(self._targets.values())).parameter.device
        return distributed.total(torch.cat([seen[name].view(-1).to(device) for name in self._targets]))

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros(self._length(t)).view(t.groups, -1) for name, t in self._targets.items()}

    @staticmethod
    def _length(target: Target) -> int:
        groups, columns = target.moment_shape
        return groups * (columns + 1)


def _sum_of_squares(x: Tensor, channel: int) -> tuple[Tensor, int]:
    """Sums over all dimensions but ``channel``, of every so-many-th step of the longest: ((C,), how many)."""
    x = x.detach()
    if x.is_nested:  # how torch's encoder leaves padding out when it evaluates
        x = torch.cat(list(x.unbind()))
    x = x.movedim(channel, -1)
    if x.dim() == 1:
        x = x[None]
    lead = x.shape[:-1]
    longest = max(range(len(lead)), key=lambda dim: lead[dim])
    every = max(1, math.prod(lead) // ROWS)
    x = x.movedim(longest, 0)[::every].float()
    return x.square().sum(dim=tuple(range(x.dim() - 1))), x.numel() // x.shape[-1]


def _recurrent_inputs(module: nn.RNNBase, given: Any, result: tuple[Any, Any]) -> dict[str, Tensor]:
    """{weight's attribute: what enters it}, as far as a module's inputs and outputs tell."""
    output, state = result
    last = state[0] if isinstance(state, tuple) else state
    sequence = output.data if isinstance(output, PackedSequence) else output
    ways = ["", "_reverse"] if module.bidirectional else [""]
    hidden = list(last)  # (layers * directions) of (batch, size) or (size,)
    hidden[-len(ways) :] = sequence.chunk(len(ways), dim=-1)
    inputs = {}
    below = given.data if isinstance(given, PackedSequence) else given
    for layer in range(module.num_layers):
        here = hidden[layer * len(ways) : (layer + 1) * len(ways)]
        for way, own in zip(ways, here, strict=True):
            inputs[f"weight_ih_l{layer}{way}"] = below
            inputs[f"weight_hh_l{layer}{way}"] = own
        below = torch.cat(here, dim=-1)
    return inputs


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str) -> Any:
    return args[index] if index < len(args) else kwargs.get(name)
