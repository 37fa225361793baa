"""Choosing a pathway's next mask: the config's score, allocation and granularity brought together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from asr_pathways import ranks as distributed
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.config import PathwayConfig
from asr_pathways.pruning.gradients import GradientHooks
from asr_pathways.pruning.granularity import parse_granularity
from asr_pathways.pruning.policy import POLICIES
from asr_pathways.pruning.schedule import cosine_decay
from asr_pathways.pruning.scores import Evidence, activation, gradient, magnitude
from asr_pathways.pruning.selection import select, swap
from asr_pathways.pruning.statistics import InputStatistics
from asr_pathways.pruning.targets import Target


class Chooser:
    """Chooses masks from weights and from what was seen of a pathway; changes nothing itself."""

    def __init__(
        self,
        config: PathwayConfig,
        targets: Sequence[Target],
        statistics: InputStatistics,
        gradients: GradientHooks,
    ) -> None:
        self._config = config
        self._targets = targets
        self._shapes = [target.shape for target in targets]
        self._granularity = parse_granularity(config.granularity)
        self._narrows = POLICIES[config.gradient].narrows or config.score == "gradient"
        self._statistics = statistics
        self._gradients = gradients

    def prune(
        self,
        pathway: str,
        sparsity: float,
        now: Sequence[Tensor],
        others: Callable[[int], Tensor] | None = None,
        reuse: float = 1.0,
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks at a new sparsity: (name of the score used, one mask a tensor).

        Pathways of which no activation was seen yet are scored by magnitude.

        Args:
            now: the present bool masks; where pruning narrows, only what they keep may be kept.
            others, reuse: as for `adapt`; ``others`` is needed for a ``reuse`` other than 1.
        """
        favour = None if others is None or reuse == 1 else partial(_reused, reuse, others)
        return self._by_score(pathway, sparsity, now if self._narrows else None, favour)

    def adapt(
        self,
        pathway: str,
        sparsity: float,
        now: Sequence[Tensor],
        own_step: int,
        others: Callable[[int], Tensor],
        reuse: float = 1.0,
    ) -> tuple[str, Iterator[Tensor]]:
        """The masks chosen again at the same sparsity, dropped weights included.

        Args:
            now: the present bool masks.
            own_step: steps of the pathway's own language.
            others: from the index of a tensor to the share of the other pathways that keep each of its weights.
            reuse: what the score of a weight that another pathway keeps is multiplied by.

        Raises:
            PathwaysError: if the score needs activations or gradients and none were seen.
        """
        if self._config.score == "gradient":
            return "gradient", self._by_swap(pathway, now, own_step)
        config = self._config

        def favour(index: int) -> Tensor:
            factor = 1 + config.hysteresis * now[index].float()
            if config.overlap_pull:
                factor *= 1 + config.overlap_pull * others(index)
            return factor if reuse == 1 else factor * _reused(reuse, others, index)

        favours = config.hysteresis or config.overlap_pull or reuse != 1
        score, new = self._by_score(pathway, sparsity, None, favour if favours else None)
        if score != self._config.score:
            raise PathwaysError(
                f"no activation of {pathway!r} was seen yet: run forward passes inside calibrate({pathway!r})"
            )
        return score, new

    def _by_score(
        self,
        pathway: str,
        sparsity: float,
        within: Sequence[Tensor] | None,
        favour: Callable[[int], Tensor] | None = None,
    ) -> tuple[str, Iterator[Tensor]]:
        rms = self._statistics.rms(pathway)

        def score(index: int) -> Tensor:
            target = self._targets[index]
            evidence = Evidence(target.parameter, input_rms=rms.get(target.name))
            plain = activation(evidence, self._config.activation_power) if rms else magnitude(evidence)
            return plain * favour(index) if favour else plain

        return "activation" if rms else "magnitude", select(
            score,
            self._shapes,
            sparsity,
            granularity=self._granularity,
            allocation=self._config.allocation,
            within=within,
        )

    def _by_swap(self, pathway: str, now: Sequence[Tensor], own_step: int) -> Iterator[Tensor]:
        taken = self._gradients.taken(pathway)
        if not taken:
            raise PathwaysError(
                f"no gradient of {pathway!r} was taken yet: run a backward pass inside calibrate({pathway!r})"
            )
        end = self._config.adapt_until
        fraction = cosine_decay(self._config.swap, own_step, end) if end else self._config.swap
        for target, mask, held in zip(self._targets, now, taken, strict=True):
            local = torch.zeros_like(target.parameter, dtype=torch.float32) if held is None else held
            evidence = Evidence(target.parameter, gradient=distributed.total(local))
            yield swap(magnitude(evidence), gradient(evidence), mask, fraction, self._granularity)


def _reused(reuse: float, others: Callable[[int], Tensor], index: int) -> Tensor:
    """``reuse`` where another pathway keeps a weight, 1 elsewhere."""
    return torch.where(others(index) > 0, reuse, 1.0)
