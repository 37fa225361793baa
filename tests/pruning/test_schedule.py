from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.pruning.schedule import cosine_decay, stages


def test_iterative_pruning_takes_a_fifth_of_what_is_left() -> None:
    assert stages("iterative", 0.7) == pytest.approx((0.2, 0.36, 0.488, 0.5904, 0.67232, 0.7))
    assert stages("iterative", 0.2) == (0.2,)
    assert stages("iterative", 0.0) == (0.0,)


def test_linear_and_cubic_steps() -> None:
    assert stages("linear", 0.8, count=4) == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert stages("cubic", 0.8, count=2) == pytest.approx((0.7, 0.8))


@given(
    st.sampled_from(["oneshot", "iterative", "cubic", "linear"]),
    st.floats(0, 0.99),
    st.floats(0.05, 0.9),
    st.integers(1, 30),
)
def test_every_schedule_rises_to_exactly_its_sparsity(kind: str, sparsity: float, share: float, count: int) -> None:
    reached = stages(kind, sparsity, share=share, count=count)
    assert reached[-1] == sparsity
    assert all(a <= b for a, b in pairwise(reached))
    assert reached[0] >= 0


def test_the_cosine_falls_from_all_to_nothing_and_stays_there() -> None:
    assert [cosine_decay(0.4, step, 10) for step in (0, 5, 10, 15)] == pytest.approx([0.4, 0.2, 0, 0])
