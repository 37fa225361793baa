"""Compiled layers in place of those of a network of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.runtime.kernels import SparseMatrix
from asr_pathways.runtime.kernels.extension import check_runner
from asr_pathways.runtime.layers import FEW, MANY, Layers, Runner
from asr_pathways.runtime.pathway_cache import DENSE, DENSEST
from asr_pathways.runtime.sparse_layers import SparseLstm

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


def compiled_linear(module: nn.Linear, layers: Layers, rows: int) -> CompiledLinear:
    """A layer for products of about so many rows."""
    bias = None if module.bias is None else module.bias.detach().numpy()
    layer, nbytes = layers.linear(module.weight.detach().numpy(), bias, rows)
    return CompiledLinear(layer, check_runner(layers.threads, None), nbytes)


def compiled_convolution(module: nn.Conv1d, layers: Layers) -> CompiledConvolution:
    """A convolution as `replaceable` has it."""
    bias = None if module.bias is None else module.bias.detach().numpy()
    layer, nbytes = layers.linear(module.weight.detach().flatten(1).numpy(), bias, MANY)
    product = CompiledLinear(layer, check_runner(layers.threads, None), nbytes)
    return CompiledConvolution(product, module.kernel_size[0], module.stride[0])


def compiled_lstm(module: nn.LSTM, layers: Layers) -> SparseLstm:
    """An LSTM of pruned weights."""
    cells = []
    for number in range(module.num_layers):
        w_ih, w_hh = (_matrix(getattr(module, f"weight_{kind}_l{number}"), layers) for kind in ("ih", "hh"))
        bias = None
        if module.bias:
            bias = (getattr(module, f"bias_ih_l{number}") + getattr(module, f"bias_hh_l{number}")).detach()
        cells.append((w_ih, w_hh, bias))
    return SparseLstm(cells, layers.threads)


def _matrix(weight: Tensor, layers: Layers) -> SparseMatrix:
    few = int(weight.count_nonzero()) <= DENSEST * weight.numel()
    return SparseMatrix.pack(weight.detach(), layers.granularity if few else DENSE)


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
