"""Tiny pruned models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.conftest import make_model

FIVE = ("en", "es", "fr", "it", "ru")


def pruned(
    tokenizer: Tokenizer, languages: Sequence[str] = FIVE, sparsity: float = 0.7, seed: int = 0, **options: object
) -> AsrModel:
    """A recogniser of random weights whose masks overlap at random."""
    asr = make_model(tokenizer, tuple(languages))
    config = PathwayConfig.model_validate(
        {"sparsity": sparsity, "exclude": asr.model.unprunable, **options},
    )
    asr.pathways = Pathways.attach(asr.model, config, list(languages))
    overlapping(asr, sparsity, seed)
    return asr


def overlapping(asr: AsrModel, sparsity: float, seed: int = 0) -> None:
    """Gives each language the largest of the weights' magnitudes times noise of its own."""
    pathways = asr.pathways
    assert pathways is not None
    draw = torch.Generator().manual_seed(seed)
    weights = {name: asr.model.network.get_parameter(name).detach() for name in pathways.names}
    for language in pathways.languages:
        mask = {}
        for name, weight in weights.items():
            score = weight.abs() * torch.exp(0.2 * torch.randn(weight.shape, generator=draw))
            keep = max(1, round((1 - sparsity) * weight.numel()))
            mask[name] = score >= score.flatten().topk(keep).values[-1]
        pathways.set_mask(language, mask)
