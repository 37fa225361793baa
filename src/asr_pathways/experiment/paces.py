"""How fast cells run on this machine: a training step, a forward pass and decoding of their models, on noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.batches import Batch
from asr_pathways.experiment.cells import cell_folder
from asr_pathways.experiment.corpora import folder_at_hand
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.presets import preset
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import PathwayConfig
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.estimate import Pace, measure, middle
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.prune import options_for
from asr_pathways.training.run import Run, launch

UTTERANCE, TOKENS = 2.5, 3.0
"""Seconds of an utterance, and tokens a second, where no corpus is at hand."""


class MeasuredPaces:
    """Measures each kind of cell of a plan once: those of one model in one kind of training.

    On the cells' own data and models where these are at hand, else on noise and on the model that they come from.
    """

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root
        self._known: dict[tuple[object, ...], Pace | None] = {}

    def __call__(self, cell: Cell) -> Pace | None:
        """The pace of ``cell``; None if its model is not at hand."""
        key = self._kind(cell)
        if key not in self._known:
            threads = torch.get_num_threads()
            try:
                self._known[key] = self._measured(cell)
            finally:
                torch.set_num_threads(threads)
        return self._known[key]

    def one_of_each(self, cells: Iterable[Cell]) -> list[Cell]:
        """A cell of each kind."""
        return list({self._kind(cell): cell for cell in cells}.values())

    def _kind(self, cell: Cell) -> tuple[object, ...]:
        """What decides the pace of a cell."""
        recipe, masks = cell.recipe, masks_of(cell)
        data = folder_at_hand(self._root, self._plan.recipe, cell.spec["data"])
        chosen = masks and (masks.score, masks.granularity, masks.allocation, masks.gradient)
        trains, refits = recipe.optimizer.steps > 0, isinstance(recipe, PruneRecipe) and recipe.refit_batches > 0
        teaches = isinstance(recipe, PruneRecipe) and bool(recipe.distillation or recipe.soft_targets)
        shape = recipe.data.max_seconds, recipe.accumulate, recipe.precision, recipe.threads
        languages = None if cell.spec["languages"] is None else len(cell.spec["languages"])
        return str(self._start(cell)), data, languages, chosen, trains, refits, teaches, *shape

    def _start(self, cell: Cell) -> dict[str, Any]:
        """What a cell starts from: the model of its parent if that is at hand, else what that starts from."""
        model = cell.spec["model"]
        if model is None or "cell" not in model:
            return root_of(self._plan, cell)
        folder = cell_folder(self._root, model["cell"])
        return {"path": folder} if (folder / "config.json").exists() else self._start(self._plan.cells[model["cell"]])

    def _measured(self, cell: Cell) -> Pace | None:
        start, recipe = self._start(cell), cell.recipe
        if "path" in start and not Path(start["path"]).exists():
            return None
        data = folder_at_hand(self._root, self._plan.recipe, cell.spec["data"])
        fabric = launch(recipe)
        if "path" not in start or data is None:
            model, language = _model(start)
            batch = noise_batch(model, language, recipe.data.max_seconds)
            return measure(model, batch, recipe, batch, fabric.autocast, masks_of(cell, model))
        asr = load_model(start["path"])
        inputs = Inputs(Run(self._root, recipe, fabric), data)
        languages = cell.spec["languages"] or inputs.languages
        asr.model.load_languages(languages)
        inputs.select(languages)
        card = asr.card.model_copy(update={"languages": tuple(languages)})
        sample = inputs.sample(asr)
        dev = middle(inputs.dev(AsrModel(asr.model, asr.tokenizer, card))) or sample  # tests decode, too
        return measure(asr.model, sample, recipe, dev, fabric.autocast, masks_of(cell, asr.model))


def masks_of(cell: Cell, model: SpeechModel | None = None) -> PathwayConfig | None:
    """How the pathways of a cell are configured, of ``model`` if given; None if it has none, or cannot run any more."""
    if "pathways" not in cell.spec or cell.retired:
        return None
    options = cell.spec["pathways"]
    return PathwayConfig.model_validate(options if model is None else options_for(model, options))


def root_of(plan: Plan, cell: Cell) -> dict[str, Any]:
    """What the first of a cell's ancestors starts from: ``path`` of a MODEL, or ``preset`` and ``vocab_size``."""
    model = cell.spec["model"]
    if model is None:
        recipe: dict[str, Any] = cell.spec["recipe"]["model"]
        return {"preset": recipe["preset"], "vocab_size": recipe["vocab_size"]}
    return root_of(plan, plan.cells[model["cell"]]) if "cell" in model else {"path": model["path"]}


def noise_batch(model: SpeechModel, language: str, seconds: float) -> Batch:
    """A batch as in training, of noise and of random tokens."""
    count, generator = max(1, int(seconds / UTTERANCE)), np.random.default_rng(0)
    samples = generator.normal(0, 0.1, round(UTTERANCE * SAMPLE_RATE)).astype(np.float32)
    features = model.frontend(samples)
    symbols = [token for token in range(model.symbols(language)) if token != model.blank]
    targets = [torch.tensor(generator.choice(symbols, round(UTTERANCE * TOKENS))) for _ in range(count)]
    return Batch(
        language=language,
        ids=[str(index) for index in range(count)],
        texts=[""] * count,
        features=features.expand(count, *features.shape).contiguous(),
        feature_lengths=torch.full((count,), len(features)),
        targets=pad_sequence(targets, batch_first=True),
        target_lengths=torch.tensor([len(one) for one in targets]),
        frame_rate=model.frontend.frame_rate,
    )


def _model(start: dict[str, Any]) -> tuple[SpeechModel, str]:
    """The model that cells start from, or one of its size with random weights, and a language of it."""
    if "path" not in start:
        return Transducer(preset(start["preset"], start["vocab_size"])), "en"
    asr = load_model(start["path"])
    language = (asr.languages or ("en",))[0]
    asr.model.load_languages([language])
    return asr.model, language
