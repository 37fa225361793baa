"""What `Pathways` tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MaskEvent:
    """One new mask.

    Attributes:
        kind: ``prune`` (to a higher sparsity) or ``adapt`` (chosen again at the same).
        language: the language whose mask it is; None for the one mask that all share.
        step: global steps done.
        sparsity: what the mask has now.
        changed: share of prunable weights that it keeps and did not, or the other way round.
        score: the score that chose it; ``magnitude`` where no activation had been seen yet.
        rewound: whether the weights went back to their start after it.
    """

    kind: Literal["prune", "adapt"]
    language: str | None
    step: int
    sparsity: float
    changed: float
    score: str
    rewound: bool = False


@dataclass(frozen=True)
class Summary:
    """Sizes and overlaps of all pathways.

    Attributes:
        weights: how many weights can be pruned.
        sparsity: share of them at zero, by language.
        tensors: the same by language and tensor.
        union_density: share that at least one pathway keeps.
        mean_iou: mean overlap of all pairs of languages; None for a single language.
        mask_bytes: size of all masks in memory and on disk.
    """

    weights: int
    sparsity: dict[str, float]
    tensors: dict[str, dict[str, float]]
    union_density: float
    mean_iou: float | None
    mask_bytes: int
