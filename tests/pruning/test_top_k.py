from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import top_k as module
from asr_pathways.pruning.top_k import top_k


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_top_k_keeps_exactly_k_and_breaks_ties_by_lowest_index(values: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))
    best = sorted(range(len(values)), key=lambda index: (-values[index], index))[:keep]
    mask = top_k(torch.tensor(values, dtype=torch.float32), keep)
    assert mask.nonzero().view(-1).tolist() == sorted(best)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_the_threshold_found_by_torch_alone_is_the_same(values: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    flat = torch.tensor(values, dtype=torch.float32)
    assert module._kth_smallest(flat, index) == module._kth_smallest_by_torch(flat, index) == sorted(values)[index]


def test_top_k_keeps_the_shape_and_reads_any_layout() -> None:
    scores = torch.arange(12.0).view(3, 4).t()
    assert torch.equal(top_k(scores, 5), scores >= 7)


def test_infinite_scores_are_the_highest() -> None:
    assert top_k(torch.tensor([1.0, math.inf, 2.0, math.inf]), 3).tolist() == [False, True, True, True]


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(PathwaysError, match="NaN"):
        top_k(torch.tensor([1.0, math.nan, 2.0]), 1)
