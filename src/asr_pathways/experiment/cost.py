"""Estimates of how long cells run: from sizes at first, then from the times of finished cells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.models.config import TransducerConfig
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer

_MULTIPLICATIONS = 38e9 / 6
"""Weights times encoder frames that one core trains in a second: measured for `micro` and `tiny` on an AMD EPYC."""

_FRAMES = 25  # encoder frames a second of speech
_FILLED = 0.85  # how much of a batch is speech, not padding
_OVERHEAD = 12.0  # seconds a cell spends on reading, first features and tests
_GUESS = 70_000_000  # weights of a model that cannot be looked at


class Costs:
    """Seconds on one core: an estimate from sizes, corrected by ``measured``, those of finished cells."""

    def __init__(self, plan: Plan, measured: Mapping[str, float]) -> None:
        self._plan = plan
        self.measured = len(measured)
        # Of sums, not of ratios: many short cells say little about long ones, which decide the total.
        expected = sum(self._by_size(plan.cells[name]) for name in measured)
        self._factor = sum(measured.values()) / expected if expected else 1.0

    def seconds(self, cell: Cell) -> float:
        """The estimate for ``cell``."""
        return self._factor * self._by_size(cell)

    def _by_size(self, cell: Cell) -> float:
        audio = cell.steps * cell.spec["recipe"]["data"]["max_seconds"] * _FILLED
        return float(audio * _FRAMES * self._weights(cell) / _MULTIPLICATIONS + _OVERHEAD)

    def _weights(self, cell: Cell) -> int:
        model = cell.spec["model"]
        if model is None:
            recipe = cell.spec["recipe"]["model"]
            return _size(preset(recipe["preset"], recipe["vocab_size"]).model_dump_json())
        if "cell" in model:
            return self._weights(self._plan.cells[model["cell"]])
        # Four bytes a weight, or a guess where the model is not at hand.
        return sum(path.stat().st_size for path in Path(model["path"]).glob("*.safetensors")) // 4 or _GUESS


@cache
def _size(config: str) -> int:
    with torch.device("meta"):
        model = Transducer(TransducerConfig.model_validate_json(config))
    return sum(parameter.numel() for parameter in model.parameters())
