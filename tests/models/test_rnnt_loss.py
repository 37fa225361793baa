from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.models.rnnt_loss import rnnt_loss

# Logits, costs and gradients of the next two cases are those that torchaudio tests its RNN-T loss with
# (pytorch/audio, test/torchaudio_unittest/functional/functional_impl.py and rnnt/utils.py, BSD-2-Clause); the first
# goes back to warp-transducer (HawkAaron/warp-transducer, Apache-2.0).
B1_T2_U3_D5 = {
    "logits": [
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
    ],
    "targets": [[1, 2]],
    "gradients": [
        [
            [0.17703132, -0.39992708, 0.17703132, 0.17703132, -0.13116692],
            [0.12247062, 0.12247062, -0.181684, 0.12247062, -0.1857276],
            [0.06269141, 0.06269141, 0.06928471, 0.12624498, -0.32091248],
        ],
        [
            [0.05456069, -0.2182428, 0.05456069, 0.05456069, 0.05456069],
            [0.12073967, 0.12073967, -0.48295838, 0.12073967, 0.12073967],
            [0.30741188, 0.16871123, 0.18645471, 0.16871123, -0.83128875],
        ],
    ],
}
# fmt: off
B2_T4_U3_D3 = {
    "logits": [
        0.065357, 0.787530, 0.081592, 0.529716, 0.750675, 0.754135, 0.609764, 0.868140, 0.622532,
        0.668522, 0.858039, 0.164539, 0.989780, 0.944298, 0.603168, 0.946783, 0.666203, 0.286882,
        0.094184, 0.366674, 0.736168, 0.166680, 0.714154, 0.399400, 0.535982, 0.291821, 0.612642,
        0.324241, 0.800764, 0.524106, 0.779195, 0.183314, 0.113745, 0.240222, 0.339470, 0.134160,
        0.505562, 0.051597, 0.640290, 0.430733, 0.829473, 0.177467, 0.320700, 0.042883, 0.302803,
        0.675178, 0.569537, 0.558474, 0.083132, 0.060165, 0.107958, 0.748615, 0.943918, 0.486356,
        0.418199, 0.652408, 0.024243, 0.134582, 0.366342, 0.295830, 0.923670, 0.689929, 0.741898,
        0.250005, 0.603430, 0.987289, 0.592606, 0.884672, 0.543450, 0.660770, 0.377128, 0.358021,
    ],
    "targets": [[1, 2], [1, 1]],
    "gradients": [
        -0.186844, -0.062555, 0.249399, -0.203377, 0.202399, 0.000977, -0.141016, 0.079123, 0.061893,
        -0.011552, -0.081280, 0.092832, -0.154257, 0.229433, -0.075176, -0.246593, 0.146405, 0.100188,
        -0.012918, -0.061593, 0.074512, -0.055986, 0.219831, -0.163845, -0.497627, 0.209240, 0.288387,
        0.013605, -0.030220, 0.016615, 0.113925, 0.062781, -0.176706, -0.667078, 0.367659, 0.299419,
        -0.356344, -0.055347, 0.411691, -0.096922, 0.029459, 0.067463, -0.063518, 0.027654, 0.035863,
        -0.154499, -0.073942, 0.228441, -0.166790, -0.000088, 0.166878, -0.172370, 0.105565, 0.066804,
        0.023875, -0.118256, 0.094381, -0.104707, -0.108934, 0.213642, -0.369844, 0.180118, 0.189726,
        0.025714, -0.079462, 0.053748, 0.122328, -0.238789, 0.116460, -0.598687, 0.302203, 0.296484,
    ],
}
# fmt: on


