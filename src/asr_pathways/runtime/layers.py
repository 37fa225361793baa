"""Layers that multiply by sparse weights, in place of torch's own, for inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr_pathways.runtime.kernels import SparseMatrix, lstm_step

DENSEST = 0.6
"""A weight of which more is kept runs dense: that is as fast."""

Pack = Callable[[Tensor], SparseMatrix]


class SparseLinear(nn.Module):
    """``nn.Linear`` with a sparse weight: (..., in) -> (..., out)."""

    def __init__(self, linear: nn.Linear, pack: Pack, threads: int) -> None:
        super().__init__()
        self.weight = pack(linear.weight)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.threads = threads

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return self.weight.matmul(rows, self.bias, self.threads).view(*x.shape[:-1], -1)


class SparseLstm(nn.Module):
    """``nn.LSTM`` (batch first, one direction) with sparse weights: (B, U, D) and its state -> the same."""

    def __init__(self, lstm: nn.LSTM, pack: Pack, threads: int) -> None:
        super().__init__()
        self.cells = []
        for layer in range(lstm.num_layers):
            w_ih, w_hh = (pack(getattr(lstm, f"weight_{kind}_l{layer}")) for kind in ("ih", "hh"))
            biases = [getattr(lstm, f"bias_{kind}_l{layer}").detach() for kind in ("ih", "hh")] if lstm.bias else []
            self.cells.append((w_ih, w_hh, biases[0] + biases[1] if biases else None))
        self.hidden = lstm.hidden_size
        self.threads = threads

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            zeros = x.new_zeros(len(self.cells), x.shape[0], self.hidden)
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


def make_sparse(model: nn.Module, pack: Pack, threads: int) -> int:
    """Puts sparse layers in the place of those of ``model`` whose weights are sparse enough; gives their bytes."""
    size = 0
    for name, module in list(model.named_modules()):
        sparse: SparseLinear | SparseLstm
        if isinstance(module, nn.Linear) and _sparse(module.weight):
            sparse = SparseLinear(module, pack, threads)
            size += sparse.weight.nbytes
        elif isinstance(module, nn.LSTM) and all(
            _sparse(weight) for key, weight in module.named_parameters() if "weight" in key
        ):
            sparse = SparseLstm(module, pack, threads)
            size += sum(w_ih.nbytes + w_hh.nbytes for w_ih, w_hh, _ in sparse.cells)
        else:
            continue
        model.set_submodule(name, sparse)
    return size


def _sparse(weight: Tensor) -> bool:
    return int(weight.count_nonzero()) <= DENSEST * weight.numel()
