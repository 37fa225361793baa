"""Allocation: how many units each tensor keeps at an overall sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from asr_pathways.pruning.masks import top_k


def kept(count: int, sparsity: float) -> int:
    """How many of ``count`` stay at ``sparsity``, rounded as `torch.nn.utils.prune` rounds."""
    return count - round(sparsity * count)


def uniform(units: Sequence[int], sparsity: float) -> list[int]:
    """Every tensor at the same sparsity."""
    return [kept(count, sparsity) for count in units]


def erk(units: Sequence[int], shapes: Sequence[Sequence[int]], sparsity: float) -> list[int]:
    """Erdos-Renyi-Kernel (arXiv 1911.11134): density in proportion to (sum of dimensions) / (product of them).

    Tensors whose share would pass 1 stay dense and the others give up more; each is then rounded by itself,
    so that a tensor's count never grows with sparsity.
    """
    sizes = [math.prod(shape) for shape in shapes]
    shares = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    budget = (1 - sparsity) * sum(sizes)
    dense: set[int] = set()
    while True:
        open_ = [i for i in range(len(sizes)) if i not in dense]
        weight = sum(shares[i] * sizes[i] for i in open_)
        scale = (budget - sum(sizes[i] for i in dense)) / weight if open_ else 0.0
        full = {i for i in open_ if scale * shares[i] > 1}
        if not full:
            break
        dense |= full
    densities = [1.0 if i in dense else scale * shares[i] for i in range(len(sizes))]
    return [kept(count, 1 - density) for count, density in zip(units, densities, strict=True)]


def global_(scores: Iterable[Tensor], sparsity: float) -> list[int]:
    """The best units over all tensors together; ties go to earlier tensors.

    Args:
        scores: (units,) of each tensor.
    """
    parts = list(scores)
    chosen = top_k(torch.cat([part.cpu() for part in parts]), kept(sum(p.numel() for p in parts), sparsity))
    return [int(part.count_nonzero()) for part in torch.split(chosen, [part.numel() for part in parts])]