def full(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of a batch without padding."""
    batch, frames, nodes, _ = logits.shape
    return torch.full((batch,), frames), torch.full((batch,), nodes - 1)


@pytest.mark.parametrize(
    ("case", "shape", "blank", "costs"),
    [
        (B1_T2_U3_D5, (1, 2, 3, 5), -1, [5.09566688538]),
        (B1_T2_U3_D5, (1, 2, 3, 5), 4, [5.09566688538]),
        (B2_T4_U3_D3, (2, 4, 3, 3), 0, [4.2806528590890736, 3.9384369822503591]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_costs_and_gradients(
    case: dict[str, list[object]], shape: tuple[int, ...], blank: int, costs: list[float], dtype: torch.dtype
) -> None:
    logits = torch.tensor(case["logits"], dtype=dtype).view(shape).requires_grad_()
    found = rnnt_loss(logits, torch.tensor(case["targets"]), *full(logits), blank=blank)
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor(costs, dtype=dtype), rtol=0, atol=1e-5)
    expected = torch.tensor(case["gradients"], dtype=dtype).view(shape)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=2e-6)


def test_published_cost_with_another_blank() -> None:
    logits = torch.tensor(B1_T2_U3_D5["logits"]).view(1, 2, 3, 5)
    cost = rnnt_loss(logits, torch.tensor([[1, 2]]), *full(logits), blank=0)
    assert float(cost) == pytest.approx(4.4956668, abs=1e-5)


@pytest.mark.parametrize(("frames", "symbols", "vocabulary"), [(10, 2, 4), (1, 3, 5), (7, 0, 3), (40, 12, 6)])
def test_equal_logits_have_a_closed_form(frames: int, symbols: int, vocabulary: int) -> None:
    """Every alignment has frames + symbols steps of probability 1/V; the last one is always a blank."""
    logits = torch.full((1, frames, symbols + 1, vocabulary), 0.1, dtype=torch.float64)
    cost = rnnt_loss(logits, torch.ones((1, symbols), dtype=torch.int64), *full(logits), blank=0)
    alignments = math.comb(frames - 1 + symbols, symbols)
    assert float(cost) == pytest.approx((frames + symbols) * math.log(vocabulary) - math.log(alignments), abs=1e-9)
    if (frames, symbols, vocabulary) == (10, 2, 4):
        assert float(cost) == pytest.approx(12.6281991, abs=1e-6)


def brute_force(logits: Tensor, targets: list[int], frames: int, blank: int) -> Tensor:
    """The cost of one utterance (T, U + 1, V), straight from the definition: a sum over all alignments.

    An alignment is a walk of ``frames`` blanks and ``len(targets)`` symbols whose last step is a blank: choose
    which of the other steps are symbols.
    """
    scores = logits.log_softmax(dim=-1)
    steps = frames - 1 + len(targets)
    walks = []
    for places in combinations(range(steps), len(targets)):
        time = symbol = 0
        walk = scores.new_zeros(())
        for step in range(steps + 1):
            if step in places:
                walk = walk + scores[time, symbol, targets[symbol]]
                symbol += 1
            else:
                walk = walk + scores[time, symbol, blank]
                time += 1
        assert (time, symbol) == (frames, len(targets))
        walks.append(walk)
    return -torch.stack(walks).logsumexp(dim=0)


@st.composite
def padded_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    batch, frames, symbols = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    vocabulary = draw(st.integers(2, 5))
    blank = draw(st.integers(0, vocabulary - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = scale * torch.randn(batch, frames, symbols + 1, vocabulary, generator=generator, dtype=torch.float64)
    others = torch.tensor([index for index in range(vocabulary) if index != blank])
    targets = others[torch.randint(len(others), (batch, symbols), generator=generator)]
    frame_lengths = torch.tensor(draw(st.lists(st.integers(1, frames), min_size=batch, max_size=batch)))
    target_lengths = torch.tensor(draw(st.lists(st.integers(0, symbols), min_size=batch, max_size=batch)))
    return logits, targets, frame_lengths, target_lengths, blank


@settings(max_examples=60, deadline=None, derandomize=True)
@given(padded_batches())
def test_cost_and_gradient_are_those_of_the_sum_over_all_alignments(
    case: tuple[Tensor, Tensor, Tensor, Tensor, int],
) -> None:
    logits, targets, frame_lengths, target_lengths, blank = case
    weights = torch.linspace(0.5, 2.0, len(logits), dtype=torch.float64)  # not every cost counts alike
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    costs = rnnt_loss(ours, targets, frame_lengths, target_lengths, blank)
    expected = torch.stack(
        [
            brute_force(row, labels[:length].tolist(), int(frames), blank)
            for row, labels, frames, length in zip(theirs, targets, frame_lengths, target_lengths, strict=True)
        ]
    )
    torch.testing.assert_close(costs, expected, rtol=1e-9, atol=1e-9)
    (costs * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)


def random_case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (3, 3), generator=generator)
    return logits.to(dtype), targets, torch.tensor([6, 4, 1]), torch.tensor([2, 3, 0])


def test_gradcheck() -> None:
    logits, *rest = random_case()
    assert torch.autograd.gradcheck(lambda scores: rnnt_loss(scores, *rest), (logits.requires_grad_(),))


def outside(logits: Tensor, frame_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """True where a node (B, T, U + 1) is padding."""
    time = torch.arange(logits.shape[1])[None, :, None]
    symbol = torch.arange(logits.shape[2])[None, None, :]
    return (time >= frame_lengths[:, None, None]) | (symbol > target_lengths[:, None, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_has_no_influence_and_no_gradient(dtype: torch.dtype) -> None:
    logits, targets, frame_lengths, target_lengths = random_case(dtype)
    padding = outside(logits, frame_lengths, target_lengths)
    assert 0 < int(padding.sum()) < padding.numel()
    plain = logits.clone().requires_grad_()
    costs = rnnt_loss(plain, targets, frame_lengths, target_lengths)
    costs.sum().backward()

    other_targets = targets.clone()
    for row, length in enumerate(target_lengths.tolist()):
        other_targets[row, length:] = 4  # even blank, the last symbol
    loud = torch.where(padding[..., None], 1e4 * torch.randn_like(logits), logits).requires_grad_()
    other = rnnt_loss(loud, other_targets, frame_lengths, target_lengths)
    other.sum().backward()
    assert torch.equal(costs, other)
    assert torch.equal(plain.grad, loud.grad)
    assert not plain.grad[padding].any()
    assert plain.grad[~padding].any(dim=-1).all()

    for row in range(3):
        frames, symbols = int(frame_lengths[row]), int(target_lengths[row])
        alone = rnnt_loss(
            logits[row : row + 1, :frames, : symbols + 1],
            targets[row : row + 1, :symbols],
            frame_lengths[row : row + 1],
            target_lengths[row : row + 1],
        )
        torch.testing.assert_close(alone[0], costs[row].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_summed_in_single(dtype: torch.dtype, tolerance: float) -> None:
    logits, *rest = random_case(dtype)
    half = logits.clone().requires_grad_()
    single = logits.float().requires_grad_()
    costs, expected = rnnt_loss(half, *rest), rnnt_loss(single, *rest)
    assert costs.dtype == torch.float32
    assert torch.equal(costs, expected)
    costs.sum().backward()
    expected.sum().backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), single.grad, rtol=tolerance, atol=tolerance)


def test_long_utterances_of_improbable_texts_stay_finite() -> None:
    """Every symbol has probability e-60: far beyond what a product of float32 numbers could hold."""
    logits = torch.zeros(1, 300, 81, 7)
    logits[..., -1] = 60.0
    logits.requires_grad_()
    cost = rnnt_loss(logits, torch.zeros((1, 80), dtype=torch.int64), *full(logits))
    cost.sum().backward()
    expected = 80 * 60.0 - math.log(math.comb(299 + 80, 80))
    assert cost.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[..., 0].sum()) == pytest.approx(-80, rel=1e-2)  # every text symbol is pushed up


def test_each_gradient_sums_to_zero_over_symbols() -> None:
    logits, *rest = random_case()
    rnnt_loss(logits.requires_grad_(), *rest).sum().backward()
    torch.testing.assert_close(logits.grad.sum(dim=-1), torch.zeros(3, 6, 4, dtype=torch.float64))


def test_no_gradient_is_made_when_none_is_asked_for() -> None:
    logits, *rest = random_case(torch.float32)
    assert not rnnt_loss(logits, *rest).requires_grad
    with torch.no_grad():
        assert torch.equal(rnnt_loss(logits.requires_grad_(), *rest), rnnt_loss(logits, *rest).detach())


def lengths(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("frame_lengths", "target_lengths", "message"),
    [
        (lengths(6, 7, 1), lengths(2, 3, 0), "utterance b: 7 encoder frames, at most 6 fit"),
        (lengths(6, 4, 0), lengths(2, 3, 0), "utterance c: 0 encoder frames, at least 1 needed"),
        (lengths(6, 4, 1), lengths(4, 3, 0), "utterance a: 4 target symbols, at most 3 fit"),
        (lengths(6, 4, 1), lengths(2, 3, -1), "utterance c: -1 target symbols, at least 0 needed"),
        (lengths(6, 4), lengths(2, 3, 0), "3 numbers of encoder frames expected"),
        (lengths(6, 4, 1), lengths(2), "3 numbers of target symbols expected"),
    ],
)
def test_lengths_that_do_not_fit_name_the_utterance(
    frame_lengths: Tensor, target_lengths: Tensor, message: str
) -> None:
    logits, targets, *_ = random_case()
    with pytest.raises(PathwaysError, match=message):
        rnnt_loss(logits, targets, frame_lengths, target_lengths, ids=["a", "b", "c"])


def test_without_names_the_row_is_told() -> None:
    logits, targets, _, target_lengths = random_case()
    with pytest.raises(PathwaysError, match="utterance 1 of the batch: 9 encoder frames"):
        rnnt_loss(logits, targets, torch.tensor([6, 9, 1]), target_lengths)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), r"logits must be \(B, T, U \+ 1, V\)"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(3, dtype=torch.int64), r"targets \(B, U\)"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, dtype=torch.int64), r"ask for targets \(2, 3\), not \(2, 4\)"),
        (torch.zeros(2, 3, 4, 5), torch.full((2, 3), 5), r"must lie in 0..4"),
        (torch.zeros(2, 3, 4, 5), torch.full((2, 3), -1), r"must lie in 0..4"),
    ],
)
def test_shapes_and_symbols_that_do_not_fit(logits: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(PathwaysError, match=message):
        rnnt_loss(logits, targets, torch.tensor([3, 3]), torch.tensor([3, 3]))
