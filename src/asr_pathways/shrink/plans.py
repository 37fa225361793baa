"""What `shrink` can do with a budget of time, as data: what ledgers here say of each, and what is chosen among them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from asr_pathways.bundle.layout import Quantity
from asr_pathways.errors import PathwaysError

Target = Literal["accuracy", "size", "speed"]
TARGETS: tuple[Target, ...] = get_args(Target)

DENSER, _SPARSER = 0.5, 0.7

BATCH = 24.0
"""Seconds of speech in a batch of refitting, about."""


@dataclass(frozen=True)
class Plan:
    """A way from a dense model to a pruned one.

    Attributes:
        finetune: steps of dense training first.
        steps: of training after the first masks.
        refit: batches a language that the kept weights are solved for by, before these; 0: none.
        sparsity: where accuracy is wanted, and where size or speed are.
        errors: how many times the dense model's WER the result has, from and to.
        basis: where that comes from.
    """

    finetune: int
    steps: int
    refit: int
    sparsity: tuple[float, float]
    errors: tuple[float, float]
    basis: str

    def sparsity_for(self, target: Target) -> float:
        """That of a run for ``target``."""
        return self.sparsity[0 if target == "accuracy" else 1]

    def within(self, speech: float) -> Plan:
        """That for so many seconds of speech a language: it is not refitted on the same utterances again and again."""
        return replace(self, refit=min(self.refit, 1 + math.ceil(speech / BATCH)))


_EITHER, _DENSE = (DENSER, _SPARSER), (DENSER, DENSER)
_WHISPER = "results/whisper"
_SHRUNK = "results/shrink.json"
_BETWEEN = f"between what {_SHRUNK} and docs/models.md have"

HUB = (
    Plan(500, 2000, 12, _EITHER, (0.6, 1.0), _WHISPER),
    Plan(500, 1000, 12, _EITHER, (0.8, 1.2), _WHISPER),
    Plan(300, 600, 12, _EITHER, (0.7, 1.4), _SHRUNK),
    Plan(200, 400, 12, _DENSE, (0.7, 1.4), _SHRUNK),
    Plan(150, 200, 12, _DENSE, (0.7, 1.5), _SHRUNK),
    Plan(100, 100, 8, _DENSE, (0.8, 1.8), _BETWEEN),
    Plan(0, 0, 8, _DENSE, (1.1, 2.0), "docs/models.md"),
)
"""For models of the hub, the longest first: a finetuned model loses less, so that comes first where there is time."""

OWN = (
    Plan(0, 2000, 0, _EITHER, (1.0, 1.2), "results/demo.json"),
    Plan(0, 500, 0, _EITHER, (1.0, 1.3), "results/demo.json"),
    Plan(0, 0, 0, _DENSE, (1.1, 1.5), "results/demo.json"),
)
"""For transducers of this package."""

LONGEST = max(plan.steps for plan in (*HUB, *OWN))
"""Steps after which more time is of no use."""

DTYPES: dict[Target, Quantity] = {"accuracy": "float16", "speed": "float16", "size": "int8"}
"""Of the bundle's weights. Products are of whatever is fastest here, whichever it is."""


def choose(plans: Sequence[Plan], seconds: Callable[[Plan], float], budget: float) -> Plan:
    """The longest plan that takes at most ``budget`` seconds; if none does, the shortest: without a budget no other is
    timed.
    """
    return next((plan for plan in plans if budget and seconds(plan) <= budget), plans[-1])


def parse_budget(text: str) -> float:
    """Seconds: ``30m``, ``1h30m``, ``90s``, ``0``; other numbers need a unit.

    Raises:
        PathwaysError: if it is none of these.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?|0", text.strip())
    if not text.strip() or found is None:
        raise PathwaysError(f"--budget {text}: not a time such as 30m, 1h30m or 0")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds
