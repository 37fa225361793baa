"""The recipes of `prune` and of finetuning where a user names none: by the kind of model, tried on one of that kind."""

from __future__ import annotations

from typing import Any

from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import matching
from asr_pathways.training.config import PruneRecipe, TrainRecipe

# As recipes/prune_whisper.yaml, oneshot.yaml and finetune_whisper.yaml, which a test compares.
_FISHER: dict[str, Any] = {"score": "fisher", "allocation": "blended", "exclude": ["proj_out", "model.encoder.conv*"]}
_REFITTED: dict[str, Any] = {"calibration_batches": 6, "refit_batches": 8, "refit_steps": 12}
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
    "evaluation": {"utterances": 5, "keep_best": 1},
    **_REFITTED,
}
_FINETUNE_HUB: dict[str, Any] = {
    "optimizer": {"steps": 500, "peak_lr": 2e-5, "final_lr": 1e-6, "warmup_steps": 50, "clip_norm": 1.0},
    "data": {"max_seconds": 24},
    "evaluation": {"every": 250, "utterances": 20, "keep_best": 1, "average": False},
    "checkpoint_every": 250,
}


def default_method(model: SpeechModel) -> str:
    """A key of `asr_pathways.pruning.METHODS`: masks that adapt, but those of a Whisper stay.

    The kept weights of a Whisper are solved for together, and a mask that adapts undoes some of that: after 1,000 steps
    at 70% training loss is lower for it, and WER higher (docs/discussion.md).
    """
    return "pathways" if _is_whisper(model) else "dynamic"


def prune_recipe(model: SpeechModel) -> PruneRecipe:
    """For a transducer of this package the defaults of `PruneRecipe`; for a model of the hub what did best for Whisper.

    Of that, what only Whisper has is left out for other kinds.
    """
    if isinstance(model, Transducer):
        return PruneRecipe()
    if _is_whisper(model):
        return PruneRecipe.model_validate({**_PRUNE_HUB, **_REFITTED, "pathways": _FISHER})
    left_out = {"distillation": bool(model.matched), "soft_targets": bool(model.classifier)}
    return PruneRecipe.model_validate({key: value for key, value in _PRUNE_HUB.items() if left_out.get(key, True)})


def oneshot_recipe(model: SpeechModel) -> PruneRecipe:
    """Without training: masks, and for a model of the hub refitting; Whisper's few convolutions stay dense."""
    if isinstance(model, Transducer):
        return PruneRecipe().with_steps(0)
    return PruneRecipe.model_validate({**_ONESHOT_HUB, "pathways": _FISHER if _is_whisper(model) else {}})


def _is_whisper(model: SpeechModel) -> bool:
    """Whether it has the modules that Whisper's recipes leave dense."""
    excluded = _FISHER["exclude"]
    return len(matching(model.network, excluded)) == len(excluded)


def finetune_recipe() -> TrainRecipe:
    """For a model of the hub."""
    return TrainRecipe.model_validate(_FINETUNE_HUB)
