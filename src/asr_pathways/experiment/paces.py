"""How fast cells run on this machine: a training step, a forward pass and decoding of their models, on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.batches import Batch
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.models.presets import preset
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe
from asr_pathways.training.estimate import Pace, measure
from asr_pathways.training.run import launch

UTTERANCE, TOKENS = 2.5, 3.0
"""Seconds of an utterance, and tokens a second, where no corpus is at hand."""


class MeasuredPaces:
    """Measures each kind of cell of a plan once: those of one model in one kind of training."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[tuple[object, ...], Pace] = {}

    def __call__(self, cell: Cell) -> Pace | None:
        """The pace of ``cell``; None if its model is not at hand."""
        start = root_of(self._plan, cell)
        if "path" in start and not Path(start["path"]).exists():
            return None
        kind = PruneRecipe if cell.spec["kind"] == "prune" else TrainRecipe
        recipe: LoopConfig = kind.model_validate(cell.spec["recipe"])
        distils = isinstance(recipe, PruneRecipe) and bool(recipe.distillation or recipe.soft_targets)
        refits = isinstance(recipe, PruneRecipe) and recipe.refit_batches > 0
        trains = recipe.optimizer.steps > 0
        threads = torch.get_num_threads()
        shape = recipe.data.max_seconds, recipe.accumulate, recipe.precision, recipe.threads
        key = str(start), distils, refits, trains, *shape
        if key not in self._known:
            try:
                fabric = launch(recipe)
                model, language = _model(start)
                batch = noise_batch(model, language, recipe.data.max_seconds)
                self._known[key] = measure(model, batch, recipe, batch, fabric.autocast)
            finally:
                torch.set_num_threads(threads)
        return self._known[key]


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
