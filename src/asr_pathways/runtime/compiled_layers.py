"""Compiled layers in place of those of a network of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.models.emformer import EmformerLayer, LayerState, Windows
from asr_pathways.runtime.kernels import lstm_step
from asr_pathways.runtime.kernels.encoder_layer import Attention, Convolution, FeedForward
from asr_pathways.runtime.kernels.extension import check_runner
from asr_pathways.runtime.layers import FEW, MANY, Layers, Runner

WINDOWS = 1024
"""Of a convolution's input that are multiplied at once: all of them would be several times as large as the input."""


class CompiledLinear(nn.Module):
    """``nn.Linear`` by a compiled layer: (..., in) -> (..., out), float32 on the CPU.

    NumPy views of the tensors go in and out.

    Args:
        layer: as `Layers.linear` makes it.
        runner: of its products.
        nbytes: of its weight.
    """

    def __init__(self, layer: Any, runner: Runner, nbytes: int) -> None:
        super().__init__()
        self.layer, self.runner, self.nbytes = layer, runner, nbytes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch.from_numpy(self.layer.multiply(rows.numpy(), self.runner))
        return y.view(*x.shape[:-1], y.shape[-1])


class CompiledConvolution(nn.Module):
    """``nn.Conv1d`` without padding, dilation and groups: (B, in, T) -> (B, out, T'), by products of its windows.

    Args:
        product: of a window (in * kernel,).
        kernel, stride: in frames.
    """

    def __init__(self, product: CompiledLinear, kernel: int, stride: int) -> None:
        super().__init__()
        self.product, self.kernel, self.stride = product, kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        frames, count = x.transpose(1, 2), (x.shape[2] - self.kernel) // self.stride + 1
        parts = []
        for start in range(0, count, WINDOWS):
            end = min(count, start + WINDOWS) - 1
            part = frames[:, start * self.stride : end * self.stride + self.kernel]
            parts.append(self.product(part.unfold(1, self.kernel, self.stride).flatten(2)))
        return torch.cat(parts, dim=1).transpose(1, 2)


class CompiledLstm(nn.Module):
    """``nn.LSTM`` (batch first, one direction) by compiled layers: (B, U, D) and its state -> the same.

    Args:
        cells: of each layer, those of its input and of its state.
        threads: of each product.
        nbytes: of the weights.
    """

    def __init__(self, cells: list[tuple[Any, Any]], threads: int, nbytes: int) -> None:
        super().__init__()
        self.cells, self.threads, self.nbytes = cells, threads, nbytes

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            zeros = x.new_zeros(len(self.cells), x.shape[0], self.cells[0][1].shape[1])
            state = zeros, zeros
        hidden, cell = list(state[0]), list(state[1])
        out = []
        for step in x.unbind(1):
            for number, (by_input, by_hidden) in enumerate(self.cells):
                before = hidden[number].contiguous(), cell[number].contiguous()
                step, cell[number] = lstm_step(step.contiguous(), *before, by_input, by_hidden, self.threads)
                hidden[number] = step
            out.append(step)
        return torch.stack(out, dim=1), (torch.stack(hidden), torch.stack(cell))


class CompiledEmformerLayer(nn.Module):
    """An `EmformerLayer` in two calls, or three with a convolution.

    Args:
        layer: with a `CompiledLinear` for each of its linear layers; the distance bias is copied.
        threads: of each product.
    """

    def __init__(self, layer: EmformerLayer, threads: int) -> None:
        super().__init__()
        attention, conv, feed_forward = layer.attention, layer.conv, layer.feed_forward
        products = _compiled(attention.query), _compiled(attention.key_value), _compiled(attention.out)
        bias: Tensor = attention.distance_bias.detach()[:, attention.distances]  # type: ignore[index]
        self.attention = Attention(attention.norm, *products, bias.contiguous(), threads)
        self.convolution = None
        if conv is not None:
            ends = _compiled(conv.inwards), _compiled(conv.out)
            self.convolution = Convolution(conv.norm, ends[0], conv.depthwise, conv.depthwise_norm, ends[1], threads)
        norm, inwards, _, outwards = feed_forward
        assert isinstance(norm, nn.LayerNorm)
        self.feed_forward = FeedForward(norm, _compiled(inwards), _compiled(outwards), threads)

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


def _compiled(module: nn.Module) -> Any:
    assert isinstance(module, CompiledLinear)
    return module.layer


def stored(weight: Tensor, bias: Tensor | None, layers: Layers, rows: int, exact: bool = False) -> tuple[Any, int]:
    """The compiled layer of a weight (out, in) and a bias (out,), and its bytes; see `Layers.linear`."""
    return layers.linear(weight.detach().numpy(), None if bias is None else bias.detach().numpy(), rows, exact)


def compiled_linear(module: nn.Linear, layers: Layers, rows: int, exact: bool = False) -> CompiledLinear:
    """A layer for products of about so many rows; see `Layers.linear`."""
    layer, nbytes = stored(module.weight, module.bias, layers, rows, exact)
    return CompiledLinear(layer, check_runner(layers.threads, None), nbytes)


def compiled_convolution(module: nn.Conv1d, layers: Layers) -> CompiledConvolution:
    """A convolution as `replaceable` has it; exact: convolutions come first, and all that follows is made of them."""
    layer, nbytes = stored(module.weight.flatten(1), module.bias, layers, MANY, exact=True)
    product = CompiledLinear(layer, check_runner(layers.threads, None), nbytes)
    return CompiledConvolution(product, module.kernel_size[0], module.stride[0])


def compiled_lstm(module: nn.LSTM, layers: Layers, exact: bool = False) -> CompiledLstm:
    """An LSTM, which runs one step at a time; see `Layers.linear`."""
    cells, nbytes = [], 0
    for number in range(module.num_layers):
        pair = []
        for kind in ("ih", "hh"):
            weight, bias = getattr(module, f"weight_{kind}_l{number}"), getattr(module, f"bias_{kind}_l{number}", None)
            layer, size = stored(weight, bias, layers, FEW, exact)
            pair.append(layer)
            nbytes += size
        cells.append((pair[0], pair[1]))
    return CompiledLstm(cells, layers.threads, nbytes)


def replaceable(module: nn.Module, pruned: bool) -> bool:
    """Whether there is a compiled layer in place of a module; of convolutions and LSTMs, for pruned ones."""
    if type(module) is nn.Conv1d:
        plain = module.groups == 1 and module.dilation == (1,) and module.padding in ((0,), "valid")
        return pruned and plain
    if type(module) is nn.LSTM:
        return pruned and module.batch_first and not module.bidirectional and not module.proj_size
    return type(module) is nn.Linear


def rows_of(name: str, stepwise: Sequence[str]) -> int:
    """Rows of activations of a layer by its name, where modules ``stepwise`` run one frame or token at a time."""
    return FEW if any(name == one or name.startswith(f"{one}.") for one in stepwise) else MANY


@contextmanager
def recorded(network: nn.Module) -> Iterator[Collection[str]]:
    """The names of modules that are called while the context lasts: others' weights are read by other modules."""
    called: set[str] = set()

    def hook(name: str) -> Any:
        return lambda *_: called.add(name)

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in network.named_modules()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()
