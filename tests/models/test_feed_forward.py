"""Feed-forward layers with fewer neurons."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from asr_pathways.models.feed_forward import FeedForwards, drop_neurons


class Block(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8, bias=bias), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(x)))


def test_all_layers_of_a_size_get_that_of_the_fullest_and_compute_the_same() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Sequential(Block(), Block(bias=False)), "b": nn.Sequential(Block())})
    kept = {"a.0.up.weight": torch.arange(8) % 4 == 1, "a.1.up.weight": torch.arange(8) > 4}
    with torch.no_grad():
        for name, mask in kept.items():
            model.get_parameter(name.replace("up", "down"))[:, ~mask] = 0
    x = torch.randn(5, 4)
    before, other = model["a"](x), model["b"](x)
    layers = FeedForwards("a", "up", "down", "size")
    assert layers.layers(model) == [("a.0.up", "a.0.down"), ("a.1.up", "a.1.down")]
    assert drop_neurons(model, layers, kept) == 3
    assert [tuple(block.up.weight.shape) for block in model["a"]] == [(3, 4), (3, 4)]
    assert model["a"][0].up.out_features == model["a"][0].down.in_features == 3
    torch.testing.assert_close(model["a"](x), before)
    assert torch.equal(model["b"](x), other)
    assert drop_neurons(model, layers, {}) == 3
