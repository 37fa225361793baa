"""Sums over ranks, so that every rank chooses the same masks."""

from __future__ import annotations

import torch
from torch import Tensor


def total(values: Tensor) -> Tensor:
    """The sum of ``values`` over all ranks; ``values`` itself where only one process runs."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    summed = values.clone()
    torch.distributed.all_reduce(summed)
    return summed
