"""Whisper's log-mel features in NumPy: what its feature extractor computes, without transformers and torch.

The settings are Whisper's (arXiv 2212.04356, section 2.2): Hann windows of 25 ms every 10 ms, centred and reflected at
the edges, mel bins from 0 to 8 kHz on Slaney's scale (Auditory Toolbox, 1998) with triangles of equal area.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.data.audio import SAMPLE_RATE, Samples, require_samples
from asr_pathways.errors import PathwaysError

Floats = NDArray[np.float32]

LARGEST = 4096
HIGHEST = 8000.0  # Hz: the upper edge of the last mel bin
FLOOR = 1e-10
RANGE = 2.0
"""From the largest to the smallest value: what is fainter by 10^8 is cut off."""

LEAST = -1.5
"""The smallest value of all, that of `FLOOR`: of faint recordings less than `RANGE` below their largest."""

_BREAK = 1000.0  # Hz: Slaney's scale is linear below and logarithmic above
_LINEAR = 3 / 200  # mels a Hz below
_LOGARITHMIC = 27 / np.log(6.4)  # mels that the frequency rises e-fold in, above


class LogMel:
    """Log-mel features of one utterance, without padding.

    Args:
        bins: F, of the mel scale.
        n_fft: samples of a window.
        hop: samples from one frame to the next.
        rate: of the samples, in Hz.

    Raises:
        PathwaysError: if a size is not from 1 to 4096 (of a window: 2), or the rate is not 16 kHz.
    """

    def __init__(self, bins: int = 80, n_fft: int = 400, hop: int = 160, rate: int = SAMPLE_RATE) -> None:
        if rate != SAMPLE_RATE:
            raise PathwaysError(f"the model's input is at {rate} Hz: only {SAMPLE_RATE} Hz is supported")
        if min(bins, n_fft // 2, hop) < 1 or max(bins, n_fft, hop) > LARGEST:
            raise PathwaysError(
                f"features: {bins} bins, windows of {n_fft} and steps of {hop} samples are no such sizes"
            )
        self.bins, self.n_fft, self.hop, self.rate = bins, n_fft, hop, rate

    @classmethod
    def of(cls, preprocessor: Mapping[str, Any]) -> LogMel:
        """From the content of ``preprocessor_config.json``; what that does not state is as in most Whisper models.

        Raises:
            PathwaysError: if a value is no size, or asks for noise (``dither``), with which no two runs are the same.
        """
        usual = {"feature_size": 80, "n_fft": 400, "hop_length": 160, "sampling_rate": SAMPLE_RATE}
        sizes = {key: preprocessor.get(key, value) for key, value in usual.items()}
        for key, value in sizes.items():
            if type(value) is not int:
                raise PathwaysError(f"preprocessor_config.json: {key}: {value!r:.50} is no whole number")
        if preprocessor.get("dither"):
            raise PathwaysError("preprocessor_config.json: dither: only 0 is supported")
        return cls(*sizes.values())

    def __call__(self, samples: Samples) -> Floats:
        """Features (T, F) of samples (N,), float32 in [-1, 1]; T = N // hop.

        Raises:
            PathwaysError: if the samples are no float32 vector of finite values, or too few for one frame.
        """
        require_samples(samples)
        frames, half = len(samples) // self.hop, self.n_fft // 2
        if not frames or len(samples) <= half:  # a reflection takes half a window beside the edge
            raise PathwaysError(f"only {1000 * len(samples) / self.rate:.0f} ms of audio: too short for one frame")
        padded = np.concatenate((samples[half:0:-1], samples, samples[-2 : -half - 2 : -1]))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop][:frames]
        spectrum = np.fft.rfft(windows * self._window)
        power = np.square(spectrum.real, dtype=np.float32) + np.square(spectrum.imag, dtype=np.float32)
        mels: Floats = np.log10(np.maximum(power @ self._filters, np.float32(FLOOR)))
        np.maximum(mels, mels.max() - np.float32(4 * RANGE), out=mels)
        mels += np.float32(4)
        mels /= np.float32(4)
        return mels

    @cached_property
    def _window(self) -> Floats:
        """(n_fft,): the periodic Hann window."""
        return np.hanning(self.n_fft + 1)[:-1].astype(np.float32)

    @cached_property
    def _filters(self) -> Floats:
        """(n_fft // 2 + 1, F): the weight of each frequency in each mel bin."""
        edges = _hertz(np.linspace(0.0, _mels(HIGHEST), self.bins + 2))
        frequencies = np.linspace(0.0, self.rate / 2, self.n_fft // 2 + 1)[:, None]
        lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
        rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
        triangles = np.maximum(0.0, np.minimum(rising, falling))
        return (triangles * 2 / (upper - lower)).astype(np.float32)


def pad(features: Floats, size: int) -> Floats:
    """Features (T, F) -> (size, F), filled with silence: 2 (eight powers of ten) below their largest, or `LEAST`.

    Raises:
        PathwaysError: if there are more than ``size`` frames.
    """
    if len(features) > size:
        raise PathwaysError(f"{len(features)} frames of features do not fit a window of {size}")
    silence = max(features.max() - np.float32(RANGE), np.float32(LEAST))
    padded = np.full((size, features.shape[1]), silence, dtype=np.float32)
    padded[: len(features)] = features
    return padded


def _mels(hertz: float) -> float:
    """Slaney's scale, for frequencies of 1 kHz and above."""
    return float(_BREAK * _LINEAR + _LOGARITHMIC * np.log(hertz / _BREAK))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK * np.exp((mels - _BREAK * _LINEAR) / _LOGARITHMIC)
    return np.where(mels < _BREAK * _LINEAR, mels / _LINEAR, above)
