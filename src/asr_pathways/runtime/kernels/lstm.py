"""One step of an LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats

if TYPE_CHECKING:
    from torch import Tensor

    from asr_pathways.runtime.kernels import _sparse


def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    by_input: _sparse.Linear,
    by_hidden: _sparse.Linear,
    threads: int = 1,
    *,
    variant: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of ``torch.nn.LSTMCell`` by compiled layers, for n sequences side by side.

    Args:
        x: (n, input), contiguous float32 on the CPU, as all tensors here.
        h: (n, hidden).
        c: (n, hidden).
        by_input: of a weight (4 * hidden, input), rows of the input, forget, cell and output gate in this order
            (torch's); torch's two biases are the sum of those of both layers.
        by_hidden: of a weight (4 * hidden, hidden).
        threads: how many threads share the rows of the weights.
        variant: one of `variants()`; the fastest if not given.

    Returns:
        The next h and c, each (n, hidden).

    Raises:
        PathwaysError: if shapes, types or devices do not fit.
    """
    import torch

    rows, hidden = by_hidden.shape
    if rows != 4 * hidden or by_input.shape[0] != rows:
        raise PathwaysError(f"weights of an LSTM have 4 * hidden rows, not {by_input.shape} and {by_hidden.shape}")
    n = x.shape[0]
    check_floats(x, "x", None, by_input.shape[1])
    check_floats(h, "h", n, hidden)
    check_floats(c, "c", n, hidden)
    runner = extension.check_runner(threads, variant)
    h_next, c_next = torch.empty(n, hidden), torch.empty(n, hidden)
    states = x.data_ptr(), h.data_ptr(), c.data_ptr()
    extension.compiled.lstm_step(by_input, by_hidden, *states, n, h_next.data_ptr(), c_next.data_ptr(), runner)
    return h_next, c_next
