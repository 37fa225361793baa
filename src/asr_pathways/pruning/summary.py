"""What `Pathways` reports: an event for each new mask, and a summary of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import Literal

from torch import Tensor

from asr_pathways.pruning.masks import PackedMasks, popcount
from asr_pathways.pruning.prunable import Prunable


@dataclass(frozen=True)
class MaskEvent:
    """One new mask.

    Attributes:
        kind: ``prune`` (to a higher sparsity) or ``adapt`` (chosen again at the same).
        language: the language whose mask it is; None for the one mask that all share.
        step: global steps done.
        sparsity: of the mask now.
        changed: share of prunable weights that it keeps and did not, or the other way round.
        score: that chose it; ``magnitude`` where what the config's score needs had not been observed yet.
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


@dataclass(frozen=True, repr=False)
class Summary:
    """Sizes and overlaps of all pathways; prints as a table, in a terminal and in a notebook.

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

    def __repr__(self) -> str:
        width = max(len(_ANY), *map(len, self.sparsity))
        lines = [f"{'pathway':{width}}  sparsity %  weights kept"]
        lines += [f"{name:{width}}  {share:>10}  {kept:>12}" for name, share, kept in self._rows()]
        return "\n".join([*lines, self._legend()])

    def _repr_html_(self) -> str:
        head = "<tr><th>pathway</th><th>sparsity %</th><th>weights kept</th></tr>"
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows())
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table><p>{escape(self._legend())}</p>"

    def _rows(self) -> list[tuple[str, str, str]]:
        shares = {**self.sparsity, _ANY: 1 - self.union_density}
        return [(name, f"{100 * s:.1f}", f"{round((1 - s) * self.weights):,}") for name, s in shares.items()]

    def _legend(self) -> str:
        overlap = "" if self.mean_iou is None else f"; mean IoU of two pathways {self.mean_iou:.2f}"
        return f"of {self.weights:,} prunable weights{overlap}; masks {self.mask_bytes:,} bytes"


_ANY = "in any pathway"


def overlaps(masks: PackedMasks, pathways: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Intersection over union of the masks of every pair of languages; ``pathways`` is {language: its pathway}."""
    return {pair: masks.iou(pathways[pair[0]], pathways[pair[1]]) for pair in combinations(pathways, 2)}


def mean_iou(masks: PackedMasks, pathways: Mapping[str, str]) -> float | None:
    """The mean of `overlaps`; None where there is but one language."""
    pairs = overlaps(masks, pathways)
    return sum(pairs.values()) / len(pairs) if pairs else None


def summarize(masks: PackedMasks, prunable: Sequence[Prunable], pathways: Mapping[str, str]) -> Summary:
    """Counts what the masks keep; ``pathways`` is {language: its pathway}."""
    sizes = {one.name: one.parameter.numel() for one in prunable}

    def counts(packed: Sequence[Tensor]) -> dict[str, int]:
        return dict(zip(sizes, map(popcount, packed), strict=True))

    keys = list(dict.fromkeys(pathways.values()))
    kept = {language: counts(masks.packed(key)) for language, key in pathways.items()}
    return Summary(
        weights=masks.weights,
        sparsity={language: 1 - sum(of.values()) / masks.weights for language, of in kept.items()},
        tensors={language: {name: 1 - of[name] / sizes[name] for name in sizes} for language, of in kept.items()},
        union_density=masks.union_density(keys),
        union={name: count / sizes[name] for name, count in counts(masks.packed_union(keys)).items()},
        mean_iou=mean_iou(masks, pathways),
        mask_bytes=sum(packed.numel() for key in keys for packed in masks.packed(key)),
    )
