"""What tests of recognition share: noise to recognise, the training side's tokens, no guard against noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_pathways.data.audio import Samples
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime import recognizer


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Timings of layers are kept there, for all tests of a process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "timings"))


@pytest.fixture(autouse=True)
def all_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise has no voice, and a random model writes what it likes."""
    monkeypatch.setattr(recognizer, "is_silent", lambda _: False)


def sound(seconds: float, seed: int = 0) -> Samples:
    """Noise (N,)."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype(np.float32)


def decoded(asr: AsrModel, samples: Samples, language: str) -> list[int]:
    """The tokens that the training side finds in samples (N,) at 16 kHz."""
    with asr.inference(language):
        features = asr.model.frontend(samples)[None]
        return asr.model.decode(features, torch.tensor([features.shape[1]]), language)[0]


def text_of(asr: AsrModel, samples: Samples, language: str) -> str:
    """The text of these tokens."""
    return asr.tokenizer.decode(decoded(asr, samples, language), language)
