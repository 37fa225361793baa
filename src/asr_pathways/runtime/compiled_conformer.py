"""Blocks of a FastConformer's encoder by the compiled kernels, in five calls each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.runtime.compiled_layers import stored
from asr_pathways.runtime.fast_conformer import (
    Layer,
    Multiply,
    TorchLayer,
    pointwise,
    projected_positions,
    query_key_value,
)
from asr_pathways.runtime.kernels.encoder_layer import Convolution, FeedForward, RelativeAttention
from asr_pathways.runtime.kernels.extension import check_runner
from asr_pathways.runtime.layers import Layers

_SILU = ("SiLU", "SiLUActivation")
"""Classes of the activation that the kernels have, of torch and of transformers."""


class CompiledProducts:
    """As `fast_conformer.Products`; float32 on the CPU goes in and out.

    Args:
        layers: makes the linear layers.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers, self.threads, self.nbytes = layers, layers.threads, 0

    def stored(self, weight: Tensor, bias: Tensor | None, rows: int, exact: bool = False) -> Any:
        """The compiled layer of a weight (out, in) and a bias (out,); its bytes are counted."""
        layer, nbytes = stored(weight, bias, self._layers, rows, exact)
        self.nbytes += nbytes
        return layer

    def linear(self, weight: Tensor, bias: Tensor | None, rows: int, exact: bool = False) -> Multiply:
        """As of `Products`."""
        layer, runner = self.stored(weight, bias, rows, exact), check_runner(self.threads, None)
        return lambda x: torch.from_numpy(layer.multiply(x.contiguous().numpy(), runner))

    def layer(self, layer: Any, left: int, chunk: int, positions: Tensor) -> Layer:
        """As of `Products`; by torch where activations are others than the kernels have."""
        activations = layer.feed_forward1.activation, layer.feed_forward2.activation, layer.conv.activation
        if not all(type(one).__name__ in _SILU for one in activations):
            return TorchLayer(layer, left, chunk, positions)
        return CompiledLayer(layer, left, chunk, positions, self)


@dataclass
class CompiledState:
    """What a `CompiledLayer` remembers.

    Attributes:
        window: keys and values (2, heads, capacity, d), of which those from ``start`` to ``end`` are of its left
            context.
        frames: (1, k - 1, D): the last inputs of its convolution, of k taps.
    """

    window: Tensor
    start: int
    end: int
    frames: Tensor

    def make_room(self, count: int) -> None:
        """Moves what is there to the front, if so many rows more would not fit."""
        if self.end + count > self.window.shape[2]:
            kept = self.window[:, :, self.start : self.end].clone()
            self.start, self.end = 0, self.end - self.start
            self.window[:, :, : self.end] = kept


class CompiledLayer:
    """A conformer block.

    Args:
        layer: transformers' own, of float32.
        left, chunk, positions: as of `fast_conformer.Products.layer`.
        products: what stores its linear layers.
    """

    def __init__(self, layer: Any, left: int, chunk: int, positions: Tensor, products: CompiledProducts) -> None:
        attention, convolution, threads = layer.self_attn, layer.conv, products.threads
        inwards, outwards = (products.stored(one.weight.squeeze(2), one.bias, chunk) for one in pointwise(convolution))
        self._left, self._capacity, self._norm_out = left, 2 * (left + chunk), layer.norm_out
        self._first, self._last = (
            _half_feed_forward(norm, module, chunk, products)
            for norm, module in (
                (layer.norm_feed_forward1, layer.feed_forward1),
                (layer.norm_feed_forward2, layer.feed_forward2),
            )
        )
        self._attention = RelativeAttention(
            layer.norm_self_att,
            products.stored(*query_key_value(attention), chunk),
            products.stored(attention.o_proj.weight, attention.o_proj.bias, chunk),
            attention.bias_u,
            attention.bias_v,
            projected_positions(attention, positions),
            chunk,
            threads,
        )
        self._convolution = Convolution(
            layer.norm_conv, inwards, convolution.depthwise_conv, convolution.norm, outwards, threads
        )

    def initial_state(self) -> CompiledState:
        """Of a new segment."""
        attention = self._attention
        window = torch.zeros(2, attention.heads, self._capacity, attention.width)
        return CompiledState(window, 0, 0, torch.zeros(1, self._convolution.taps - 1, attention.dim))

    def __call__(self, x: Tensor, state: CompiledState) -> Tensor:
        """As of `Layer`."""
        count = len(x)
        state.make_room(count)
        x = self._first(x.contiguous())
        x = self._attention(x, state.window, state.start, state.end)
        state.end += count
        state.start = max(state.start, state.end - self._left)
        batch, seen = self._convolution(x[None], state.frames)
        state.frames = seen[:, count:].contiguous()
        y: Tensor = self._norm_out(self._last(batch[0]))
        return y


def _half_feed_forward(norm: nn.LayerNorm, module: Any, rows: int, products: CompiledProducts) -> FeedForward:
    """``x + 0.5 * feed_forward(norm(x))``: half of it by halving the last layer."""
    inwards, outwards = module.linear1, module.linear2
    bias = None if outwards.bias is None else 0.5 * outwards.bias
    first = products.stored(inwards.weight, inwards.bias, rows)
    return FeedForward(norm, first, products.stored(0.5 * outwards.weight, bias, rows), products.threads)
