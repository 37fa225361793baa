"""SpecAugment (Park et al. 2019, arXiv 1904.08779) with adaptive time masks (Park et al. 2020, arXiv 1912.05533)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from asr_pathways.config import Config


class SpecAugmentConfig(Config):
    """How much to mask; no time warping, which gains little (Park et al. 2019, section 5)."""

    frequency_masks: int = Field(default=2, ge=0)
    frequency_width: int = Field(default=27, ge=0)  # bins: the widest one mask can be
    time_masks_per_second: float = Field(default=0.7, ge=0)
    max_time_masks: int = Field(default=10, ge=0)
    time_width: int = Field(default=40, ge=0)  # frames: the widest one mask can be
    time_share: float = Field(default=0.05, ge=0, le=1)  # of the utterance: the widest one mask can be, too


class SpecAugment:
    """Masks random bands of frequency and stretches of time with the utterance's mean value."""

    def __init__(self, config: SpecAugmentConfig | None = None) -> None:
        self.config = config or SpecAugmentConfig()

    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """A masked copy of features (T, F); the same generator state gives the same masks."""
        config = self.config
        frames, bins = features.shape
        masked = features.clone()
        if frames == 0:
            return masked
        fill = features.mean()
        for _ in range(config.frequency_masks):
            start, width = _span(bins, min(config.frequency_width, bins), generator)
            masked[:, start : start + width] = fill
        widest = min(config.time_width, int(config.time_share * frames))
        count = min(config.max_time_masks, int(config.time_masks_per_second * frames / 100 + 0.5))
        for _ in range(count):
            start, width = _span(frames, widest, generator)
            masked[start : start + width] = fill
        return masked


def _span(length: int, widest: int, generator: torch.Generator) -> tuple[int, int]:
    """A random width in [0, widest] and a random start so that it fits in ``length``."""
    width = int(torch.randint(0, widest + 1, (1,), generator=generator))
    start = int(torch.randint(0, length - width + 1, (1,), generator=generator))
    return start, width
