"""One step of an LSTM with sparse weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats
from asr_pathways.runtime.kernels.matrix import SparseMatrix

if TYPE_CHECKING:
    from torch import Tensor


def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: SparseMatrix,
    w_hh: SparseMatrix,
    bias: Tensor | None = None,
    threads: int = 1,
    *,
    variant: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of ``torch.nn.LSTMCell`` with sparse weights, for n sequences side by side.

    Args:
        x: (n, input), contiguous float32 on the CPU, as all tensors here.
        h: (n, hidden).
        c: (n, hidden).
        w_ih: (4 * hidden, input); rows of the input, forget, cell and output gate in this order (torch's).
        w_hh: (4 * hidden, hidden).
        bias: (4 * hidden,), the sum of torch's two.
        threads: how many threads share the rows of the weights.
        variant: one of `variants()`; the fastest if not given.

    Returns:
        The next h and c, each (n, hidden).

    Raises:
        PathwaysError: if shapes, types or devices do not fit.
    """
    import torch

    rows, hidden = w_hh.shape
    if rows != 4 * hidden or w_ih.shape[0] != rows:
        raise PathwaysError(f"weights of an LSTM have 4 * hidden rows, not {w_ih.shape} and {w_hh.shape}")
    n = x.shape[0]
    check_floats(x, "x", None, w_ih.shape[1])
    check_floats(h, "h", n, hidden)
    check_floats(c, "c", n, hidden)
    runner = extension.check_runner(threads, variant)
    by_input, by_hidden = w_ih.product(bias), w_hh.product()
    h_next, c_next = torch.empty(n, hidden), torch.empty(n, hidden)
    states = x.data_ptr(), h.data_ptr(), c.data_ptr()
    extension.compiled.lstm_step(by_input, by_hidden, *states, n, h_next.data_ptr(), c_next.data_ptr(), runner)
    return h_next, c_next
