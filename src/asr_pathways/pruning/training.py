"""What a new mask does to a training run beside masking: revived weights and rewinding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr_pathways.pruning.targets import Target
from asr_pathways.pruning.weights import quiet


def reset_revived(optimizer: torch.optim.Optimizer, targets: Sequence[Target], revived: Sequence[Tensor]) -> None:
    """Zeroes the optimizer's state (moments, momentum) of revived weights: bool masks, one a target."""
    with quiet():
        for target, mask in zip(targets, revived, strict=True):
            for value in optimizer.state.get(target.parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == target.shape:
                    value.masked_fill_(mask, 0)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, by name."""
    return {name: value.detach().clone() for name, value in _weights(model).items()}


def rewind(model: nn.Module, start: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
    """Puts all parameters and buffers back to ``start`` and gives the optimizer a fresh state."""
    with quiet():
        for name, value in _weights(model).items():
            value.copy_(start[name])
    if optimizer is not None:
        optimizer.state.clear()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
