"""How a model is pruned, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from asr_pathways.config import Config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Neurons, NOfM, parse_granularity
from asr_pathways.pruning.schedule import ScheduleName, stages
from asr_pathways.pruning.scores import SCORES, Need

SHARED = "shared"  # the one pathway of language-agnostic pruning
AllocationName = Literal["uniform", "global", "blended", "erk"]
PolicyName = Literal["frozen", "dense", "parp"]

RETIRED: dict[str, Any] = {"overlap_pull": 0.0, "adapt_growth": 1.0}
"""Options that are gone, with their neutral values: measured without gain (see docs/discussion.md)."""


@dataclass(frozen=True)
class GradientPolicy:
    """How weights outside the active mask are treated.

    Attributes:
        freezes: they do not move: their gradient is masked, whatever weight decay and momentum did to them is undone
            after the optimizer's step, and pruning chooses among what the mask still keeps.
        writes_zeros: a new mask writes its zeros into theta, which then trains densely; otherwise the forward pass
            uses m * theta in training too (in evaluation it always does).
    """

    freezes: bool = False
    writes_zeros: bool = False


POLICIES: dict[PolicyName, GradientPolicy] = {
    "frozen": GradientPolicy(freezes=True),
    "dense": GradientPolicy(),  # straight-through: the gradient taken at m * theta moves all of theta
    "parp": GradientPolicy(writes_zeros=True),  # arXiv 2106.05933: weights restart from zero and train densely
}


class PathwayConfig(Config):
    """How `Pathways` prunes and adapts.

    Attributes:
        sparsity: share of the prunable weights at zero in the end, in [0, 1).
        score: ``magnitude``, ``activation``, ``fisher``, ``sensitivity``, ``platon``, ``movement`` or ``gradient`` (see
            `scores`). ``gradient`` keeps the largest magnitudes inside the mask when it prunes, and swaps weights when
            it adapts.
        activation_power: ``activation`` is |theta| times the rms of inputs to this power, ``fisher`` |theta| times
            that of gradients to it. Below 1, the masks of languages share more.
        granularity: ``unstructured``, ``block:RxC``, ``n:m`` or ``neurons``. The last prunes the linear layers of
            ``pairs`` alone: a row of the first layer's weight and the column of the second's that reads it go together.
        pairs: of ``neurons``: how the names of the two layers end, such as ``fc1`` and ``fc2``; they begin alike.
        allocation: ``uniform``, ``global``, ``blended`` (of each tensor the mean of what these two keep) or ``erk``.
        schedule: ``oneshot``, ``iterative``, ``cubic`` or ``linear`` (see `schedule.stages`).
        prune_start: global step of the first stage; 0 prunes when the pathways are attached.
        prune_every: global steps between two stages.
        prune_share: share of the remaining weights that a stage of ``iterative`` prunes.
        prune_stages: how many stages ``cubic`` and ``linear`` have.
        gradient: ``frozen``, ``dense`` or ``parp`` (see `POLICIES`).
        adapt_every: a mask is chosen again after this many steps of its language; None: never.
        adapt_until: the last step of a language after which its mask may change; None: no end.
        hysteresis: against churn: when a mask adapts, scores of the weights in it count (1 + hysteresis) times.
        swap: share of a mask that ``gradient`` swaps at first; falls to 0 at ``adapt_until`` as a cosine.
        revived: whether the optimizer's state of a weight that no pathway kept and one keeps again stays or is zeroed.
        rewind: after each prune the weights go back to where they were when attached, and the optimizer's
            state is cleared (Lottery Ticket Hypothesis).
        shared: one mask for all languages (language-agnostic pruning).
        shared_middle: masks differ by language in the first and the last third of a model's layers alone; between them
            is one for all, scored by what was observed of every language (DAMA, arXiv 2602.01008, finds languages in
            the first and last layers). Of encoder and decoder each.
        include, exclude: patterns (``*``, ``?``) of parameters or of modules, by their names in the model.
    """

    sparsity: float = Field(ge=0, lt=1)
    score: str = "magnitude"
    activation_power: float = Field(default=1.0, gt=0, le=1)
    granularity: str = "unstructured"
    pairs: tuple[tuple[str, str], ...] = ()
    allocation: AllocationName = "uniform"
    schedule: ScheduleName = "oneshot"
    prune_start: int = Field(default=0, ge=0)
    prune_every: int | None = Field(default=None, ge=1)
    prune_share: float = Field(default=0.2, gt=0, lt=1)
    prune_stages: int | None = Field(default=None, ge=1)
    gradient: PolicyName = "dense"
    adapt_every: int | None = Field(default=None, ge=1)
    adapt_until: int | None = Field(default=None, ge=1)
    hysteresis: float = Field(default=0.0, ge=0)
    swap: float = Field(default=0.3, gt=0, le=1)
    revived: Literal["keep", "reset"] = "keep"
    rewind: bool = False
    shared: bool = False
    shared_middle: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Leaves out retired options at their neutral value, as older files have them."""
        if not isinstance(values, dict):
            return values
        if used := [option for option, neutral in RETIRED.items() if values.get(option, neutral) != neutral]:
            raise ValueError(f"{used[0]} is an option that is gone, since it never paid: leave it out")
        return {option: value for option, value in values.items() if option not in RETIRED}

    @field_validator("score")
    @classmethod
    def _known_score(cls, name: str) -> str:
        if name not in SCORES:
            *others, last = map(repr, SCORES)
            raise ValueError(f"Input should be {', '.join(others)} or {last}")
        return name

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
        if conflict := SCORES[self.score].conflict(dict(self)):
            raise ValueError(conflict)
        if self.shared_middle and self.shared:
            raise ValueError("shared_middle: with shared every layer's mask is one for all: leave one of them out")
        if self.shared_middle and self.allocation in ("global", "blended"):
            raise ValueError(
                f"shared_middle: allocation {self.allocation} keeps other numbers by language: use uniform or erk"
            )
        if self.shared_middle and SCORES[self.score].swaps:
            raise ValueError(f"shared_middle: score {self.score} knows one language at a time: use another")
        if self.rewind and self.gradient == "parp":
            raise ValueError("rewind brings back the values that gradient parp has set to zero: use frozen")
        kind = parse_granularity(self.granularity)
        if isinstance(kind, NOfM):
            if abs(self.sparsity - (1 - kind.n / kind.m)) > 1e-6:
                raise ValueError(f"granularity {self.granularity} fixes sparsity to {1 - kind.n / kind.m:g}")
            if self.schedule != "oneshot" or self.allocation != "uniform" or SCORES[self.score].swaps:
                raise ValueError(
                    f"granularity {self.granularity} takes schedule oneshot, allocation uniform and any score but "
                    "gradient"
                )
        neurons = isinstance(kind, Neurons)
        if self.pairs and not neurons:
            raise ValueError(f"pairs are of granularity neurons, not of {self.granularity}: leave them out")
        if neurons and (self.allocation != "uniform" or self.gradient == "parp"):
            raise ValueError("granularity neurons takes allocation uniform, and gradient dense or frozen")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_pairs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files of other granularities are as before there were pairs, so that older releases read them."""
        values: dict[str, Any] = handler(self)
        if not self.pairs:
            values.pop("pairs", None)
        return values

    def pathways(self, languages: Sequence[str]) -> tuple[str, ...]:
        """The names of the masks: one for each language, or the one that they share.

        Raises:
            PathwaysError: if ``languages`` are not distinct codes, or more than the gradient policy can do.
        """
        if isinstance(languages, str) or not languages:
            raise PathwaysError("languages: pass a list of at least one language code, such as ['en', 'fr']")
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

    def adapts_at(self, language_step: int) -> bool:
        """Whether a mask is chosen again after ``language_step`` steps of its language."""
        if self.adapt_every is None or (self.adapt_until is not None and language_step > self.adapt_until):
            return False
        return language_step % self.adapt_every == 0

    @property
    def score_needs(self) -> frozenset[Need]:
        """What has to be observed of a language before a mask is chosen by the score."""
        return SCORES[self.score].needs

    @property
    def calibrates(self) -> bool:
        """Whether a mask can be chosen by the score before training, from some batches of its language."""
        return bool(self.score_needs & {"inputs", "fisher"})
