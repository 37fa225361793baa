"""Selection: from scores to masks, by sparsity, granularity and allocation: how many units each tensor keeps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate
from operator import add

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.config import POLICIES, AllocationName, PathwayConfig
from asr_pathways.pruning.granularity import Granularity, parse_granularity
from asr_pathways.pruning.observe import Observations
from asr_pathways.pruning.prunable import Prunable
from asr_pathways.pruning.scores import SCORES, Evidence, Magnitude, Score
from asr_pathways.pruning.top_k import top_k

OUT = -1.0  # below every score, which are all >= 0
TINY = 1e-30


def kept(count: int, sparsity: float) -> int:
    """How many of ``count`` stay at ``sparsity``: rounded as `torch.nn.utils.prune` rounds, but at least one."""
    return max(count - round(sparsity * count), min(count, 1))


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
    densities = [1.0 if i in dense else scale * share for i, share in enumerate(shares)]
    return [kept(count, 1 - density) for count, density in zip(units, densities, strict=True)]


def global_(scores: Iterable[Tensor], sparsity: float) -> list[int]:
    """The best units over all tensors together, and all that score infinity; ties go to earlier tensors.

    Args:
        scores: (units,) of each tensor.
    """
    parts = list(scores)
    together = torch.cat([part.cpu() for part in parts])
    chosen = top_k(together, max(kept(len(together), sparsity), int(together.isposinf().sum())))
    return [int(part.count_nonzero()) for part in torch.split(chosen, [part.numel() for part in parts])]


def blended(scores: Iterable[Tensor], sparsity: float) -> list[int]:
    """Of each tensor the mean of what it keeps uniformly and by `global_`, and all that score infinity.

    Of two tensors with half a unit in their mean, one is rounded up.

    Args:
        scores: (units,) of each tensor.
    """
    parts = list(scores)
    sums = [kept(len(part), sparsity) + count for part, count in zip(parts, global_(parts, sparsity), strict=True)]
    odd = accumulate(total % 2 for total in sums)
    means = [total // 2 + total % 2 * (place % 2) for total, place in zip(sums, odd, strict=True)]
    return [max(mean, int(part.isposinf().sum())) for mean, part in zip(means, parts, strict=True)]


def select(
    score: Callable[[int], Tensor],
    shapes: Sequence[torch.Size],
    sparsity: float,
    *,
    granularity: Granularity,
    allocation: AllocationName,
    within: Sequence[Tensor] | None = None,
    groups: Sequence[int] | None = None,
    across: Callable[[int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The masks of the highest scores, tensor by tensor; no allocation empties a tensor.

    Args:
        score: from the index of a tensor to its scores (>= 0); called once or twice a tensor, so that not all
            scores are in memory at once (`global` and `blended` allocation need them to be).
        shapes: of all tensors; those that share their units follow each other (`Granularity.parts`).
        sparsity: share of units that is dropped.
        within: bool masks; only units of which they keep something are kept.
        groups: of each tensor's rows, as in `Prunable`: `global` and `blended` allocation empty none of them; None: one
            each.
        across: from the index of a tensor to the scores by which these allocations compare it; None: ``score``.
    """

    size = len(granularity.parts)
    starts = range(0, len(shapes), size)

    def unit_scores(start: int, score: Callable[[int], Tensor] = score) -> Tensor:
        scores = _scores([score(index) for index in range(start, start + size)], granularity)
        if within is not None:
            scores = scores.where(_active(within[start : start + size], granularity), OUT)
        if allocation in ("global", "blended"):  # the best unit of each group comes first
            count = groups[start] if groups else 1
            of_groups = scores.view(count if scores.numel() % count == 0 else 1, -1)
            best = torch.zeros_like(of_groups, dtype=torch.bool).scatter_(1, of_groups.argmax(1, keepdim=True), True)
            scores = of_groups.masked_fill(best & (of_groups != OUT), math.inf).view(-1)
        return scores

    units = [granularity.parts[0].units(shapes[start]) for start in starts]
    if allocation == "global":
        counts = global_((unit_scores(start, across or score) for start in starts), sparsity)
    elif allocation == "blended":
        counts = blended((unit_scores(start, across or score) for start in starts), sparsity)
    elif allocation == "erk":
        counts = erk(units, shapes, sparsity)
    else:
        counts = [kept(count, sparsity) for count in units]
    for start, keep in zip(starts, counts, strict=True):
        scores = unit_scores(start)
        if within is not None:
            keep = min(keep, int((scores != OUT).count_nonzero()))
        yield from _expanded(granularity.choose(scores, keep), shapes[start : start + size], granularity)


def swap(
    magnitudes: Sequence[Tensor],
    scores: Sequence[Tensor],
    masks: Sequence[Tensor],
    fraction: float,
    granularity: Granularity,
) -> list[Tensor]:
    """RigL's update: the smallest ``fraction`` of the kept units is replaced by the dropped of highest score.

    The number of kept units does not change, nor does any unit grow that scores 0: nothing speaks for it.

    Args:
        magnitudes, scores: (>= 0) of the shapes of the weights that share their units (`Granularity.parts`).
        masks: the present bool masks.
    """
    active = _active(masks, granularity)
    kept = int(active.count_nonzero())
    growing = _scores(scores, granularity).where(~active, OUT)
    count = min(round(fraction * kept), int((growing > 0).count_nonzero()))
    stay = granularity.choose(_scores(magnitudes, granularity).where(active, OUT), kept - count)
    grow = granularity.choose(growing, count)
    return list(_expanded(stay | grow, [mask.shape for mask in masks], granularity))


