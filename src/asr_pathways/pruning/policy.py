"""Gradient policies: what a pathway does to the weights while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["frozen", "dense", "parp"]


@dataclass(frozen=True)
class GradientPolicy:
    """How weights outside the active mask are treated.

    Attributes:
        masks_training: the forward pass uses m * theta in training too (in evaluation it always does).
        freezes: weights outside the mask do not move: their gradient is masked, and whatever weight decay or
            momentum did to them is undone after the optimizer's step.
        narrows: pruning chooses among what the mask still keeps; otherwise pruned weights may come back.
        writes_zeros: a new mask writes its zeros into theta.
    """

    masks_training: bool
    freezes: bool
    narrows: bool
    writes_zeros: bool


POLICIES: dict[PolicyName, GradientPolicy] = {
    # A frozen weight keeps the value at which it was pruned, so only `narrows` keeps it from coming back.
    "frozen": GradientPolicy(masks_training=True, freezes=True, narrows=True, writes_zeros=False),
    # Straight-through: the gradient taken at m * theta moves all of theta.
    "dense": GradientPolicy(masks_training=True, freezes=False, narrows=False, writes_zeros=False),
    # PARP (arXiv 2106.05933): pruned weights restart from zero and train densely until the next pruning.
    "parp": GradientPolicy(masks_training=False, freezes=False, narrows=False, writes_zeros=True),
}
