"""What keeps a mask from changing, and what draws it to others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_pathways import PathwayConfig, Pathways


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


def kept(pathways: Pathways, language: str) -> list[list[int]]:
    found: list[list[int]] = pathways.mask(language)["0.weight"].int().tolist()
    return found


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
        assert kept(pathways, "en") == after, hysteresis


def test_overlap_pull_counts_the_other_languages() -> None:
    weights = [[1.0, 1.1, 1.3, 1.5]]
    masks = {"en": [[0, 0, 1, 1]], "fr": [[1, 0, 1, 0]], "it": [[1, 1, 0, 0]]}
    for pull, after in (
        (0.0, [[0, 0, 1, 1]]),
        (0.4, [[0, 0, 1, 1]]),  # 1.4, 1.32, 1.56, 1.5
        (0.8, [[1, 0, 1, 0]]),  # 1.8, 1.54, 1.82, 1.5
    ):
        pathways = attach(weights, ["en", "fr", "it"], masks, overlap_pull=pull)
        pathways.adapt("en")
        assert kept(pathways, "en") == after, pull
        assert kept(pathways, "fr") == masks["fr"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["unstructured", "block:2x1", "1:2"]))
def test_their_limits(seed: int, granularity: str) -> None:
    """Without end, hysteresis never changes a mask and the pull makes it the other's; sparsity is always exact."""
    torch.manual_seed(seed)
    config = PathwayConfig(sparsity=0.5, granularity=granularity)
    donor = Pathways.attach(nn.Sequential(nn.Linear(6, 4)), config, ["en", "fr"])
    own = donor.mask("en")
    torch.manual_seed(seed + 1)
    for options, expected in (({"hysteresis": 1e6}, "en"), ({"overlap_pull": 1e6}, "fr")):
        model = nn.Sequential(nn.Linear(6, 4))
        pathways = Pathways.attach(model, config.model_copy(update=options), ["en", "fr"])
        pathways.set_mask("en", own)
        before = pathways.mask(expected)["0.weight"]
        pathways.adapt("en")
        after = pathways.mask("en")["0.weight"]
        assert after.equal(before) and int(after.sum()) == 12


def test_saved_pathways_know_their_options(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pathways = attach([[1.0, 2.0]], ["en", "fr"], {}, hysteresis=0.2, overlap_pull=0.1, adapt_every=2, adapt_growth=1.5)
    pathways.save(tmp_path / "p")
    assert Pathways.load(linear([[1.0, 2.0]]), tmp_path / "p").config == pathways.config
    text = (tmp_path / "p" / "pathways.json").read_text()
    for name in ("hysteresis", "overlap_pull", "adapt_growth"):
        assert name in text


@pytest.mark.parametrize("languages", [["en"], ["en", "fr"]])
def test_a_lone_language_has_nobody_to_be_drawn_to(languages: list[str]) -> None:
    pathways = attach([[1.0, 3.0, 2.0, 0.5]], languages, {}, overlap_pull=1e6)
    pathways.adapt("en")
    assert kept(pathways, "en") == [[0, 1, 1, 0]]
