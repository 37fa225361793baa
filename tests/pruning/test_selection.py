from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.pruning.granularity import Blocks, Granularity
from asr_pathways.pruning.masks import top_k
from asr_pathways.pruning.selection import kept, select, swap

SHAPES = [torch.Size((6, 5)), torch.Size((3, 4, 2)), torch.Size((1, 7))]


def random_scores(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 9, shape, generator=generator).float() for shape in SHAPES]


@given(st.integers(0, 1000), st.floats(0, 0.99))
def test_uniform_keeps_exactly_k_of_every_tensor_and_global_overall(seed: int, sparsity: float) -> None:
    scores = random_scores(seed)
    for allocation in ("uniform", "global"):
        chosen = list(select(scores.__getitem__, SHAPES, sparsity, granularity=Granularity(), allocation=allocation))
        counts = [int(mask.sum()) for mask in chosen]
        if allocation == "uniform":
            assert counts == [kept(shape.numel(), sparsity) for shape in SHAPES]
        else:
            assert sum(counts) == kept(sum(shape.numel() for shape in SHAPES), sparsity)
            together = top_k(torch.cat([tensor.view(-1) for tensor in scores]), sum(counts))
            assert torch.equal(torch.cat([mask.view(-1) for mask in chosen]), together)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@given(seed=st.integers(0, 1000), sparsities=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)))
@settings(max_examples=40)
def test_within_a_mask_only_what_it_keeps_is_kept(allocation: str, seed: int, sparsities: tuple[float, float]) -> None:
    first, second = sorted(sparsities)
    options = {"granularity": Granularity(), "allocation": allocation}
    before = list(select(random_scores(seed).__getitem__, SHAPES, first, **options))
    after = list(select(random_scores(seed + 1).__getitem__, SHAPES, second, within=before, **options))
    assert not any((new & ~old).any() for new, old in zip(after, before, strict=True))


def test_a_mask_sparser_than_asked_for_stays_as_it_is() -> None:
    within = [torch.zeros(shape, dtype=torch.bool) for shape in SHAPES]
    for mask in within:
        mask[0, 0] = True
    options = {"granularity": Granularity(), "allocation": "uniform"}
    chosen = select(random_scores(0).__getitem__, SHAPES, 0.1, within=within, **options)
    assert all(torch.equal(new, old) for new, old in zip(chosen, within, strict=True))


@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from([Granularity(), Blocks(2, 1)]))
def test_a_swap_keeps_the_count_drops_the_smallest_and_grows_the_steepest(
    seed: int, fraction: float, granularity: Granularity | Blocks
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (8, 6)
    magnitudes, gradients = torch.rand((2, *shape), generator=generator)
    units = torch.rand(granularity.units(shape), generator=generator) < 0.4
    mask = granularity.expand(units, shape)
    new = swap(magnitudes, gradients, mask, fraction, granularity)
    assert new.sum() == mask.sum()
    lost = granularity.pool((mask & ~new).float()) > 0
    grown = granularity.pool((new & ~mask).float()) > 0
    assert int(lost.sum()) == min(round(fraction * int(units.sum())), int((~units).sum()))
    values, slopes = granularity.pool(magnitudes), granularity.pool(gradients)
    if lost.any():
        assert values[lost].max() <= values[units & ~lost].min() if (units & ~lost).any() else True
        assert slopes[grown].min() >= slopes[~units & ~grown].max() if (~units & ~grown).any() else True
