"""Selection: from scores to masks, by sparsity, granularity and allocation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from asr_pathways.pruning.allocation import erk, global_, uniform
from asr_pathways.pruning.config import AllocationName
from asr_pathways.pruning.granularity import Granularity

OUT = -1.0  # below every score, which are all >= 0


def select(
    score: Callable[[int], Tensor],
    shapes: Sequence[torch.Size],
    sparsity: float,
    *,
    granularity: Granularity,
    allocation: AllocationName,
    within: Sequence[Tensor] | None = None,
) -> Iterator[Tensor]:
    """The masks of the highest scores, tensor by tensor.

    Args:
        score: gives the scores (>= 0) of the tensor of that index; called once or twice a tensor, so that not
            all scores are in memory at once (`global` allocation needs them to be).
        shapes: of all tensors.
        sparsity: share of units that is dropped.
        within: bool masks; only units of which they keep something are kept.
    """

    def unit_scores(index: int) -> Tensor:
        scores = granularity.pool(score(index))
        return scores if within is None else scores.where(_active(within[index], granularity), OUT)

    units = [granularity.units(shape) for shape in shapes]
    if allocation == "global":
        counts = global_((unit_scores(index) for index in range(len(shapes))), sparsity)
    elif allocation == "erk":
        counts = erk(units, shapes, sparsity)
    else:
        counts = uniform(units, sparsity)
    for index, (shape, keep) in enumerate(zip(shapes, counts, strict=True)):
        scores = unit_scores(index)
        if within is not None:
            keep = min(keep, int((scores != OUT).count_nonzero()))
        yield granularity.expand(granularity.choose(scores, keep), shape)


def swap(magnitudes: Tensor, gradients: Tensor, mask: Tensor, fraction: float, granularity: Granularity) -> Tensor:
    """RigL's move: a ``fraction`` of the kept units, the smallest, give way to the dropped of largest gradient.

    The number of kept units does not change.

    Args:
        magnitudes, gradients: (>= 0) of the weight's shape.
        mask: what is kept now.
    """
    active = _active(mask, granularity)
    kept = int(active.count_nonzero())
    count = min(round(fraction * kept), active.numel() - kept)
    stay = granularity.choose(granularity.pool(magnitudes).where(active, OUT), kept - count)
    grow = granularity.choose(granularity.pool(gradients).where(~active, OUT), count)
    return granularity.expand(stay | grow, mask.shape)


def _active(mask: Tensor, granularity: Granularity) -> Tensor:
    return granularity.pool(mask.float()) > 0
