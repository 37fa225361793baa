"""When each token was spoken, from cross-attention, by dynamic time warping.

As openai-whisper's ``timing.py`` does (arXiv 2212.04356; Sakoe and Chiba 1978 for the warping): attention is normalised
over the tokens, smoothed by a median over time and averaged over heads; then the monotonic path of most attention is
found. Here the warping takes one pass a token, over all frames at once, and the medians one pass a comparison.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

WIDTH = 7
"""Frames of the median."""


def word_times(attention: Floats, seconds_per_frame: float) -> list[tuple[float, float]]:
    """(start, end) of each token, in seconds: a token ends where the next one starts, the last one with the frames.

    Args:
        attention: (heads, tokens, frames): what each token had when it was predicted, of the heads that follow the
            audio, over its own frames without padding. With the row of the token that ends the text, the times before
            it leave out the silence at the end.
        seconds_per_frame: of the encoder, 0.02 in Whisper.
    """
    _, tokens, frames = attention.shape
    if not tokens:
        return []
    mean, deviation = attention.mean(axis=1, keepdims=True), attention.std(axis=1, keepdims=True)
    normal = (attention - mean) / np.maximum(deviation, np.float32(1e-10))
    matrix = np.mean([_smooth(head) for head in normal], axis=0, dtype=np.float64)
    bounds = [*warp(-matrix).tolist(), frames]
    return [(start * seconds_per_frame, end * seconds_per_frame) for start, end in pairwise(bounds)]


def warp(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where each row begins on the cheapest path from the first to the last element: (rows,) columns.

    A step of the path goes to the next column, the next row, or both. Equal costs: a row begins as early as it can.

    Args:
        cost: (rows, columns) of the elements.
    """
    rows, columns = cost.shape
    sums = np.cumsum(cost, axis=1)
    totals = np.empty_like(cost)  # of the cheapest path to each element
    entries = np.empty_like(cost)  # of the cheapest one that enters the row there, less the sum of the row before it
    totals[0] = sums[0]
    for row in range(1, rows):
        above = totals[row - 1]
        entered = entries[row]
        entered[0] = above[0]
        np.minimum(above[1:], above[:-1], out=entered[1:])
        entered[1:] -= sums[row, :-1]
        totals[row] = np.minimum.accumulate(entered) + sums[row]
    begins = np.zeros(rows, dtype=np.int64)
    column = columns - 1
    for row in range(rows - 1, 0, -1):
        begins[row] = column = int(np.argmin(entries[row, : column + 1]))
        column -= bool(column and totals[row - 1, column - 1] <= totals[row - 1, column])
    return begins


def _smooth(rows: Floats) -> Floats:
    """(tokens, frames): the median of `WIDTH` frames around each, reflected at the ends; as it is if there are few."""
    half, frames = WIDTH // 2, rows.shape[1]
    if frames <= half:
        return rows
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    shifted = [padded[:, place : place + frames] for place in range(WIDTH)]
    # Of half of them and two more, neither the smallest nor the largest is the median of all: drop them, take the next.
    present, coming = shifted[: half + 2], shifted[half + 2 :]
    while True:
        for place in range(1, len(present)):
            present[0], present[place] = _ordered(present[0], present[place])
        for place in range(1, len(present) - 1):
            present[place], present[-1] = _ordered(present[place], present[-1])
        present = present[1:-1]
        if not coming:
            return present[0]
        present.append(coming.pop())


def _ordered(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    return np.minimum(first, second), np.maximum(first, second)
