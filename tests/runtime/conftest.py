"""Tiny pruned models and their bundles; tests must not change them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder import Recognizer
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.runtime.bundle import write_bundle
from tests.conftest import make_recognizer

FIVE = ("en", "es", "fr", "it", "ru")


def pruned(
    tokenizer: Tokenizer, languages: Sequence[str] = FIVE, sparsity: float = 0.7, seed: int = 0, **options: object
) -> Recognizer:
    """A recogniser of random weights whose masks overlap at random."""
    recognizer = make_recognizer(tokenizer, tuple(languages))
    config = PathwayConfig.model_validate(
        {"sparsity": sparsity, "exclude": recognizer.model.unprunable, **options},
    )
    recognizer.pathways = Pathways.attach(recognizer.model, config, list(languages))
    overlapping(recognizer, sparsity, seed)
    return recognizer


def overlapping(recognizer: Recognizer, sparsity: float, seed: int = 0) -> None:
    """Gives each language the largest of the weights' magnitudes times noise of its own."""
    pathways = recognizer.pathways
    assert pathways is not None
    draw = torch.Generator().manual_seed(seed)
    weights = {name: recognizer.model.network.get_parameter(name).detach() for name in pathways.names}
    for language in pathways.languages:
        mask = {}
        for name, weight in weights.items():
            score = weight.abs() * torch.exp(0.2 * torch.randn(weight.shape, generator=draw))
            keep = max(1, round((1 - sparsity) * weight.numel()))
            mask[name] = score >= score.flatten().topk(keep).values[-1]
        pathways.set_mask(language, mask)


@pytest.fixture(scope="session")
def five(tokenizer: Tokenizer) -> Recognizer:
    """Five languages, sparsity 70%."""
    return pruned(tokenizer)


@pytest.fixture(scope="session")
def five_file(five: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their bundle, exact."""
    path = tmp_path_factory.mktemp("bundle") / "five.asrp"
    write_bundle(five, path, "float32")
    return path
