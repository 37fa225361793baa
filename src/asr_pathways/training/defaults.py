"""The recipes of `prune` and of finetuning where a user names none: by the kind of model, tried on one of that kind."""

from __future__ import annotations

from typing import Any

from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import matching
from asr_pathways.training.config import PruneRecipe, TrainRecipe

# As recipes/prune_whisper.yaml, oneshot.yaml and finetune_whisper.yaml, which a test compares.
_PRUNE_HUB: dict[str, Any] = {
    "optimizer": {"steps": 2000, "peak_lr": 1e-4, "final_lr": 1e-6, "warmup_steps": 50, "clip_norm": 20.0},
    "data": {"max_seconds": 24},
    "refit_batches": 12,
    "soft_targets": 1.0,
    "distillation": 30.0,
    "pathways": {"hysteresis": 0.3},
    "evaluation": {"every": 250, "utterances": 20, "keep_best": 1},
    "checkpoint_every": 250,
}
_ONESHOT_HUB: dict[str, Any] = {
    "optimizer": {"steps": 0},
    "data": {"max_seconds": 28, "speed_factors": [1.0]},
    "pathways": {"score": "fisher", "allocation": "blended", "exclude": ["proj_out", "model.encoder.conv*"]},
    "calibration_batches": 6,
    "refit_batches": 8,
    "refit_steps": 12,
    "evaluation": {"utterances": 5, "keep_best": 1},
}
_FINETUNE_HUB: dict[str, Any] = {
    "optimizer": {"steps": 500, "peak_lr": 2e-5, "final_lr": 1e-6, "warmup_steps": 50, "clip_norm": 1.0},
    "data": {"max_seconds": 24},
    "evaluation": {"every": 250, "utterances": 20, "keep_best": 1, "average": False},
    "checkpoint_every": 250,
}


def prune_recipe(model: SpeechModel) -> PruneRecipe:
    """For a transducer of this package the defaults of `PruneRecipe`; for a model of the hub what did best for Whisper.

    Of that, what only Whisper has is left out for other kinds.
    """
    if isinstance(model, Transducer):
        return PruneRecipe()
    left_out = {"distillation": bool(model.matched), "soft_targets": bool(model.classifier)}
    return PruneRecipe.model_validate({key: value for key, value in _PRUNE_HUB.items() if left_out.get(key, True)})


def oneshot_recipe(model: SpeechModel) -> PruneRecipe:
    """Without training: masks, and for a model of the hub refitting; Whisper's few convolutions stay dense."""
    if isinstance(model, Transducer):
        return PruneRecipe().with_steps(0)
    recipe = PruneRecipe.model_validate(_ONESHOT_HUB)
    excluded = recipe.pathways["exclude"]
    of_whisper = len(matching(model.network, excluded)) == len(excluded)
    return recipe if of_whisper else recipe.model_copy(update={"pathways": {}})


def finetune_recipe() -> TrainRecipe:
    """For a model of the hub."""
    return TrainRecipe.model_validate(_FINETUNE_HUB)
