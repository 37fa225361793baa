"""The pruning methods, as data: each is a composition of schedule, gradient policy and what comes between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asr_pathways.config import parse_config
from asr_pathways.pruning.config import PathwayConfig, ScoreName
from asr_pathways.pruning.policy import PolicyName
from asr_pathways.pruning.schedule import ScheduleName, stages

ADAPTATIONS = 20  # how often a mask adapts in a run, unless told otherwise


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        about: what it is, in a line.
        schedule: when it prunes.
        gradient: what moves weights outside the mask.
        adapts: whether masks are chosen again between prunes.
        rewind: whether weights go back to their start after each prune.
        own_masks: one mask for each language; otherwise one for all (which for a single language is the same).
        score: what chooses masks, unless told otherwise.
        activation_power: how much a score by activation heeds inputs, unless told otherwise.
    """

    about: str
    schedule: ScheduleName
    gradient: PolicyName
    adapts: bool = False
    rewind: bool = False
    own_masks: bool = False
    score: ScoreName = "magnitude"
    activation_power: float = 1.0

    def config(self, sparsity: float, steps: int, languages: Sequence[str], **options: Any) -> PathwayConfig:
        """The config of a run of ``steps`` optimizer steps, spread evenly over ``languages``.

        ``iterative`` stages are spread over the run so that each is followed by as many steps; rewinding
        trains before the first one too. Anything in ``options`` (keys of `PathwayConfig`) takes precedence.

        Raises:
            PathwaysError: naming the option that is wrong.
        """
        values: dict[str, Any] = {
            "sparsity": sparsity,
            "schedule": self.schedule,
            "gradient": self.gradient,
            "rewind": self.rewind,
            "score": self.score,
            "shared": not self.own_masks,
        }
        values.update(options)
        own_steps = steps if values["shared"] else steps // max(1, len(languages))
        if self.adapts and values["score"] == "gradient":
            values.setdefault("adapt_until", max(1, own_steps * 3 // 4))
        elif values["score"] == "activation":
            values.setdefault("activation_power", self.activation_power)
        # Before stages are counted: those to a sparsity of 1 would have no end.
        parse_config(
            PathwayConfig, {**({} if values["schedule"] == "oneshot" else {"prune_every": 1}), **values}, "pruning"
        )
        pause = _pause(values, steps)
        if values["schedule"] != "oneshot":
            values.setdefault("prune_every", pause)
            if values["rewind"]:
                values.setdefault("prune_start", values["prune_every"])
        if self.adapts:
            values.setdefault("adapt_every", max(1, own_steps // ADAPTATIONS))
        return parse_config(PathwayConfig, values, "pruning")


def _pause(values: dict[str, Any], steps: int) -> int:
    """Steps between two stages."""
    if values["schedule"] == "iterative":
        count = len(stages("iterative", values["sparsity"], share=values.get("prune_share", 0.2)))
    else:
        count = values.get("prune_stages") or 1
    return max(1, steps // (count + bool(values["rewind"])))


METHODS: dict[str, Method] = {
    "omp": Method("one-shot magnitude pruning", "oneshot", "frozen"),
    "imp": Method("iterative magnitude pruning (Han et al. 2015)", "iterative", "frozen"),
    "lth": Method("Lottery Ticket Hypothesis (Frankle and Carbin 2019)", "iterative", "frozen", rewind=True),
    "parp": Method("prune, adjust, re-prune (arXiv 2106.05933)", "oneshot", "parp", adapts=True),
    "adaptive": Method("adaptive masking of one model (arXiv 2309.13018)", "iterative", "dense", adapts=True),
    "pathways": Method(
        "ASR Pathways: fixed masks, one for each language (arXiv 2209.05735)", "oneshot", "frozen", own_masks=True
    ),
    "dynamic": Method(
        "Dynamic ASR Pathways: masks that adapt, one for each language (arXiv 2309.13018)",
        "oneshot",
        "dense",
        adapts=True,
        own_masks=True,
        score="activation",
        activation_power=0.5,  # lower loss and CER, fewer weights in the union: docs/results.md
    ),
}
