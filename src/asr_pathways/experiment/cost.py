"""Estimates of how long cells run: by what their models take on this machine, then by the times of finished cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

from asr_pathways.experiment.paces import UTTERANCE, root_of
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.model_folder.folder import is_own
from asr_pathways.models.config import TransducerConfig
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe
from asr_pathways.training.estimate import Pace, estimate

_MULTIPLICATIONS = 38e9 / 6
"""Weights times encoder frames that one core trains in a second: measured for `micro` and `tiny` on an AMD EPYC."""

_SOLVED = 2e6
"""Weights that refitting solves for in a second, a language: measured for whisper-base there."""

_HUB = 0.42
"""Time of a training step of a model of the hub, over that by its weights: its decoder runs on tokens, not on frames.
Cells of results/whisper that trained took 0.7 to 1.3 times the estimate with it, those that did not up to six times.
"""

_FRAMES = 25  # encoder frames a second of speech
_FILLED = 0.85  # how much of a batch is speech, not padding
_OVERHEAD = 12.0  # seconds a cell spends on reading, first features and writing
_GUESS = 70_000_000  # weights of a model that cannot be looked at
_SPLIT = 55  # utterances of a language in dev or test, where a recipe names no number


class Costs:
    """Seconds on one core: an estimate, corrected by ``measured``, those of finished cells.

    ``pace`` measures what a cell's model takes on this machine; without, or where it returns None, that is guessed from
    sizes. Decoding, calibration and refitting are counted as in `training.estimate`.
    """

    def __init__(
        self, plan: Plan, measured: Mapping[str, float], pace: Callable[[Cell], Pace | None] = lambda cell: None
    ) -> None:
        self._plan, self._pace = plan, pace
        self.measured = len(measured)
        # Of sums, not of ratios: many short cells say little about long ones, which decide the total.
        expected = sum(self._expected(plan.cells[name]) for name in measured)
        self._factor = sum(measured.values()) / expected if expected else 1.0

    def seconds(self, cell: Cell) -> float:
        """The estimate for ``cell``."""
        return self._factor * self._expected(cell)

    def _expected(self, cell: Cell) -> float:
        spec, kind = cell.spec, PruneRecipe if cell.spec["kind"] == "prune" else TrainRecipe
        recipe: LoopConfig = kind.model_validate(spec["recipe"])
        pace = self._pace(cell) or self._by_size(cell, recipe)
        languages = len(spec["languages"] or (None,))
        dev = languages * (recipe.evaluation.utterances or _SPLIT)
        tested = languages * (spec["test"]["utterances"] or _SPLIT * len(spec["test"]["splits"])) if spec["test"] else 0
        # Of test utterances there is a loss, too: a forward pass.
        test = tested * (pace.utterance + pace.forward * UTTERANCE / recipe.data.max_seconds)
        # A cell does not score its dense model: that has a cell of its own.
        baseline = dev * pace.utterance if kind is PruneRecipe else 0.0
        return _OVERHEAD + estimate(pace, recipe, languages, dev).seconds - baseline + test

    def _by_size(self, cell: Cell, recipe: LoopConfig) -> Pace:
        weights = self._weights(cell)
        second = _FRAMES * weights / _MULTIPLICATIONS  # of training on a second of speech
        start = root_of(self._plan, cell)
        of_hub = "path" in start and not is_own(Path(start["path"]))
        whole = recipe.data.max_seconds * _FILLED * second * (_HUB if of_hub else 1.0)
        distils = isinstance(recipe, PruneRecipe) and bool(recipe.distillation or recipe.soft_targets)
        own, forward = whole * recipe.accumulate, whole / 3
        return Pace(own * (4 / 3 if distils else 1), own, forward, UTTERANCE * second, 0, weights, 0, weights / _SOLVED)

    def _weights(self, cell: Cell) -> int:
        start = root_of(self._plan, cell)
        if "path" not in start:
            return _size(preset(start["preset"], start["vocab_size"]).model_dump_json())
        # Four bytes a weight, or a guess where the model is not at hand.
        return sum(path.stat().st_size for path in Path(start["path"]).glob("*.safetensors")) // 4 or _GUESS


@cache
def _size(config: str) -> int:
    with torch.device("meta"):
        model = Transducer(TransducerConfig.model_validate_json(config))
    return sum(parameter.numel() for parameter in model.parameters())
