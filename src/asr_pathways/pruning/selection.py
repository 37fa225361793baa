"""Selection: from scores to masks, by sparsity, granularity and allocation: how many units each tensor keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.config import POLICIES, AllocationName, PathwayConfig
from asr_pathways.pruning.granularity import Granularity, parse_granularity
from asr_pathways.pruning.masks import top_k
from asr_pathways.pruning.observe import Observations
from asr_pathways.pruning.prunable import Prunable
from asr_pathways.pruning.scores import Evidence, Magnitude, Score

OUT = -1.0  # below every score, which are all >= 0


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
        rest = [i for i in range(len(sizes)) if i not in dense]
        weight = sum(shares[i] * sizes[i] for i in rest)
        scale = (budget - sum(sizes[i] for i in dense)) / weight if rest else 0.0
        full = {i for i in rest if scale * shares[i] > 1}
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
        score: from the index of a tensor to its scores (>= 0); called once or twice a tensor, so that not all
            scores are in memory at once (`global` allocation needs them to be).
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


def swap(magnitudes: Tensor, scores: Tensor, mask: Tensor, fraction: float, granularity: Granularity) -> Tensor:
    """RigL's move: a ``fraction`` of the kept units, the smallest, give way to the dropped of highest score.

    The number of kept units does not change.

    Args:
        magnitudes, scores: (>= 0) of the weight's shape.
        mask: what is kept now.
    """
    active = _active(mask, granularity)
    kept = int(active.count_nonzero())
    count = min(round(fraction * kept), active.numel() - kept)
    stay = granularity.choose(granularity.pool(magnitudes).where(active, OUT), kept - count)
    grow = granularity.choose(granularity.pool(scores).where(~active, OUT), count)
    return granularity.expand(stay | grow, mask.shape)


def _active(mask: Tensor, granularity: Granularity) -> Tensor:
    return granularity.pool(mask.float()) > 0


Factor = Callable[[int], Tensor]
"""From the index of a tensor to what its scores are multiplied by."""


class MaskSelector:
    """Selects masks from weights and from what was observed of a pathway; changes nothing itself."""

    def __init__(self, config: PathwayConfig, prunable: Sequence[Prunable], observations: Observations) -> None:
        self._config = config
        self._score = config.make_score()
        self._prunable = prunable
        self._granularity = parse_granularity(config.granularity)
        self._narrows = POLICIES[config.gradient].narrows or self._score.swaps
        self._observations = observations

    def prune(
        self, pathway: str, sparsity: float, current: Sequence[Tensor], factor: Factor | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks at a new sparsity: (name of the score used, one mask a tensor).

        Pathways of which the score's needs were not observed yet are scored by magnitude.

        Args:
            current: the present bool masks; where pruning narrows, only what they keep may be kept.
            factor: what scores are multiplied by.
        """
        within = current if self._narrows else None
        if self._score.swaps or self._observations.missing(pathway):
            magnitude = Magnitude()
            weights = {one.name: one.parameter for one in self._prunable}
            return magnitude.name, self._select(
                magnitude, lambda name: Evidence(weights[name]), sparsity, within, factor
            )
        evidence = self._observations.evidence(pathway)
        return self._score.name, self._select(self._score, evidence, sparsity, within, factor)

    def adapt(
        self,
        pathway: str,
        sparsity: float,
        current: Sequence[Tensor],
        language_steps: int,
        factor: Factor | None = None,
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks chosen again at the same sparsity, dropped weights included.

        Args:
            current: the present bool masks.
            language_steps: steps of the pathway's language.
            factor: what scores are multiplied by, beside hysteresis; swaps ignore it.

        Raises:
            PathwaysError: if what the score needs was not observed.
        """
        if missing := self._observations.missing(pathway):
            raise PathwaysError(missing)
        evidence = self._observations.evidence(pathway)
        if self._score.swaps:
            return self._score.name, self._swap(evidence, current, self._score.swapped(language_steps))
        hysteresis = self._config.hysteresis

        def favoured(index: int) -> Tensor:
            kept_more = 1 + hysteresis * current[index].float()
            return kept_more if factor is None else kept_more * factor(index)

        return self._score.name, self._select(
            self._score, evidence, sparsity, None, favoured if hysteresis or factor else None
        )

    def _select(
        self,
        score: Score,
        evidence: Callable[[str], Evidence],
        sparsity: float,
        within: Sequence[Tensor] | None,
        factor: Factor | None,
    ) -> Iterator[Tensor]:
        def scores(index: int) -> Tensor:
            values = score.of(evidence(self._prunable[index].name))
            return values * factor(index) if factor else values

        return select(
            scores,
            [one.shape for one in self._prunable],
            sparsity,
            granularity=self._granularity,
            allocation=self._config.allocation,
            within=within,
        )

    def _swap(self, evidence: Callable[[str], Evidence], current: Sequence[Tensor], share: float) -> Iterator[Tensor]:
        for one, mask in zip(self._prunable, current, strict=True):
            of_weight = evidence(one.name)
            yield swap(Magnitude().of(of_weight), self._score.of(of_weight), mask, share, self._granularity)
