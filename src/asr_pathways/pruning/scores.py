"""Scores: how much each weight of one tensor matters. A new score is one class here.

Every score is computed in float32 whatever the weights' type, from things that are the same on every rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from asr_pathways.pruning.schedule import cosine_decay

if TYPE_CHECKING:
    from torch import Tensor

MEAN, PLATON_MEAN, PLATON_UNCERTAINTY = 0.98, 0.85, 0.95  # what running means keep of themselves at each step

Need = Literal["inputs", "fisher", "gradients", "products"]
"""What may be observed of a pathway beside its weights (see `observe.OBSERVERS`)."""


@dataclass(frozen=True)
class Evidence:
    """The input of a score, for one tensor under one pathway.

    Attributes:
        weight: (rows, columns, ...) the dense values.
        inputs: (groups, columns) root mean square of each input of the layer; None where none was observed.
            The weight's rows fall into ``groups`` equal parts that read different inputs (one for a linear
            layer; query, key and value for attention's packed projection; a convolution's groups).
        fisher: of the weight's shape: root mean square, over positions, of the loss's gradient; None where none was
            observed.
        gradients: of the weight's shape: the dense gradient, unmasked; None where none was observed.
        products: (vectors, ...) float32: what the score keeps of theta * gradient; None where none was observed.
    """

    weight: Tensor
    inputs: Tensor | None = None
    fisher: Tensor | None = None
    gradients: Tensor | None = None
    products: Tensor | None = None


LEAST = 1e-30  # factor of a weight whose input is always zero: among themselves they go by magnitude

SCORES: dict[str, type[Score]] = {}
"""Every score by its name; a subclass of `Score` registers itself."""


class Score(ABC):
    """The importance of weights: a mask keeps those that score highest.

    Attributes:
        name: in configs.
        needs: what has to be observed of a pathway before its mask can be chosen.
        swaps: whether adaptation swaps weights by it, the smallest for those of highest score, instead of choosing
            the whole mask; pruning goes by magnitude then.
        options: its arguments, which are fields of `PathwayConfig`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    swaps: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        SCORES[cls.name] = cls

    @classmethod
    def conflict(cls, config: Mapping[str, Any]) -> str:
        """Why the fields of a `PathwayConfig` do not go with this score; empty if they do."""
        return ""

    @classmethod
    def defaults(cls, language_steps: int) -> dict[str, Any]:
        """Fields of `PathwayConfig` for a run that adapts masks over so many steps of each language."""
        return {}

    @abstractmethod
    def of(self, evidence: Evidence) -> Tensor:
        """The scores (>= 0) of one tensor, float32 and of the weight's shape."""

    def across(self, evidence: Evidence) -> Tensor:
        """Scores by which weights of different tensors are compared, for allocation ``global`` and ``blended``."""
        return self.of(evidence)

    def swapped(self, language_steps: int) -> float:
        """The share of a mask that adaptation swaps after so many steps of its language."""
        return 0.0


class Magnitude(Score):
    """|theta|, the score of IMP, LTH and PARP."""

    name = "magnitude"

    def of(self, evidence: Evidence) -> Tensor:
        return evidence.weight.detach().float().abs()


@dataclass(frozen=True)
class Activation(Score):
    """|theta_ij| times the rms of input j to a power, with one running rms per pathway.

    A power of 1 is Wanda's score (arXiv 2306.11695), 1/2 is how RIA (Zhang et al., ICLR 2024) weighs inputs, 0 is
    magnitude. A tensor whose inputs were not observed is scored by magnitude, as are, below all others, the columns
    whose inputs were all zero.
    """

    activation_power: float = 1.0

    name = "activation"
    needs = frozenset({"inputs"})
    options = ("activation_power",)

    def of(self, evidence: Evidence) -> Tensor:
        scores = Magnitude().of(evidence)
        if evidence.inputs is None:
            return scores
        groups, columns = evidence.inputs.shape
        factor = evidence.inputs.to(scores).pow(self.activation_power).clamp(min=LEAST)
        factor = factor.view(groups, 1, columns, *[1] * (scores.dim() - 2))
        return (scores.view(groups, -1, *scores.shape[1:]) * factor).view(scores.shape)


