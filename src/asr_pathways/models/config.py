"""Sizes of the recogniser as data, which are read without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from asr_pathways.config import Config


class EmformerConfig(Config):
    """Sizes of the encoder; frames are encoder frames (40 ms)."""

    features: int = Field(default=80, gt=0)
    front_end: Literal["stack", "conv"] = "stack"
    dim: int = Field(default=512, gt=0)
    ffn_dim: int = Field(default=2048, gt=0)
    heads: int = Field(default=8, gt=0)
    layers: int = Field(default=20, gt=0)
    segment: int = Field(default=4, gt=0)
    left_context: int = Field(default=32, ge=0)
    right_context: int = Field(default=1, ge=0)
    conv_kernel: int = Field(default=0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> EmformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class TransducerConfig(Config):
    """Sizes of the recogniser.

    ``ctc_weight`` adds a CTC loss on the encoder to training (its output layer plays no part in decoding).
    """

    vocab_size: int = Field(gt=0, description="word pieces, blank not counted")
    encoder: EmformerConfig = EmformerConfig()
    embedding_dim: int = Field(default=512, gt=0)
    predictor_dim: int = Field(default=512, gt=0)
    predictor_layers: int = Field(default=3, gt=0)
    joiner_dim: int = Field(default=1024, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    ctc_weight: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_language_embedding(cls, values: Any) -> Any:
        """Some config.json have the key ``language_embedding``, always empty, of an option that is gone."""
        if isinstance(values, dict) and values.get("language_embedding") == []:
            return {key: value for key, value in values.items() if key != "language_embedding"}
        return values
