"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from asr_pathways.training.config import OptimizerConfig

_OF_CONFIG = ("weight_decay", "betas")
"""Options of a group of parameters; the learning rate is set before every step."""


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with decay on weight matrices only: not on biases, norms and other vectors.

    It is torch's fused one: an update of whisper-base takes a quarter of the time (``benchmarks/faster_training.py``).
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    vectors = [parameter for parameter in trained if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)


def load_state(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Goes on from the ``state_dict`` of one for the same parameters, with the decay and betas of this one's config.

    Raises:
        ValueError: if it is of other parameters.
    """
    options = [{name: group[name] for name in _OF_CONFIG} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)  # which takes the options of back then, too
    for group, of_config in zip(optimizer.param_groups, options, strict=True):
        group.update(of_config)


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, hold at the peak, cosine down to ``final_lr``."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    start = config.warmup_steps + config.hold_steps
    if step < start:
        return config.peak_lr
    share = min(1.0, (step - start) / max(1, config.steps - start))
    return config.final_lr + (config.peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