@dataclass(frozen=True)
class Fisher(Score):
    """|theta| times the root of the diagonal of the Fisher information, which is the rms of the gradient, to a power.

    At a power of 1 half its square is by how much the loss rises without the weight, to second order: the saliency of
    Optimal Brain Damage (LeCun et al. 1989; with the Fisher information, Theis et al. 2018, arXiv 1801.05787). By that
    tensors are compared; within one, where many weights go at once, a lower power was better. Weights whose gradient
    was always zero go, below all others, by magnitude.
    """

    activation_power: float = 1.0

    name = "fisher"
    needs = frozenset({"fisher"})
    options = ("activation_power",)

    def of(self, evidence: Evidence) -> Tensor:
        return self._scores(evidence, self.activation_power)

    def across(self, evidence: Evidence) -> Tensor:
        return self._scores(evidence, 1.0)

    def _scores(self, evidence: Evidence, power: float) -> Tensor:
        scores = Magnitude().of(evidence)
        assert evidence.fisher is not None, "its observer raises an error first"
        return scores * evidence.fisher.to(scores).pow(power).clamp(min=LEAST)


@dataclass(frozen=True)
class Gradient(Score):
    """|dL/dtheta|, by which RigL (arXiv 1911.11134) grows weights; zeros where no gradient reached the weight.

    An overflowed gradient (mixed precision) counts as the largest, an undefined one as none.
    """

    swap: float = 0.3
    adapt_until: int | None = None

    name = "gradient"
    needs = frozenset({"gradients"})
    swaps = True
    options = ("swap", "adapt_until")

    @classmethod
    def conflict(cls, config: Mapping[str, Any]) -> str:
        if config["adapt_every"] is not None and config["adapt_until"] is None:
            return "score gradient needs adapt_until, the step at which no weight is swapped any more"
        return "score gradient swaps weights by two scores: hysteresis needs one score" if config["hysteresis"] else ""

    @classmethod
    def defaults(cls, language_steps: int) -> dict[str, Any]:
        return {"adapt_until": max(1, language_steps * 3 // 4)}

    def of(self, evidence: Evidence) -> Tensor:
        if evidence.gradients is None:
            return Magnitude().of(evidence).zero_()
        return evidence.gradients.detach().float().abs().nan_to_num(nan=0.0)

    def swapped(self, language_steps: int) -> float:
        return cosine_decay(self.swap, language_steps, self.adapt_until) if self.adapt_until else self.swap


class Sensitivity(Score):
    """The running mean of |theta * g|: how much the loss changes without the weight, to first order.

    Molchanov et al., arXiv 1906.10771. g is taken at m * theta; theta is dense, so that pruned weights have a score.
    A tensor that no gradient reached is scored by magnitude, as are first masks. Every score that needs products is a
    subclass.

    Attributes:
        vectors: how many running values a weight are kept of theta * gradient.
    """

    name = "sensitivity"
    needs = frozenset({"products"})
    vectors: ClassVar[int] = 1

    @staticmethod
    def count(running: Tensor, product: Tensor) -> None:
        """Counts a training step's theta * gradient (...) in ``running`` (vectors, ...), both of float32."""
        running[0].lerp_(product.abs(), 1 - MEAN)

    def of(self, evidence: Evidence) -> Tensor:
        return Magnitude().of(evidence) if evidence.products is None else self._value(evidence.products)

    def _value(self, running: Tensor) -> Tensor:
        return running[0]


class Platon(Sensitivity):
    """PLATON (arXiv 2206.12562): the smoothed |theta * g| times its smoothed distance from that, the uncertainty."""

    name = "platon"
    vectors = 2

    @staticmethod
    def count(running: Tensor, product: Tensor) -> None:
        running[0].lerp_(product.abs(), 1 - PLATON_MEAN)
        running[1].lerp_((product.abs() - running[0]).abs(), 1 - PLATON_UNCERTAINTY)

    def _value(self, running: Tensor) -> Tensor:
        return running.prod(dim=0)


class Movement(Sensitivity):
    """Movement pruning (arXiv 2005.07683): the sum of -theta * g, large where training moved a weight away from zero.

    It is kept as two numbers, of which the second has the digits that the first, bfloat16, has no room for.
    """

    name = "movement"
    vectors = 2

    @classmethod
    def conflict(cls, config: Mapping[str, Any]) -> str:
        if config["allocation"] in ("global", "blended"):
            return "score movement compares weights of one tensor only: use allocation uniform or erk"
        return "score movement may be below zero: hysteresis, a factor, needs another" if config["hysteresis"] else ""

    @staticmethod
    def count(running: Tensor, product: Tensor) -> None:
        total = running.sum(dim=0) - product
        running[0] = total.bfloat16()
        running[1] = total - running[0]

    def _value(self, running: Tensor) -> Tensor:
        total = running.sum(dim=0)
        return total - total.min()