def _scores(values: Sequence[Tensor], granularity: Granularity) -> Tensor:
    """The scores of units (units,), by those of the weights that share them.

    Of several weights each counts in units of its mean: the inputs of a first layer may be far larger than those of the
    second, whose columns then would not matter.
    """
    pooled = _pooled(values, granularity)
    return pooled[0] if len(pooled) == 1 else reduce(add, (one / one.mean().clamp(min=TINY) for one in pooled))


def _pooled(values: Sequence[Tensor], granularity: Granularity) -> list[Tensor]:
    """Sums over each unit (units,) of each of the weights that share them."""
    return [part.pool(one) for part, one in zip(granularity.parts, values, strict=True)]


def _active(masks: Sequence[Tensor], granularity: Granularity) -> Tensor:
    return reduce(add, _pooled([mask.float() for mask in masks], granularity)) > 0


def _expanded(units: Tensor, shapes: Sequence[Sequence[int]], granularity: Granularity) -> Iterator[Tensor]:
    return (part.expand(units, shape) for part, shape in zip(granularity.parts, shapes, strict=True))


Factor = Callable[[int], Tensor]  # of scores, from the index of a tensor


class MaskSelector:
    """Selects masks by the weights and the observations of a pathway; changes nothing itself.

    Args:
        shared: {index of a tensor: the pathways that share its mask}: it is scored by the sum of their scores.
    """

    def __init__(
        self,
        config: PathwayConfig,
        prunable: Sequence[Prunable],
        observations: Observations,
        shared: Mapping[int, Sequence[str]],
    ) -> None:
        self._shared = shared
        self._config = config
        kind = SCORES[config.score]
        self._score = kind(**{option: getattr(config, option) for option in kind.options})
        self._prunable = prunable
        self._granularity = parse_granularity(config.granularity)
        self._narrows = POLICIES[config.gradient].freezes or self._score.swaps
        self._observations = observations
        self._warned = False

    def prune(
        self,
        pathway: str,
        sparsity: float,
        current: Sequence[Tensor] | None,
        factor: Factor | None = None,
        narrows: bool | None = None,
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks at a new sparsity: (name of the score used, one mask a tensor).

        Pathways of which the score's needs were not observed yet are scored by magnitude. Where pruning ``narrows`` the
        ``current`` bool masks (None: where the method does), only what they keep may be kept.
        """
        score, evidence = self._score, self._observations.evidence
        if score.swaps or self._observations.missing(pathway):
            score, evidence = Magnitude(), self._observations.weights
        within = current if (self._narrows if narrows is None else narrows) else None
        return score.name, self._select(score, evidence, pathway, sparsity, within, factor)

    def adapt(
        self,
        pathway: str,
        sparsity: float,
        current: Sequence[Tensor],
        language_steps: int,
        factor: Factor | None = None,
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks chosen again at the same sparsity, dropped weights included; swaps ignore ``factor``.

        Raises:
            PathwaysError: if what the score needs was not observed.
        """
        if missing := self._observations.missing(pathway):
            raise PathwaysError(missing)
        evidence = self._observations.evidence
        if self._score.swaps:
            share = self._score.swapped(language_steps)
            return self._score.name, self._swap(pathway, evidence(pathway), current, share)
        hysteresis = self._config.hysteresis

        def with_hysteresis(index: int) -> Tensor:
            of_kept = 1 + hysteresis * current[index].float()
            return of_kept if factor is None else of_kept * factor(index)

        adapting = with_hysteresis if hysteresis else factor
        return self._score.name, self._select(self._score, evidence, pathway, sparsity, None, adapting)

    def _select(
        self,
        score: Score,
        evidence: Callable[[str], Callable[[str], Evidence]],
        pathway: str,
        sparsity: float,
        within: Sequence[Tensor] | None,
        factor: Factor | None,
    ) -> Iterator[Tensor]:
        together = {key for keys in self._shared.values() for key in keys if not self._observations.missing(key)}
        of = {key: evidence(key) for key in together | {pathway}}

        def scores(index: int, one: Callable[[Evidence], Tensor] = score.of) -> Tensor:
            name = self._prunable[index].name
            first, *others = [key for key in self._shared.get(index, ()) if key in of] or [pathway]
            values = one(of[first](name))
            for other in others:
                values = values + one(of[other](name))
            return values * factor(index) if factor else values

        return select(
            scores,
            [one.shape for one in self._prunable],
            sparsity,
            granularity=self._granularity,
            allocation=self._config.allocation,
            within=within,
            groups=[one.groups for one in self._prunable],
            across=partial(scores, one=score.across),
        )

    def _swap(
        self, pathway: str, evidence: Callable[[str], Evidence], current: Sequence[Tensor], share: float
    ) -> Iterator[Tensor]:
        without, size = [], len(self._granularity.parts)
        for start in range(0, len(current), size):
            group = [evidence(one.name) for one in self._prunable[start : start + size]]
            scores = [self._score.of(one) for one in group]
            if not any(one.any() for one in scores):
                without.append(self._prunable[start].name)
            magnitudes = [Magnitude().of(one) for one in group]
            yield from swap(magnitudes, scores, current[start : start + size], share, self._granularity)
        if without and not self._warned:
            self._warned = True
            some = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
            warnings.warn(f"no gradient of {pathway!r} reached {some}: these masks stay as they are", stacklevel=2)
