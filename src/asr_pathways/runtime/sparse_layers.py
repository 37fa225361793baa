"""Layers that multiply by sparse weights, in place of torch's own, for inference on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr_pathways.models.emformer import EmformerLayer, LayerState, SegmentAttention, Windows
from asr_pathways.runtime.kernels import SparseMatrix, lstm_step
from asr_pathways.runtime.kernels.encoder_layer import Attention, Convolution, FeedForward, Product


class SparseLinear(nn.Module):
    """``nn.Linear`` with a sparse weight: (..., in) -> (..., out)."""

    def __init__(self, weight: SparseMatrix, bias: Tensor | None, threads: int) -> None:
        super().__init__()
        self.weight, self.bias, self.threads = weight, bias, threads

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return self.weight.matmul(rows, self.bias, self.threads).view(*x.shape[:-1], -1)


class SparseLstm(nn.Module):
    """``nn.LSTM`` (batch first, one direction) with sparse weights: (B, U, D) and its state -> the same.

    Args:
        cells: of each layer the weights of input and state, and the sum of torch's two biases.
    """

    def __init__(self, cells: list[tuple[SparseMatrix, SparseMatrix, Tensor | None]], threads: int) -> None:
        super().__init__()
        self.cells, self.threads = cells, threads

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            zeros = x.new_zeros(len(self.cells), x.shape[0], self.cells[0][1].shape[1])
            state = zeros, zeros
        hidden, cell = list(state[0]), list(state[1])
        out = []
        for step in x.unbind(1):
            for layer, (w_ih, w_hh, bias) in enumerate(self.cells):
                before = hidden[layer].contiguous(), cell[layer].contiguous()
                after = lstm_step(step.contiguous(), *before, w_ih, w_hh, bias, self.threads)
                hidden[layer], cell[layer] = after
                step = hidden[layer]
            out.append(step)
        return torch.stack(out, dim=1), (torch.stack(hidden), torch.stack(cell))


class SparseEmformerLayer(nn.Module):
    """An `EmformerLayer` whose products are sparse, in two calls, or three with a convolution.

    Args:
        layer: with a `SparseLinear` for each of its linear layers; the distance bias is taken as it is now.
    """

    def __init__(self, layer: EmformerLayer, threads: int) -> None:
        super().__init__()
        attention, conv, feed_forward = layer.attention, layer.conv, layer.feed_forward
        products = _product(attention.query), _product(attention.key_value), _product(attention.out)
        self.attention = Attention(attention.norm, *products, _distance_bias(attention), threads)
        self.convolution = None
        if conv is not None:
            ends = _product(conv.inwards), _product(conv.out)
            self.convolution = Convolution(conv.norm, ends[0], conv.depthwise, conv.depthwise_norm, ends[1], threads)
        norm, inwards, _, outwards = feed_forward
        assert isinstance(norm, nn.LayerNorm)
        self.feed_forward = FeedForward(norm, _product(inwards), _product(outwards), threads)

    def forward(self, blocks: Tensor, state: LayerState, windows: Windows) -> Tensor:
        """As `EmformerLayer.forward`."""
        unseen = windows.unseen[:, :, 0, 0].expand(len(blocks), -1, -1)
        segments = range(blocks.shape[1])
        return torch.stack([self._segment(blocks[:, i], state, unseen[:, i], windows) for i in segments], dim=1)

    def _segment(self, x: Tensor, state: LayerState, unseen: Tensor, windows: Windows) -> Tensor:
        past, size = state.key_values.contiguous(), windows.segment
        x, seen = self.attention(x.contiguous(), past, unseen.contiguous())
        state.key_values = seen[:, size : size + past.shape[1]]
        if self.convolution is not None:
            x, seen = self.convolution(x, state.conv.contiguous())
            state.conv = seen[:, size : size + state.conv.shape[1]]
        return self.feed_forward(x.flatten(0, 1)).view(x.shape)


def _product(layer: nn.Module) -> Product:
    assert isinstance(layer, SparseLinear)
    return layer.weight, layer.bias


def _distance_bias(attention: SegmentAttention) -> Tensor:
    bias: Tensor = attention.distance_bias.detach()[:, attention.distances]  # type: ignore[index]
    return bias.contiguous()
