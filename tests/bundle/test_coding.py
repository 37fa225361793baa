from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.bundle import coding, rans
from asr_pathways.bundle.rans import CodingError


def bits(draw: np.random.Generator, length: int, share: float) -> coding.Bits:
    return (draw.random(length) < share).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 3000), max_size=4),
    st.integers(0, 4),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_masks_come_back(lengths: list[int], earlier: int, share: float, seed: int, plain: bool) -> None:
    draw = np.random.default_rng(seed)
    known = [[bits(draw, length, share) for length in lengths] for _ in range(earlier)]
    sequences = [bits(draw, length, share) for length in lengths]
    coded = coding.encode(sequences, known, plain=plain)
    found = coding.decode(coded, lengths, known)
    assert all(np.array_equal(a, b) for a, b in zip(sequences, found, strict=True))
    assert coded.nbytes <= sum((length + 7) // 8 for length in lengths) + 8


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5000), st.integers(1, 254), st.integers(0, 2**32 - 1))
def test_symbols_come_back_whatever_their_levels(count: int, level: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    symbols = draw.integers(0, 256, count, dtype=np.uint8)
    levels = np.where(draw.random(count) < 0.5, level, draw.integers(1, 255, count)).astype(np.uint8)
    assert np.array_equal(rans.decode(rans.encode(symbols, levels), levels), symbols)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_a_large_mask_is_near_its_entropy(share: float) -> None:
    sequence = bits(np.random.default_rng(0), 1_000_000, share)
    coded = coding.encode([sequence], [])
    bound = coding.entropy([sequence], []) / 8
    assert bound <= coded.nbytes <= (1.08 if share < 0.1 else 1.01) * bound + 20


def test_an_earlier_mask_that_is_alike_saves_bits() -> None:
    draw = np.random.default_rng(0)
    first = bits(draw, 200_000, 0.5)
    second = np.where(draw.random(len(first)) < 0.1, 1 - first, first).astype(np.uint8)
    alone, informed = coding.encode([second], []), coding.encode([second], [[first]])
    assert alone.coding == ("bits",)
    assert informed.nbytes < 0.5 * alone.nbytes  # H(0.1) = 0.47
    assert np.array_equal(coding.decode(informed, [len(second)], [[first]])[0], second)


def test_what_follows_from_earlier_masks_costs_nothing() -> None:
    first = bits(np.random.default_rng(0), 80_000, 0.5)
    coded = coding.encode([1 - first], [[first]])
    assert len(coded.levels) == 2
    assert coded.nbytes == 2


def test_probabilities_rise_with_levels_and_reach_both_ends() -> None:
    found = [rans.probability(level) for level in range(256)]
    assert found == sorted(set(found))
    assert (found[0], found[255]) == (0, 255**3)
    assert rans.level_of(0, 5) == rans.NEVER
    assert rans.level_of(5, 5) == rans.ALWAYS
    assert rans.level_of(1, 10**9) == 1
    assert rans.level_of(10**9 - 1, 10**9) == 254


@pytest.mark.parametrize("level", [1, 100, 254])
def test_frequencies_fill_their_scale(level: int) -> None:
    found = rans._frequencies(level)
    assert found.sum() == 1 << 16
    assert found.min() >= 1


def test_other_bytes_are_refused() -> None:
    draw = np.random.default_rng(0)
    symbols = draw.integers(0, 256, 4000, dtype=np.uint8)
    levels = np.full(4000, 90, dtype=np.uint8)
    stream = rans.encode(symbols, levels)
    for changed in (stream[:-2], stream[:-1], stream[:10], np.append(stream, np.zeros(2, np.uint8)), stream ^ 1):
        with pytest.raises(CodingError, match="entropy-coded stream"):
            rans.decode(changed, levels)
