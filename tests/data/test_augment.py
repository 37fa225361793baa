from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.data.augment import SpecAugment, SpecAugmentConfig


@given(st.integers(0, 400), st.integers(0, 1000))
def test_masks_are_seeded_and_bounded(frames: int, seed: int) -> None:
    features = torch.randn(frames, 80, generator=torch.Generator().manual_seed(1))
    before = features.clone()
    config = SpecAugmentConfig()
    augment = SpecAugment(config)
    first = augment(features, torch.Generator().manual_seed(seed))
    second = augment(features, torch.Generator().manual_seed(seed))
    assert torch.equal(first, second) and torch.equal(features, before)
    if frames == 0:
        return
    changed = first != features
    masked_bins = changed.all(dim=0).sum() if frames > 1 else 0
    assert masked_bins <= config.frequency_masks * config.frequency_width or changed.all()
    masked_frames = int(changed.all(dim=1).sum())
    count = min(config.max_time_masks, round(config.time_masks_per_second * frames / 100 + 1e-9))
    assert masked_frames <= count * min(config.time_width, int(config.time_share * frames))
    assert torch.all(first[changed] == features.mean())


def test_masks_differ_between_seeds_and_can_be_off() -> None:
    features = torch.randn(300, 80, generator=torch.Generator().manual_seed(1))
    augment = SpecAugment()
    outcomes = [augment(features, torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert any(not torch.equal(outcomes[0], other) for other in outcomes[1:])
    off = SpecAugment(SpecAugmentConfig(frequency_masks=0, max_time_masks=0))
    assert torch.equal(off(features, torch.Generator().manual_seed(0)), features)
