from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.data.features import Fbank, FbankStream
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6000), st.lists(st.integers(0, 900), min_size=1, max_size=12), st.integers(0, 99))
def test_stream_equals_whole_bit_for_bit(length: int, pieces: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    stream = FbankStream()
    parts, place, turn = [], 0, 0
    while place < length:
        size = pieces[turn % len(pieces)] + (turn >= len(pieces))
        parts.append(stream.accept(samples[place : place + size]))
        place, turn = place + size, turn + 1
    parts.append(stream.flush())
    whole = Fbank()(samples)
    assert torch.equal(torch.cat(parts), whole)
    assert whole.shape == ((length + 80) // 160, 80)


def _mel(frequency: float) -> float:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    return frequency * 3 / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def test_against_a_plain_numpy_implementation() -> None:
    samples = tone(0.5, 700)
    # The definition once more: centred windows over reflected edges, pre-emphasis, Hann, power, Slaney mel, log.
    padded = np.pad(samples, 400, mode="symmetric").astype(np.float64)
    frames = np.stack([padded[280 + 160 * index :][:400] for index in range(50)])
    emphasised = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(emphasised * window, 512)) ** 2
    bins = np.arange(257)[:, None] * 16_000 / 512
    edges = np.array([_hertz(mel) for mel in np.linspace(0, _mel(8000), 82)])
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    expected = np.log(np.maximum(power @ (triangles * 2 / (high - low)), np.finfo(np.float32).eps))
    assert np.abs(Fbank()(samples).numpy() - expected).max() < 1e-3


def test_bad_samples_are_refused() -> None:
    with pytest.raises(PathwaysError, match="float32 vector"):
        Fbank()(np.zeros((2, 100), np.float32))
    with pytest.raises(PathwaysError, match="float32 vector"):
        Fbank()(np.zeros(100, np.int16))  # type: ignore[arg-type]
    with pytest.raises(PathwaysError, match="not finite"):
        Fbank()(np.array([np.inf], np.float32))
    stream = FbankStream()
    stream.flush()
    with pytest.raises(PathwaysError, match="after the end"):
        stream.accept(np.zeros(10, np.float32))
