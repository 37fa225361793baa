"""Steps of an LSTM beside torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import available, lstm_step, variants
from asr_pathways.runtime.layers import FEW, Format, formats

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
EXACT = formats("float32") if available() else []


def layer(weight: Tensor, bias: Tensor | None = None, one: Format = Format("float32", "sparse")) -> Any:  # noqa: B008
    compiled, _ = one.store(weight.detach().numpy(), "unstructured")
    return one.layer(compiled, None if bias is None else bias.detach().numpy(), FEW)


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("hidden", [5, 64])
@pytest.mark.parametrize("one", EXACT, ids=lambda one: one.name)
def test_a_step_is_torchs(n: int, hidden: int, one: Format) -> None:
    cell, generator = nn.LSTMCell(30, hidden), torch.Generator().manual_seed(n)
    with torch.no_grad():
        for weight in (cell.weight_ih, cell.weight_hh):
            weight *= torch.rand(weight.shape, generator=generator) < 0.3
        x, h, c = (
            size * torch.randn(n, width, generator=generator) for size, width in ((3, 30), (1, hidden), (3, hidden))
        )
        expected = cell(x, (h, c))
        layers = layer(cell.weight_ih, cell.bias_ih, one), layer(cell.weight_hh, cell.bias_hh, one)
        for variant in [variants()[0]] if one.kind == "bitmap" else variants():
            for threads in (1, 2):
                found = lstm_step(x, h, c, *layers, threads, variant=variant)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gates_of_any_size_give_what_torch_gives() -> None:
    zero, ones = torch.zeros(1, 1), torch.ones(1, 1)
    for size in (0.0, 1e-3, 5.0, 50.0, 1e4):
        bias = torch.tensor([size, -size, size, size])
        h, c = lstm_step(zero, zero, ones, layer(torch.zeros(4, 1), bias), layer(torch.zeros(4, 1)))
        i, f, g, o = bias.sigmoid()[0], bias.sigmoid()[1], bias.tanh()[2], bias.sigmoid()[3]
        torch.testing.assert_close(c.view(()), f + i * g, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(h.view(()), o * (f + i * g).tanh(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", variants())
def test_no_step_hides_a_nan(variant: str) -> None:
    x, hidden = torch.ones(2, 9), torch.zeros(2, 10)
    x[0, 5] = float("nan")
    h, c = lstm_step(x, hidden, hidden, layer(torch.ones(40, 9)), layer(torch.ones(40, 10)), variant=variant)
    assert h[0].isnan().all() and c[0].isnan().all() and h[1].isfinite().all() and c[1].isfinite().all()


def resized(x: Tensor, size: int) -> Tensor:
    """The tensor, its memory cut to so many bytes, as sharded training does."""
    x.untyped_storage().resize_(size)
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3), r"x must have shape \(n, 4\), not \(2, 3\)"),
        (torch.ones(4), r"x must have shape \(n, 4\), not \(4,\)"),
        (torch.ones(2, 4, dtype=torch.float64), "x must be float32, not float64"),
        (torch.ones(4, 2).T, "x must be contiguous"),
        (torch.ones(2, 4, device="meta"), "x must be on the CPU, not on meta"),
        (torch._neg_view(torch.ones(2, 4)), "x is a negated view, whose memory has the other signs"),
        (resized(torch.ones(2, 4), 0), "x is larger than its memory, which was resized"),
        (resized(torch.ones(2, 4), 28), "x is larger than its memory, which was resized"),
        (resized(torch.ones(4, 4)[2:], 60), "x is larger than its memory, which was resized"),
        (torch.ones(2, 4).to_sparse(), "x must be a dense tensor, not sparse_coo"),
        (torch.ones(2, 4).to_sparse_csr(), "x must be a dense tensor, not sparse_csr"),
        (torch.ones(2, 4).to_mkldnn(), "x must be a dense tensor, not _mkldnn"),
        (torch.ones(1, 4).expand(2, 4), "x must be contiguous"),
    ],
)
def test_activations_that_do_not_fit_are_refused(x: Tensor, message: str) -> None:
    state = torch.zeros(2, 3)
    with pytest.raises(PathwaysError, match=message):
        lstm_step(x, state, state, layer(torch.ones(12, 4)), layer(torch.ones(12, 3)))


def test_other_arguments_that_do_not_fit_are_refused() -> None:
    x, layers = torch.ones(2, 4), (layer(torch.ones(16, 4)), layer(torch.ones(16, 4)))
    with pytest.raises(PathwaysError, match=r"h must have shape \(2, 4\), not \(1, 4\)"):
        lstm_step(x, x[:1], x, *layers)
    with pytest.raises(PathwaysError, match="threads must be 1 or more, not 0"):
        lstm_step(x, x, x, *layers, threads=0)
    with pytest.raises(PathwaysError, match=r"4 \* hidden rows, not \(3, 4\) and \(3, 4\)"):
        lstm_step(x, x, x, layer(torch.ones(3, 4)), layer(torch.ones(3, 4)))
    with pytest.raises(PathwaysError, match="no kernels 'abacus' here"):
        lstm_step(x, x, x, *layers, variant="abacus")
