from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.data.segments import cut_at_pauses


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40_000), st.floats(0.5, 1.5), st.integers(0, 3))
def test_parts_are_short_and_lose_nothing(length: int, window: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=length).astype(np.float32)
    parts = list(cut_at_pauses(samples, window))
    assert np.array_equal(np.concatenate(parts), samples)
    assert all(len(part) <= window * 16_000 for part in parts)
    assert all(len(part) >= window * 7_999 for part in parts[:-1])


def test_cuts_in_the_middle_of_a_pause() -> None:
    samples = np.random.default_rng(0).normal(size=48_000).astype(np.float32)
    samples[24_000:29_000] = 0
    first, second = cut_at_pauses(samples, 2.0)
    assert 24_000 < len(first) < 29_000 and len(first) + len(second) == 48_000
