from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_pathways.runtime.whisper.alignment import WIDTH, _smooth, warp, word_times


def cheapest(cost: NDArray[np.float64]) -> tuple[float, list[int]]:
    """Cost and first columns of the cheapest path, element by element."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(rows):
        for column in range(columns):
            before = total[row, column], total[row, column + 1], total[row + 1, column]
            total[row + 1, column + 1] = cost[row, column] + min(before)
    row, column, begins = rows, columns, [0] * rows
    while row:
        begins[row - 1] = column - 1
        if row == column == 1:
            break
        moves = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min(moves, key=lambda place: total[place])
    return float(total[rows, columns]), begins


def cost_of(begins: NDArray[np.int64], cost: NDArray[np.float64]) -> float:
    """Of the path whose rows begin at these columns; a row ends before the next begins, or in its column."""
    total = 0.0
    bounds = [*begins.tolist(), cost.shape[1]]
    for row, (start, end) in enumerate(pairwise(bounds)):
        least = cost[row, start:end].sum() if end > start else cost[row, start]
        if row + 1 < len(begins) and end > start:
            least = min(least, least + cost[row, end])  # the next row may begin in this row's last column
        total += float(least)
    return total


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 10_000))
def test_the_path_is_the_cheapest(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).standard_normal((rows, columns))
    assert warp(cost).tolist() == cheapest(cost)[1]


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10_000))
def test_with_equal_costs_the_path_is_a_cheapest_one(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(np.float64)
    begins = warp(cost)
    assert begins[0] == 0
    assert (np.diff(begins) >= 0).all()
    assert cost_of(begins, cost) == cheapest(cost)[0]


@pytest.mark.parametrize("frames", [4, 5, 7, 40])
def test_smoothing_is_the_median(frames: int) -> None:
    rows = np.random.default_rng(frames).integers(0, 5, (6, frames)).astype(np.float32)
    half = WIDTH // 2
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(padded, WIDTH, axis=1), axis=-1)
    assert np.array_equal(_smooth(rows), expected)


def test_few_frames_are_left_as_they_are() -> None:
    rows = np.array([[3.0, 1.0, 2.0]], np.float32)
    assert np.array_equal(_smooth(rows), rows)


def test_tokens_on_a_diagonal_get_its_times() -> None:
    lengths = [10, 25, 40, 15, 60]
    starts = np.cumsum([0, *lengths])
    attention = np.full((3, 5, 150), 1e-4, np.float32)
    for token, (start, end) in enumerate(pairwise(starts)):
        attention[:, token, start:end] = 1 / (end - start)
    attention += np.random.default_rng(1).uniform(0, 1e-3, attention.shape).astype(np.float32)
    found = word_times(attention, 0.02)
    assert found[0][0] == 0.0
    assert found[-1][1] == pytest.approx(3.0)
    for token, (start, end) in enumerate(found):
        assert start == pytest.approx(0.02 * starts[token], abs=0.041)
        assert end == pytest.approx(0.02 * starts[token + 1], abs=0.041)


def test_times_are_ordered_whatever_the_attention_is() -> None:
    for attention in (np.ones((2, 6, 20), np.float32), np.zeros((1, 9, 4), np.float32), np.ones((1, 1, 5), np.float32)):
        times = word_times(attention, 0.02)
        assert len(times) == attention.shape[1]
        flat = [second for pair in times for second in pair]
        assert flat == sorted(flat)
        assert flat[-1] == pytest.approx(0.02 * attention.shape[2])
    assert word_times(np.ones((2, 0, 20), np.float32), 0.02) == []
