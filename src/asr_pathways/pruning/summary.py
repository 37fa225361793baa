"""What `Pathways` reports: an event for each new mask, and a summary of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from asr_pathways.pruning.masks import PackedMasks, popcount
from asr_pathways.pruning.prunable import Prunable


@dataclass(frozen=True)
class MaskEvent:
    """One new mask.

    Attributes:
        kind: ``prune`` (to a higher sparsity) or ``adapt`` (chosen again at the same).
        language: the language whose mask it is; None for the one mask that all share.
        step: global steps done.
        sparsity: what the mask has now.
        changed: share of prunable weights that it keeps and did not, or the other way round.
        score: the score that chose it; ``magnitude`` where what the score needs had not been observed yet.
        mean_iou: mean overlap of all pairs of languages with it; None for a single mask. 1.0 is a collapse.
        union_density: share of prunable weights that at least one pathway keeps with it.
        rewound: whether the weights went back to their start after it.
    """

    kind: Literal["prune", "adapt"]
    language: str | None
    step: int
    sparsity: float
    changed: float
    score: str
    union_density: float
    mean_iou: float | None = None
    rewound: bool = False

    def __str__(self) -> str:
        """``adapt fr: 70.0% sparse, 1.2% of weights changed, by activation; mean IoU 0.93, union density 34.0%``."""
        text = f"{self.kind} {self.language or 'the shared mask'}: {100 * self.sparsity:.1f}% sparse, "
        text += f"{100 * self.changed:.1f}% of weights changed, by {self.score}"
        if self.mean_iou is not None:
            text += f"; mean IoU {self.mean_iou:.2f}, union density {100 * self.union_density:.1f}%"
        return text + ("; weights rewound" if self.rewound else "")


@dataclass(frozen=True)
class Summary:
    """Sizes and overlaps of all pathways.

    Attributes:
        weights: how many weights can be pruned.
        sparsity: share of them at zero, by language.
        tensors: the same by language and tensor.
        union_density: share that at least one pathway keeps.
        union: the same by tensor.
        mean_iou: mean overlap of all pairs of languages; None for a single language.
        mask_bytes: size of all masks in memory and on disk.
    """

    weights: int
    sparsity: dict[str, float]
    tensors: dict[str, dict[str, float]]
    union_density: float
    union: dict[str, float]
    mean_iou: float | None
    mask_bytes: int


def overlaps(masks: PackedMasks, pathways: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Intersection over union of the masks of every pair of languages; ``pathways`` is {language: its pathway}."""
    return {
        (first, second): masks.iou(pathways[first], pathways[second]) for first, second in combinations(pathways, 2)
    }


def mean_iou(masks: PackedMasks, pathways: Mapping[str, str]) -> float | None:
    """The mean of `overlaps`; None where there is but one language."""
    pairs = overlaps(masks, pathways)
    return sum(pairs.values()) / len(pairs) if pairs else None


def union_density(masks: PackedMasks, pathways: Sequence[str]) -> float:
    """Share of prunable weights that at least one of ``pathways`` keeps."""
    return sum(map(popcount, masks.packed_union(pathways))) / masks.weights


def summarize(masks: PackedMasks, prunable: Sequence[Prunable], pathways: Mapping[str, str]) -> Summary:
    """Counts what the masks keep; ``pathways`` is {language: its pathway}."""
    sizes = {one.name: one.parameter.numel() for one in prunable}
    kept = {language: dict(zip(sizes, masks.kept(key), strict=True)) for language, key in pathways.items()}
    keys = list(dict.fromkeys(pathways.values()))
    union = dict(zip(sizes, map(popcount, masks.packed_union(keys)), strict=True))
    return Summary(
        weights=masks.weights,
        sparsity={language: 1 - sum(counts.values()) / masks.weights for language, counts in kept.items()},
        tensors={
            language: {name: 1 - count / sizes[name] for name, count in counts.items()}
            for language, counts in kept.items()
        },
        union_density=sum(union.values()) / masks.weights,
        union={name: count / sizes[name] for name, count in union.items()},
        mean_iou=mean_iou(masks, pathways),
        mask_bytes=sum(packed.numel() for key in keys for packed in masks.packed(key)),
    )
