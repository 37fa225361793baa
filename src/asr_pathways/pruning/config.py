"""How a model is pruned, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from asr_pathways.config import Config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import NOfM, parse_granularity
from asr_pathways.pruning.policy import POLICIES, PolicyName
from asr_pathways.pruning.schedule import ScheduleName, stages

ScoreName = Literal["magnitude", "activation", "gradient"]
SHARED = "shared"  # the one pathway of language-agnostic pruning
AllocationName = Literal["uniform", "global", "erk"]


class PathwayConfig(Config):
    """Everything that `Pathways` needs to know beside the model and its languages.

    Attributes:
        sparsity: share of the prunable weights at zero in the end, in [0, 1).
        score: ``magnitude``, ``activation`` or ``gradient`` (see `scores`). ``gradient`` keeps the largest
            magnitudes inside the mask when it prunes, and swaps weights when it adapts (RigL).
        activation_power: how much ``activation`` heeds inputs: |theta| times their rms to this power. Below 1,
            the masks of languages share more.
        granularity: ``unstructured``, ``block:RxC`` or ``n:m``.
        allocation: ``uniform``, ``global`` or ``erk``.
        schedule: ``oneshot``, ``iterative``, ``cubic`` or ``linear`` (see `schedule.stages`).
        prune_start: global step of the first stage; 0 prunes when the pathways are attached.
        prune_every: global steps between two stages.
        prune_share: what a stage of ``iterative`` prunes of what is left.
        prune_stages: how many stages ``cubic`` and ``linear`` have.
        gradient: ``frozen``, ``dense`` or ``parp`` (see `policy`).
        adapt_every: a mask is chosen again after this many of its own language's steps; None: never.
        adapt_until: a language's own step from which its mask stays; None: adapts for ever.
        adapt_growth: each interval is so many times as long as the one before: masks settle as training goes on.
        hysteresis: against churn: when a mask adapts, what it keeps now scores (1 + hysteresis) times as much.
        overlap_pull: toward overlap: when a mask adapts, a weight that a share q of the other languages keeps
            scores (1 + overlap_pull * q) times as much.
        swap: share of a mask that ``gradient`` swaps at first; falls to 0 at ``adapt_until`` as a cosine.
        revived: what happens to the optimizer's state of a weight that no pathway kept and one keeps again.
        rewind: after each prune the weights go back to where they were when attached, and the optimizer's
            state is cleared (Lottery Ticket Hypothesis).
        shared: one mask for all languages (language-agnostic pruning).
        include, exclude: patterns (``*``, ``?``) of parameters or of modules, by their names in the model.
    """

    sparsity: float = Field(ge=0, lt=1)
    score: ScoreName = "magnitude"
    activation_power: float = Field(default=1.0, gt=0, le=1)
    granularity: str = "unstructured"
    allocation: AllocationName = "uniform"
    schedule: ScheduleName = "oneshot"
    prune_start: int = Field(default=0, ge=0)
    prune_every: int | None = Field(default=None, ge=1)
    prune_share: float = Field(default=0.2, gt=0, lt=1)
    prune_stages: int | None = Field(default=None, ge=1)
    gradient: PolicyName = "dense"
    adapt_every: int | None = Field(default=None, ge=1)
    adapt_until: int | None = Field(default=None, ge=1)
    adapt_growth: float = Field(default=1.0, ge=1)
    hysteresis: float = Field(default=0.0, ge=0)
    overlap_pull: float = Field(default=0.0, ge=0)
    swap: float = Field(default=0.3, gt=0, le=1)
    revived: Literal["keep", "reset"] = "keep"
    rewind: bool = False
    shared: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @field_validator("granularity")
    @classmethod
    def _known_granularity(cls, text: str) -> str:
        parse_granularity(text)
        return text

    @model_validator(mode="after")
    def _parts_fit(self) -> PathwayConfig:
        if self.schedule == "oneshot" and self.prune_every is not None:
            raise ValueError("schedule oneshot has one stage, so prune_every means nothing: leave it out")
        if self.schedule != "oneshot" and self.prune_every is None:
            raise ValueError(f"schedule {self.schedule} needs prune_every, the steps between two stages")
        if self.schedule in ("cubic", "linear") and self.prune_stages is None:
            raise ValueError(f"schedule {self.schedule} needs prune_stages, their number")
        if self.score == "gradient" and self.adapt_every is not None and self.adapt_until is None:
            raise ValueError("score gradient needs adapt_until, the step at which no weight is swapped any more")
        if self.score == "gradient" and (self.hysteresis or self.overlap_pull):
            raise ValueError("score gradient swaps weights by two scores: hysteresis and overlap_pull need one score")
        if self.shared and self.overlap_pull:
            raise ValueError("overlap_pull is between the masks of languages, and here all share one")
        if self.rewind and self.gradient == "parp":
            raise ValueError("rewind brings back the values that gradient parp has set to zero: use frozen")
        kind = parse_granularity(self.granularity)
        if isinstance(kind, NOfM):
            if abs(self.sparsity - (1 - kind.n / kind.m)) > 1e-6:
                raise ValueError(f"granularity {self.granularity} fixes sparsity to {1 - kind.n / kind.m:g}")
            if self.schedule != "oneshot" or self.allocation != "uniform" or self.score == "gradient":
                raise ValueError(
                    f"granularity {self.granularity} takes schedule oneshot, allocation uniform and score "
                    "magnitude or activation"
                )
        return self

    def pathways(self, languages: Sequence[str]) -> tuple[str, ...]:
        """The names of the masks: one for each language, or the one that they share.

        Raises:
            PathwaysError: if ``languages`` are not distinct codes, or more than the gradient policy can do.
        """
        if isinstance(languages, str) or not languages:
            raise PathwaysError("languages: give a list of at least one language code, such as ['en', 'fr']")
        for language in languages:
            if not isinstance(language, str) or not language or "/" in language:
                raise PathwaysError(f"languages: {language!r} is not a language code")
        if len(set(languages)) < len(languages):
            raise PathwaysError("languages: one is named twice")
        if self.shared:
            return (SHARED,)
        if POLICIES[self.gradient].writes_zeros and len(languages) > 1:
            raise PathwaysError(f"gradient {self.gradient} writes zeros into theta: all languages share one mask")
        return tuple(languages)

    @property
    def stages(self) -> tuple[float, ...]:
        """The sparsities that pruning reaches, stage by stage."""
        return stages(self.schedule, self.sparsity, share=self.prune_share, count=self.prune_stages or 1)

    def stage_at(self, step: int) -> float | None:
        """The sparsity that the stage of global step ``step`` prunes to; None if no stage falls on it."""
        since = step - self.prune_start
        index, off = divmod(since, self.prune_every or 1)
        return self.stages[index] if off == 0 and 0 <= index < len(self.stages) else None

    def adapts_at(self, own_step: int) -> bool:
        """Whether a mask is chosen again after ``own_step`` steps of its language."""
        if self.adapt_every is None or (self.adapt_until is not None and own_step > self.adapt_until):
            return False
        if self.adapt_growth == 1:
            return own_step % self.adapt_every == 0
        due, interval = 0, float(self.adapt_every)
        while due < own_step:
            due += round(interval)
            interval *= self.adapt_growth
        return due == own_step
