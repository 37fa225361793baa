from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.pruning.granularity import Blocks, Granularity
from asr_pathways.pruning.selection import erk, global_, kept, select, swap
from asr_pathways.pruning.top_k import top_k

LAYERS = [(512, 512), (2048, 512), (64, 64, 3), (10, 40)]
LAYER_SIZES = [math.prod(shape) for shape in LAYERS]
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
            least = len(SHAPES)  # the best weight of each tensor stays
            assert all(counts) and sum(counts) == max(least, kept(sum(shape.numel() for shape in SHAPES), sparsity))
            for tensor in scores:
                tensor.view(-1)[tensor.argmax()] = 99.0
            together = top_k(torch.cat([tensor.view(-1) for tensor in scores]), sum(counts))
            assert torch.equal(torch.cat([mask.view(-1) for mask in chosen]), together)


@given(st.integers(0, 1000), st.floats(0, 0.99))
def test_blended_keeps_the_best_of_each_tensor_between_uniform_and_global(seed: int, sparsity: float) -> None:
    scores, counts = [random + 0.01 * torch.rand_like(random) for random in random_scores(seed)], {}
    for allocation in ("uniform", "global", "blended"):
        masks = list(select(scores.__getitem__, SHAPES, sparsity, granularity=Granularity(), allocation=allocation))
        counts[allocation] = [int(mask.sum()) for mask in masks]
        for mask, score in zip(masks, scores, strict=True):
            assert mask.all() or score[mask].min() >= score[~mask].max()
    means = [(one + other) / 2 for one, other in zip(counts["uniform"], counts["global"], strict=True)]
    assert all(abs(mean - count) <= 0.5 for mean, count in zip(means, counts["blended"], strict=True))
    assert abs(sum(counts["blended"]) - sum(means)) <= 0.5


@pytest.mark.parametrize("allocation", ["uniform", "global", "blended", "erk"])
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
    (new,) = swap([magnitudes], [gradients], [mask], fraction, granularity)
    assert new.sum() == mask.sum()
    lost = granularity.pool((mask & ~new).float()) > 0
    grown = granularity.pool((new & ~mask).float()) > 0
    assert int(lost.sum()) == min(round(fraction * int(units.sum())), int((~units).sum()))  # no gradient is 0 here
    values, slopes = granularity.pool(magnitudes), granularity.pool(gradients)
    if lost.any():
        assert values[lost].max() <= values[units & ~lost].min() if (units & ~lost).any() else True
        assert slopes[grown].min() >= slopes[~units & ~grown].max() if (~units & ~grown).any() else True


@given(st.integers(0, 10**6), st.floats(0, 0.999))
def test_kept_rounds_as_torch_prune_does_but_empties_nothing(count: int, sparsity: float) -> None:
    assert kept(count, sparsity) == (max(1, count - round(sparsity * count)) if count else 0)


@pytest.mark.parametrize("allocation", ["uniform", "global", "blended", "erk"])
@pytest.mark.parametrize("granularity", [Granularity(), Blocks(2, 4)])
def test_no_allocation_empties_a_tensor(allocation: str, granularity: Granularity) -> None:
    """Nor, if it compares tensors, a group of rows: that would be a dead layer, or attention without values."""
    scores = [torch.rand(size, generator=torch.Generator().manual_seed(0)) for size in [(48, 16), (48, 16), (4, 4)]]
    scores[0][16:] *= 1e-3  # of attention's packed projection: key and value
    scores[1] *= 1e-3
    options = {"granularity": granularity, "allocation": allocation, "groups": [3, 1, 1]}
    shapes = [part.shape for part in scores]
    within = list(select(scores.__getitem__, shapes, 0.5, **options))
    for mask in (None, within):
        chosen = list(select(scores.__getitem__, shapes, 0.95, within=mask, **options))
        assert all(bool(part.any()) for part in chosen)
        if allocation in ("global", "blended"):
            assert all(bool(group.any()) for group in chosen[0].view(3, -1))


@pytest.mark.parametrize("granularity", [Granularity(), Blocks(2, 1)])
def test_nothing_grows_without_a_gradient(granularity: Granularity) -> None:
    """Of a layer that was dropped or is frozen all are 0; of a neuron that never fires, a row."""
    mask = granularity.expand(torch.arange(granularity.units((8, 6))) % 2 == 0, (8, 6))
    magnitudes, gradients = torch.rand(8, 6), torch.zeros(8, 6)
    assert torch.equal(*swap([magnitudes], [gradients], [mask], 0.5, granularity), mask)
    gradients[4:6] = 1.0
    (new,) = swap([magnitudes], [gradients], [mask], 0.9, granularity)
    grown = new & ~mask
    assert new.sum() == mask.sum() and torch.equal(grown[4:6], ~mask[4:6]) and not grown[:4].any() | grown[6:].any()


