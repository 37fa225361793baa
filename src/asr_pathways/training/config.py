"""Recipes: everything that decides a training run, as typed data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from asr_pathways.config import Config
from asr_pathways.data.batches import DataConfig
from asr_pathways.models.presets import Preset

Share = Annotated[float, Field(ge=0, lt=1)]


class ModelRecipe(Config):
    """A dense model made from scratch."""

    preset: Preset = "tiny"
    vocab_size: int = Field(default=320, gt=1, description="word pieces, shared by all languages")


class OptimizerConfig(Config):
    """AdamW; the learning rate rises linearly, stays at its peak, and falls along a cosine to its end."""

    steps: int = Field(ge=0)
    peak_lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    final_lr: float = Field(default=1e-5, ge=0, allow_inf_nan=False)
    warmup_steps: int = Field(default=0, ge=0)
    hold_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)
    betas: tuple[Share, Share] = (0.9, 0.98)
    clip_norm: float = Field(default=5.0, gt=0)


class EvaluationConfig(Config):
    """How often dev is scored, and how the result is used."""

    every: int = Field(default=500, gt=0, description="steps")
    utterances: int = Field(default=0, ge=0, description="dev utterances a language; 0: all")
    keep_best: int = Field(default=3, gt=0, description="models kept, by mean dev WER")
    choose: Literal["best", "last"] = Field(
        default="best", description="which model becomes the result: the best on dev, or that of the last step"
    )
    average: bool = Field(default=True, description="also try the mean of the kept models' weights (dense only)")
    patience: int = Field(default=0, ge=0, description="stop after so many evaluations without a better one; 0: never")

    @model_validator(mode="after")
    def _patience_needs_best(self) -> EvaluationConfig:
        if self.patience and self.choose == "last":
            raise ValueError("patience needs choose: best")
        return self


class LoopConfig(Config):
    """Options of the training loop, for dense training and for pruning alike."""

    optimizer: OptimizerConfig
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint_every: int = Field(default=200, gt=0, description="steps")
    keep_last: int = Field(default=2, gt=0, description="checkpoints kept: the last, and those before it")
    max_bad_losses: int = Field(default=5, ge=0, description="batches with a NaN or infinite loss that are skipped")
    accumulate: int = Field(default=1, gt=0, description="batches of a step on each rank; their gradients' mean counts")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads; 0: torch's choice")
    seed: int = Field(default=0, ge=0, lt=1 << 63)


class TrainRecipe(LoopConfig):
    """``train --config``: a dense multilingual model."""

    model: ModelRecipe = ModelRecipe()


class PruneRecipe(LoopConfig):
    """Everything that decides a pruning run beside the method, the sparsity and the languages.

    ``pathways`` has fields of :class:`asr_pathways.pruning.PathwayConfig` that replace the method's.
    """

    optimizer: OptimizerConfig = OptimizerConfig(steps=2000, peak_lr=5e-4, warmup_steps=50)
    pathways: dict[str, Any] = Field(default_factory=dict)
    calibration_batches: int = Field(
        default=4, gt=0, description="batches a language for the first masks of scores activation and fisher"
    )
    refit_batches: int = Field(
        default=0,
        ge=0,
        description="batches a language to solve for the kept weights by, before training; 0: as pruned",
    )
    refit_steps: int = Field(
        default=0,
        ge=0,
        description="steps of Adam a language that bring a block's output near the dense one's after that; 0: none",
    )
    distillation: float = Field(
        default=0.0, ge=0, description="weight in the loss of the distance from the dense model's inner outputs"
    )
    soft_targets: float = Field(
        default=0.0, ge=0, le=1, description="share of the loss on the dense model's posteriors, in place of the text"
    )
    drop_layers: dict[str, Annotated[int, Field(gt=0)]] = Field(
        default_factory=dict,
        description="{encoder: 2, decoder: 1}: so many layers are left out first, by the loss without them",
    )
    init_steps: int = Field(default=1000, ge=0, description="steps of each pruning run that --init lsp or lap needs")

    @model_validator(mode="after")
    def _steps_need_batches(self) -> PruneRecipe:
        if self.refit_steps and not self.refit_batches:
            raise ValueError("refit_steps needs refit_batches, the data that they are on")
        return self

    def with_steps(self, steps: int | None) -> PruneRecipe:
        """The same recipe for another number of training steps; None: the same."""
        if steps is None:
            return self
        return self.model_copy(update={"optimizer": self.optimizer.model_copy(update={"steps": steps})})
