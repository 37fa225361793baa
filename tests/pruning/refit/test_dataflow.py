"""Which outputs a forward pass still needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr_pathways.pruning.refit.dataflow import trace


class Skipping(nn.Module):
    """An encoder whose output every block of the decoder reads, a long skip, an identity, and writing in place."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(4, 4)
        self.first = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.same = nn.Identity()
        self.second = nn.ModuleList(nn.Bilinear(4, 4, 4) for _ in range(2))
        self.tail = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = skip = torch.tanh(self.front(x))
        for layer in self.first:
            x = layer(x).relu_()
        encoded = self.same(x)
        y = torch.zeros_like(x)
        y[:] = skip
        for layer in self.second:
            y = layer(y, encoded) + encoded
        for layer in self.tail:
            y = layer(y)
        return y


def test_needed_are_the_outputs_that_later_layers_depend_on() -> None:
    model = Skipping()
    names = ["front", *(f"first.{n}" for n in range(3)), *(f"tail.{n}" for n in range(2))]
    groups = trace(model, lambda: model(torch.ones(2, 4)), [f"{name}.weight" for name in names])
    assert [group.layers for group in groups] == [(f"{name}.weight",) for name in names]
    needed = {group.layers[0].removesuffix(".weight"): group.needed for group in groups}
    assert needed["front"] == () and needed["first.0"] == ("front",)
    assert needed["first.1"] == ("first.0", "front") and needed["first.2"] == ("first.1", "front")
    assert needed["tail.0"] == ("first.2", "second.1")  # the skip is used up
    assert needed["tail.1"] == ("tail.0",)
    assert [group.completes for group in groups] == ["", *(name for name in names if "." in name)]
    assert {group.rows for group in groups} == {2}
    assert groups[0].bytes == 0 and groups[4].bytes == 2 * 2 * 4 * 4
