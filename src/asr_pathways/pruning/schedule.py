"""Schedules: the sparsities that the stages of pruning reach, one after another, and when adaptation is due."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["oneshot", "iterative", "cubic", "linear"]


def stages(schedule: ScheduleName, sparsity: float, *, share: float = 0.2, count: int = 1) -> tuple[float, ...]:
    """The rising sparsities of a schedule, the last one ``sparsity``.

    - ``oneshot``: at once.
    - ``iterative``: each stage prunes ``share`` of what is left (Han et al. 2015): 0.2, 0.36, 0.488, ...
    - ``linear``: ``count`` equal steps.
    - ``cubic``: ``count`` steps that shrink (Zhu and Gupta, arXiv 1710.01878).
    """
    if schedule == "oneshot":
        return (sparsity,)
    if schedule == "linear":
        return (*(sparsity * i / count for i in range(1, count)), sparsity)
    if schedule == "cubic":
        return (*(sparsity * (1 - (1 - i / count) ** 3) for i in range(1, count)), sparsity)
    reached, left = [], 1 - share
    while 1 - left < sparsity - 1e-9:
        reached.append(1 - left)
        left *= 1 - share
    return (*reached, sparsity)


def cosine_decay(fraction: float, step: int, end: int) -> float:
    """``fraction`` at step 0, half-way at ``end / 2``, 0 from ``end`` on (RigL's schedule of swaps)."""
    return fraction * (1 + math.cos(math.pi * min(step, end) / end)) / 2
