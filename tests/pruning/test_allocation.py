from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.pruning.selection import erk, global_, kept, uniform

SHAPES = [(512, 512), (2048, 512), (64, 64, 3), (10, 40)]
SIZES = [math.prod(shape) for shape in SHAPES]


@given(st.integers(0, 10**6), st.floats(0, 0.999))
def test_kept_rounds_as_torch_prune_does(count: int, sparsity: float) -> None:
    assert kept(count, sparsity) == count - round(sparsity * count)


def test_uniform_gives_every_tensor_the_same_sparsity() -> None:
    assert uniform(SIZES, 0.7) == [size - round(0.7 * size) for size in SIZES]


@given(st.floats(0.05, 0.95))
def test_erk_meets_the_budget_and_keeps_more_of_small_tensors(sparsity: float) -> None:
    counts = erk(SIZES, SHAPES, sparsity)
    assert sum(counts) == pytest.approx((1 - sparsity) * sum(SIZES), abs=len(SIZES))
    densities = [count / size for count, size in zip(counts, SIZES, strict=True)]
    assert all(0 < density <= 1 for density in densities)
    small_to_large = [densities[3], densities[2], densities[0], densities[1]]
    assert small_to_large == sorted(small_to_large, reverse=True)


def test_erk_is_in_proportion_to_the_sum_over_the_product_of_dimensions() -> None:
    shapes = [(100, 100), (200, 100)]
    first, second = erk([10_000, 20_000], shapes, 0.95)
    assert (first / 10_000) / (second / 20_000) == pytest.approx((200 / 10_000) / (300 / 20_000), rel=1e-2)


@given(st.lists(st.floats(0, 0.99), min_size=2, max_size=6))
def test_erk_never_gives_a_tensor_more_at_a_higher_sparsity(sparsities: list[float]) -> None:
    counts = [erk(SIZES, SHAPES, sparsity) for sparsity in sorted(sparsities)]
    for lower, higher in pairwise(counts):
        assert all(b <= a for a, b in zip(lower, higher, strict=True))


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=20), min_size=1, max_size=4), st.floats(0, 0.99))
def test_global_counts_are_those_of_one_ranking_of_everything(scores: list[list[int]], sparsity: float) -> None:
    ranked = sorted(
        (-value, tensor, index) for tensor, values in enumerate(scores) for index, value in enumerate(values)
    )
    best = ranked[: kept(len(ranked), sparsity)]
    expected = [sum(tensor == number for _, tensor, _ in best) for number in range(len(scores))]
    assert global_([torch.tensor(values, dtype=torch.float32) for values in scores], sparsity) == expected
