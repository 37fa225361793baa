"""What keeps a mask from changing."""

from __future__ import annotations

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
        assert kept(pathways, "en") == after, hysteresis


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["unstructured", "block:2x1", "1:2"]))
def test_its_limit(seed: int, granularity: str) -> None:
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


def test_saved_pathways_know_their_options(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pathways = attach([[1.0, 2.0]], ["en", "fr"], {}, hysteresis=0.2, adapt_every=2)
    pathways.save(tmp_path / "p")
    assert Pathways.load(linear([[1.0, 2.0]]), tmp_path / "p").config == pathways.config
    assert "hysteresis" in (tmp_path / "p" / "pathways.json").read_text()
