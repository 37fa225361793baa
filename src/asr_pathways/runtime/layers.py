"""Layers that multiply by sparse weights, in place of torch's own, for inference on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr_pathways.runtime.kernels import SparseMatrix, lstm_step


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
