"""Scores: how much each weight of one tensor matters. A new score is one function here.

Every score is computed in float32 whatever the weights' type, from things that are the same on every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a score may look at, for one tensor under one pathway.

    Attributes:
        weight: (rows, columns, ...) the dense values.
        input_rms: (groups, columns) root mean square of each input of the layer; None where it was not seen.
            The weight's rows fall into ``groups`` equal parts that read different inputs (one for a linear
            layer; query, key and value for attention's packed projection; a convolution's groups).
        gradient: of the weight's shape: the dense gradient, unmasked; None where none was taken.
    """

    weight: Tensor
    input_rms: Tensor | None = None
    gradient: Tensor | None = None


Score = Callable[[Evidence], Tensor]


def magnitude(evidence: Evidence) -> Tensor:
    """|theta|, the score of IMP, LTH and PARP."""
    return evidence.weight.detach().float().abs()


def activation(evidence: Evidence, power: float = 1.0) -> Tensor:
    """|theta_ij| times the rms of input j to ``power``, with one running rms per pathway.

    A power of 1 is Wanda's score (arXiv 2306.11695), 1/2 is how RIA (Zhang et al., ICLR 2024) takes inputs, 0 is
    magnitude. A tensor whose inputs were not seen is scored by magnitude.
    """
    scores = magnitude(evidence)
    if evidence.input_rms is None:
        return scores
    groups, columns = evidence.input_rms.shape
    factor = evidence.input_rms.to(scores).pow(power).view(groups, 1, columns, *[1] * (scores.dim() - 2))
    return (scores.view(groups, -1, *scores.shape[1:]) * factor).view(scores.shape)


def gradient(evidence: Evidence) -> Tensor:
    """|dL/dtheta|, by which RigL (arXiv 1911.11134) grows weights; zeros where no gradient reached the weight.

    An overflowed gradient (mixed precision) counts as the largest, an undefined one as none.
    """
    if evidence.gradient is None:
        return magnitude(evidence).zero_()
    return evidence.gradient.detach().float().abs().nan_to_num(nan=0.0)
