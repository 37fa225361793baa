from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Blocks, Granularity, NOfM, parse_granularity

matrices = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)


@given(matrices, st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000), st.data())
def test_blocks_are_kept_or_dropped_whole(
    shape: tuple[int, ...], rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    kind = Blocks(rows, columns)
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    keep = data.draw(st.integers(0, kind.units(shape)))
    matrix = kind.expand(kind.choose(kind.pool(scores), keep), shape).view(shape[0], -1)
    blocks = {}
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            blocks.setdefault((row // rows, column // columns), set()).add(bool(matrix[row, column]))
    assert len(blocks) == kind.units(shape)
    assert all(len(values) == 1 for values in blocks.values())
    assert sum(True in values for values in blocks.values()) == keep


def test_the_block_score_is_the_sum_over_its_weights() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    assert Blocks(2, 2).pool(scores).tolist() == [12.0, 9.0, 15.0, 9.0]
    assert Blocks(3, 1).pool(scores).tolist() == [12.0, 15.0, 18.0]


def test_four_by_one_blocks_are_four_outputs_of_one_input() -> None:
    mask = Blocks(4, 1).expand(torch.tensor([True, False, False, True]), (8, 2))
    assert mask[:4, 0].all() and mask[4:, 1].all()
    assert int(mask.sum()) == 8


@given(matrices, st.integers(2, 6), st.integers(0, 1000), st.data())
def test_n_of_m_keeps_the_n_best_of_every_m(shape: tuple[int, ...], m: int, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    kind = NOfM(n, m)
    scores = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
    mask = kind.expand(kind.choose(kind.pool(scores), 0), shape).view(shape[0], -1)
    rows = scores.view(shape[0], -1)
    for row in range(rows.shape[0]):
        for start in range(0, rows.shape[1], m):
            group = rows[row, start : start + m].tolist()
            best = sorted(range(len(group)), key=lambda index: (-group[index], index))[:n]
            assert mask[row, start : start + m].nonzero().view(-1).tolist() == sorted(best)


def test_n_of_m_refuses_scores_that_are_not_numbers() -> None:
    with pytest.raises(PathwaysError, match="NaN"):
        NOfM(1, 2).choose(torch.tensor([math.nan, 1.0]), 1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("unstructured", Granularity()),
        ("block:4x1", Blocks(4, 1)),
        ("block:16x16", Blocks(16, 16)),
        ("2:4", NOfM(2, 4)),
    ],
)
def test_granularity_is_written_as_text(text: str, kind: object) -> None:
    assert parse_granularity(text) == kind


@pytest.mark.parametrize("text", ["", "block", "block:0x1", "block:4", "4:2", "2:2", "0:4", "2:4:8", "1:1000"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none of unstructured"):
        parse_granularity(text)
