"""The weights with the highest scores: exactly so many, and the same on every machine and every rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError


def top_k(scores: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` highest scores: exactly that many, equal scores by lowest index, in linear time.

    Args:
        scores: float tensor of any shape.
        keep: from 0 to the number of scores.

    Raises:
        PathwaysError: if a score is NaN.
    """
    flat = scores.reshape(-1)
    refuse_nan(flat)
    if keep in (0, flat.numel()):
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    threshold = _kth_smallest(flat, flat.numel() - keep)
    mask = flat > threshold
    missing = keep - int(mask.count_nonzero())
    ties = (flat == threshold).nonzero().view(-1)
    mask[ties[:missing]] = True
    return mask.reshape(scores.shape)


def refuse_nan(scores: Tensor) -> None:
    """Raises PathwaysError if a score is NaN: no order holds among such scores."""
    if torch.isnan(scores.sum()):
        raise PathwaysError("a weight's score is NaN: training has diverged; go back to an earlier checkpoint")


def _kth_smallest(flat: Tensor, index: int) -> Tensor:
    if flat.device.type == "cpu":
        return torch.tensor(np.partition(flat.detach().numpy(), index)[index])
    return _kth_smallest_by_torch(flat, index)


def _kth_smallest_by_torch(flat: Tensor, index: int) -> Tensor:
    return torch.kthvalue(flat, index + 1).values