@given(st.floats(0.05, 0.95))
def test_erk_meets_the_budget_and_keeps_more_of_small_tensors(sparsity: float) -> None:
    counts = erk(LAYER_SIZES, LAYERS, sparsity)
    assert sum(counts) == pytest.approx((1 - sparsity) * sum(LAYER_SIZES), abs=len(LAYER_SIZES))
    densities = [count / size for count, size in zip(counts, LAYER_SIZES, strict=True)]
    assert all(0 < density <= 1 for density in densities)
    small_to_large = [densities[3], densities[2], densities[0], densities[1]]
    assert small_to_large == sorted(small_to_large, reverse=True)


def test_erk_is_in_proportion_to_the_sum_over_the_product_of_dimensions() -> None:
    shapes = [(100, 100), (200, 100)]
    first, second = erk([10_000, 20_000], shapes, 0.95)
    assert (first / 10_000) / (second / 20_000) == pytest.approx((200 / 10_000) / (300 / 20_000), rel=1e-2)


@given(st.lists(st.floats(0, 0.99), min_size=2, max_size=6))
def test_erk_keeps_no_more_of_a_tensor_at_a_higher_sparsity(sparsities: list[float]) -> None:
    counts = [erk(LAYER_SIZES, LAYERS, sparsity) for sparsity in sorted(sparsities)]
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


def linear(weights: list[list[float]]) -> nn.Module:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    return nn.Sequential(layer)


def attach(weights: list[list[float]], languages: list[str], masks: dict[str, list[list[int]]], **options: object):  # type: ignore[no-untyped-def]
    pathways = Pathways.attach(linear(weights), PathwayConfig(sparsity=0.5, **options), languages)  # type: ignore[arg-type]
    for language, mask in masks.items():
        pathways.set_mask(language, {"0.weight": torch.tensor(mask, dtype=torch.bool)})
    return pathways


def mask_of(pathways: Pathways, language: str) -> list[list[int]]:
    mask: list[list[int]] = pathways.mask(language)["0.weight"].int().tolist()
    return mask


def test_hysteresis_keeps_what_is_nearly_as_good() -> None:
    weights, mask = [[1.0, 1.15, 0.9, 2.0]], {"en": [[1, 0, 1, 0]]}
    for hysteresis, after in (
        (0.0, [[0, 1, 0, 1]]),
        (0.1, [[0, 1, 0, 1]]),  # 1.15 > 1.1 * 1.0
        (0.2, [[1, 0, 0, 1]]),  # 1.15 < 1.2 * 1.0, and 2.0 > 1.2 * 0.9
        (3.0, [[1, 0, 1, 0]]),
    ):
        pathways = attach(weights, ["en"], mask, hysteresis=hysteresis)
        pathways.adapt("en")
        assert mask_of(pathways, "en") == after, hysteresis


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["unstructured", "block:2x1", "1:2"]))
def test_the_limit_of_hysteresis(seed: int, granularity: str) -> None:
    """Without end, hysteresis never changes a mask, whatever its score; sparsity is always exact."""
    torch.manual_seed(seed)
    config = PathwayConfig(sparsity=0.5, granularity=granularity)
    donor = Pathways.attach(nn.Sequential(nn.Linear(6, 4)), config, ["en"])
    torch.manual_seed(seed + 1)
    pathways = Pathways.attach(nn.Sequential(nn.Linear(6, 4)), config.model_copy(update={"hysteresis": 1e6}), ["en"])
    before = donor.mask("en")["0.weight"]
    pathways.set_mask("en", donor.mask("en"))
    pathways.adapt("en")
    after = pathways.mask("en")["0.weight"]
    assert after.equal(before) and int(after.sum()) == 12


def test_hysteresis_is_saved(tmp_path: Path) -> None:
    pathways = attach([[1.0, 2.0]], ["en", "fr"], {}, hysteresis=0.2, adapt_every=2)
    pathways.save(tmp_path / "p")
    assert Pathways.load(linear([[1.0, 2.0]]), tmp_path / "p").config == pathways.config
    assert "hysteresis" in (tmp_path / "p" / "pathways.json").read_text()
