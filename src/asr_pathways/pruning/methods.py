"""The pruning methods, as data: each combines a schedule, a gradient policy and whether masks adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_pathways.config import parse_config
from asr_pathways.pruning.config import PathwayConfig, PolicyName
from asr_pathways.pruning.schedule import ScheduleName, stages
from asr_pathways.pruning.scores import SCORES

ADAPTATIONS = 20  # how often a mask adapts in a run by default


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        adapts: whether masks are chosen again between prunes.
        rewind: whether weights go back to their start after each prune.
        per_language: one mask for each language; otherwise one for all (which for a single language is the same).
        score_options: defaults of its options, also of other scores that a config may choose instead.
    """

    about: str
    schedule: ScheduleName
    gradient: PolicyName
    adapts: bool = False
    rewind: bool = False
    per_language: bool = False
    score: str = "magnitude"
    score_options: Mapping[str, Any] = field(default_factory=dict)

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
            "shared": not self.per_language,
        }
        values.update(options)
        language_steps = steps if values["shared"] else steps // max(1, len(languages))
        score = SCORES.get(str(values["score"]))  # an unknown one is refused below
        if score is not None:
            defaults = {key: value for key, value in self.score_options.items() if key in score.options}
            values = {**defaults, **(score.defaults(language_steps) if self.adapts else {}), **values}
        # Before stages are counted: those to a sparsity of 1 would have no end.
        pause = {} if values["schedule"] == "oneshot" else {"prune_every": 1}
        parse_config(PathwayConfig, {**pause, **values}, "pruning")
        if pause:
            share, count = values.get("prune_share", 0.2), values.get("prune_stages") or 1
            count = len(stages(values["schedule"], values["sparsity"], share=share, count=count))
            values.setdefault("prune_every", max(1, steps // (count + bool(values["rewind"]))))
            if values["rewind"]:
                values.setdefault("prune_start", values["prune_every"])
        if self.adapts:
            values.setdefault("adapt_every", max(1, language_steps // ADAPTATIONS))
        return parse_config(PathwayConfig, values, "pruning")


METHODS: dict[str, Method] = {
    "omp": Method("one-shot magnitude pruning", "oneshot", "frozen"),
    "imp": Method("iterative magnitude pruning (Han et al. 2015)", "iterative", "frozen"),
    "lth": Method("Lottery Ticket Hypothesis (Frankle and Carbin 2019)", "iterative", "frozen", rewind=True),
    "parp": Method("prune, adjust, re-prune (arXiv 2106.05933)", "oneshot", "parp", adapts=True),
    "adaptive": Method("adaptive masking of one model (arXiv 2309.13018)", "iterative", "dense", adapts=True),
    "pathways": Method(
        "ASR Pathways: fixed masks, one for each language (arXiv 2209.05735)", "oneshot", "frozen", per_language=True
    ),
    "dynamic": Method(
        "Dynamic ASR Pathways: masks that adapt, one for each language (arXiv 2309.13018)",
        "oneshot",
        "dense",
        adapts=True,
        per_language=True,
        score="activation",
        score_options={"activation_power": 0.5},  # lower loss and CER, fewer weights in the union: docs/results.md
    ),
}
