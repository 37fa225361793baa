"""The neurons of feed-forward layers: where a model has them, and the same model with fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class FeedForwards(NamedTuple):
    """Feed-forward layers of one size: two linear layers, and between them a function of each neuron by itself.

    Attributes:
        within: the module that has them; empty: the whole model.
        first, second: how the names of the two linear layers end; what precedes is the same.
        size: the key of the model's config that has the number of neurons, with dots between the keys of its parts.
    """

    within: str
    first: str
    second: str
    size: str

    def layers(self, model: nn.Module) -> list[tuple[str, str]]:
        """The names of the two linear layers of each, in the model's order."""
        names = dict(model.named_modules())
        inside = [name for name in names if f"{name}.".startswith(f"{self.within}.") or not self.within]
        before = [name.removesuffix(self.first) for name in inside if f".{name}".endswith(f".{self.first}")]
        return [(f"{one}{self.first}", f"{one}{self.second}") for one in before if f"{one}{self.second}" in names]


def drop_neurons(model: nn.Module, layers: FeedForwards, kept: Mapping[str, Tensor]) -> int:
    """Makes feed-forward layers smaller, in place; if zeros follow the dropped neurons, outputs are the same.

    All get the size of the one that keeps most; where fewer are kept, some of the dropped ones fill it.

    Args:
        kept: {name of the weight of a first layer: bool (N,)}; layers that are not there keep all.

    Returns:
        The number of neurons of each.
    """
    pairs = [tuple(map(model.get_submodule, names)) for names in layers.layers(model)]
    chosen = []
    for (first, _), (name, _) in zip(pairs, layers.layers(model), strict=True):
        assert isinstance(first, nn.Linear)
        chosen.append(kept.get(f"{name}.weight", torch.ones(first.out_features, dtype=torch.bool)))
    size = max(int(one.count_nonzero()) for one in chosen)
    for (first, second), one in zip(pairs, chosen, strict=True):
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        order = torch.sort(one.byte(), descending=True, stable=True).indices[:size].sort().values
        first.weight, second.weight = _part(first.weight, 0, order), _part(second.weight, 1, order)
        if first.bias is not None:
            first.bias = _part(first.bias, 0, order)
        first.out_features = second.in_features = size
    return size


def _part(values: Tensor, dim: int, order: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().index_select(dim, order.to(values.device)), values.requires_grad)
