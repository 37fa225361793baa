"""A model with something of every kind, to which languages are added."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from asr_pathways import PathwayConfig, Pathways
from tests.pruning.conftest import tokens
from tests.same import same as same


class Speller(nn.Module):
    """Tied and frozen tensors, buffers of all kinds, an LSTM and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.BatchNorm1d(8)
        self.recurrent = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.back = nn.Linear(12, 8)
        self.output = nn.Linear(8, 11)
        self.output.weight = self.embedding.weight
        self.back.bias.requires_grad_(False)
        self.register_buffer("scale", torch.ones(8))
        self.register_buffer("fleeting", torch.zeros(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) of 0..10 -> (B, T, 11)."""
        hidden = self.norm(self.embedding(x).transpose(1, 2)).transpose(1, 2) * self.scale
        if self.training:
            self.scale = self.scale * 0.99  # another tensor, where BatchNorm changes its own
            self.fleeting += 1
        hidden, _ = self.recurrent(hidden + self.fleeting)
        hidden, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.output(self.back(hidden))


MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adamw": lambda parameters: AdamW(parameters, lr=3e-2, weight_decay=0.5),
    "sgd": lambda parameters: SGD(parameters, lr=3e-2, momentum=0.9, weight_decay=0.1),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "dense": {"adapt_every": 2},
    "frozen": {"gradient": "frozen", "adapt_every": 2},
    "activation": {"score": "activation", "adapt_every": 2, "hysteresis": 0.2, "granularity": "block:2x1"},
    "gradient": {"score": "gradient", "adapt_every": 2, "adapt_until": 20, "allocation": "global"},
    "reset": {"adapt_every": 2, "revived": "reset", "schedule": "iterative", "prune_every": 1},
}


def trained(model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, Pathways]:
    """A model of two languages that has been trained for some steps, the last of them unfinished."""
    torch.manual_seed(0)
    model = model or Speller()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, **options), ["en", "fr"])
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for seed in range(8):
        train(model, pathways, optimizer, ["en", "fr"][seed % 2], seed)
    for seed, language in enumerate(pathways.languages):  # masks that differ, and leave large weights free
        generator = torch.Generator().manual_seed(seed)
        mask = {n: torch.rand(m.shape, generator=generator) < 0.3 for n, m in pathways.mask(language).items()}
        pathways.set_mask(language, mask)
    with pathways.use("en"):
        model(tokens(0)).sum().backward()
    return model, pathways


def train(model: nn.Module, pathways: Pathways, optimizer: Optimizer, language: str, seed: int) -> None:
    model.train()
    optimizer.zero_grad(set_to_none=False)
    with pathways.use(language):
        model(tokens(seed)).square().mean().backward()
    optimizer.step()
    pathways.step(optimizer)


def teach(model: nn.Module, pathways: Pathways, language: str, make: MakeOptimizer = OPTIMIZERS["adamw"]) -> Optimizer:
    """Trains an added language, with an optimizer of everything there is."""
    everything = dict.fromkeys([*model.parameters(), *pathways.parameters(language).values()])
    optimizer = make(everything)
    for seed in range(6):
        train(model, pathways, optimizer, language, seed)
    return optimizer


def copied(pathways: Pathways, language: str) -> dict[str, nn.Parameter]:
    """The parameters among the tensors of a language."""
    return {n: t for n, t in pathways.language_tensors(language).items() if isinstance(t, nn.Parameter)}


def logits(model: nn.Module, pathways: Pathways, languages: Iterable[str]) -> dict[str, Tensor]:
    model.eval()
    found = {}
    for language in languages:
        with torch.no_grad(), pathways.use(language):
            found[language] = model(tokens(77))
    return found
