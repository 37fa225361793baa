"""Estimates of how long cells run: by what their models take on this machine, then by the times of finished cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

from asr_pathways.experiment.amounts import Amounts
from asr_pathways.experiment.paces import UTTERANCE, masks_of, root_of
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.model_folder.folder import is_of_this_package
from asr_pathways.models.config import TransducerConfig
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning.refit.refitting import RefitCost
from asr_pathways.training.config import LoopConfig, PruneRecipe
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
_READ = 0.005  # seconds to read an utterance and compute its features
_GUESS = 70_000_000  # weights of a model that cannot be looked at


class Costs:
    """Seconds on one core: of cells that are done what they took, of others an estimate.

    ``pace`` measures what a cell's model takes on this machine. Without, or where it returns None, that is guessed from
    sizes, and corrected by the times of those that are done. Decoding, calibration and refitting are counted as in
    `training.estimate`.

    Args:
        plan: all cells.
        root: the experiment's folder, where corpora may be already.
        done: {cell: seconds that it took}.
        pace: as `MeasuredPaces`.
    """

    def __init__(
        self,
        plan: Plan,
        root: Path,
        done: Mapping[str, float],
        pace: Callable[[Cell], Pace | None] | None = None,
    ) -> None:
        self._plan, self._pace, self.done = plan, pace, done
        self._amounts = Amounts(plan, root)
        # Of sums, not of ratios: many short cells say little about long ones, which decide the total.
        expected = sum(self._expected(plan.cells[name], None) for name in done)
        self._factor = sum(done.values()) / expected if expected else 1.0

    def seconds(self, cell: Cell) -> float:
        """What ``cell`` takes, were it to run now."""
        pace = self._pace(cell) if self._pace else None
        return self._expected(cell, pace) * (self._factor if pace is None else 1.0)

    def _expected(self, cell: Cell, pace: Pace | None) -> float:
        spec, recipe = cell.spec, cell.recipe
        pace = pace or self._by_size(cell, recipe)
        dev = self._amounts.utterances(cell, ("dev",), recipe.evaluation.utterances)
        test = spec["test"]
        tested = self._amounts.utterances(cell, test["splits"], test["utterances"]) if test else 0
        # A cell does not score its dense model: that has a cell of its own.
        baseline = dev * pace.utterance if isinstance(recipe, PruneRecipe) else 0.0
        languages = len(spec["languages"] or (None,))
        run = estimate(pace, recipe, languages, dev, masks_of(cell)).seconds - baseline
        # Of test utterances there is a loss, too: a forward pass.
        tests = tested * (pace.utterance + pace.forward / pace.rows + 2 * _READ)
        return _OVERHEAD + run + dev * _READ + tests

    def _by_size(self, cell: Cell, recipe: LoopConfig) -> Pace:
        weights = self._weights(cell)
        second = _FRAMES * weights / _MULTIPLICATIONS  # of training on a second of speech
        start = root_of(self._plan, cell)
        of_hub = "path" in start and not is_of_this_package(Path(start["path"]))
        whole = recipe.data.max_seconds * _FILLED * second * (_HUB if of_hub else 1.0)
        distils = isinstance(recipe, PruneRecipe) and bool(recipe.distillation or recipe.soft_targets)
        own, forward = whole * recipe.accumulate, whole / 3
        refit = RefitCost(2 * forward, 3 * forward, weights / _SOLVED)
        step, rows = own * (4 / 3 if distils else 1), max(1, round(recipe.data.max_seconds / UTTERANCE))
        masks = masks_of(cell)
        calibration = whole if masks is not None and "fisher" in masks.score_needs else forward  # with a backward pass
        return Pace(step, own, forward, UTTERANCE * second, 0, weights, 0, 0.0, refit, rows, calibration=calibration)

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
