from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways import bits
from asr_pathways.pruning import masks

shapes = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)


def random_mask(shape: tuple[int, ...], seed: int, density: float = 0.5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@given(shapes, st.integers(0, 1000))
def test_packing_loses_nothing_and_takes_one_bit_a_weight(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    packed = masks.pack(mask)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(mask.numel() / 8),) == (bits.packed_size(shape),)
    assert torch.equal(masks.unpack(packed, shape), mask)
    assert masks.popcount(packed) == int(mask.sum())


@given(shapes, st.integers(0, 1000))
def test_a_complement_keeps_what_was_dropped_and_leaves_the_last_bits_zero(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    other = masks.complement(masks.pack(mask), shape)
    assert torch.equal(other, masks.pack(~mask))


def test_bits_are_counted_alike_by_an_older_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = masks.pack(random_mask((7, 11), 3)).numpy()
    count = bits.popcount(packed)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bits.popcount(packed) == count == int(random_mask((7, 11), 3).sum())


def test_weight_number_8j_plus_b_is_bit_b_of_byte_j() -> None:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = True  # weights 1 and 10
    assert masks.pack(mask).tolist() == [2, 4]


@given(shapes, st.integers(0, 1000))
def test_packing_by_torch_alone_as_on_an_accelerator_is_the_same(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    packed = masks._pack_by_torch(mask.reshape(-1))
    assert torch.equal(packed, masks.pack(mask))
    assert torch.equal(masks._unpack_by_torch(packed, mask.numel()), mask.reshape(-1))
    assert masks._popcount_by_torch(packed) == int(mask.sum())


@given(st.lists(shapes, min_size=1, max_size=3), st.integers(0, 1000))
def test_iou_and_union_agree_with_counting_weights_one_by_one(all_shapes: list[tuple[int, ...]], seed: int) -> None:
    first = [random_mask(shape, seed) for shape in all_shapes]
    second = [random_mask(shape, seed + 1, 0.3) for shape in all_shapes]
    a = [bit for mask in first for bit in mask.view(-1).tolist()]
    b = [bit for mask in second for bit in mask.view(-1).tolist()]
    either = sum(x or y for x, y in zip(a, b, strict=True))
    both = sum(x and y for x, y in zip(a, b, strict=True))
    packed = [masks.pack(mask) for mask in first], [masks.pack(mask) for mask in second]
    assert masks.iou(*packed) == (both / either if either else 1.0)
    assert sum(masks.popcount(masks.union(pair)) for pair in zip(*packed, strict=True)) == either
