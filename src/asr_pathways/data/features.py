"""Log-mel filter banks: one implementation for training, evaluation and streaming.

The settings are those that sherpa-onnx forces for NeMo-type streaming transducers, so that an exported model
gets the input that it was trained on: 25 ms Hann windows every 10 ms, pre-emphasis 0.97 within the window, librosa
(Slaney) mel bins from 0 to 8000 Hz, natural logarithm of the power, no DC removal, no dither. Frames are
centred (no ``snip_edges``): N samples give round(N / 160) frames, and the edges are reflected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr_pathways.config import Config
from asr_pathways.data.audio import SAMPLE_RATE, Samples, require_samples
from asr_pathways.errors import PathwaysError

if TYPE_CHECKING:
    from torch import Tensor

FRAME_SHIFT = 0.01  # seconds


class FeatureConfig(Config):
    """Features are fixed but for the number of mel bins."""

    bins: int = 80


class Frontend(Protocol):
    """Turns samples into the input of a model."""

    frame_rate: float  # frames a second of its output

    def __call__(self, samples: Samples, /) -> Tensor:
        """Features (T, F), or a waveform (T,), float32, of samples (N,), float32 in [-1, 1] at 16 kHz."""


class Fbank:
    """Log-mel filter banks of whole utterances."""

    frame_rate = 1 / FRAME_SHIFT

    def __init__(self, config: FeatureConfig | None = None) -> None:
        self.config = config or FeatureConfig()

    def __call__(self, samples: Samples) -> Tensor:
        """Features (T, 80), float32, of samples (N,), float32 in [-1, 1] at 16 kHz; T = round(N / 160).

        Raises:
            PathwaysError: if ``samples`` is not a float vector of finite values.
        """
        import torch

        stream = FbankStream(self.config)
        return torch.cat([stream.accept(samples), stream.flush()])


class FbankStream:
    """The same features, frame for frame and bit for bit, of audio that arrives in pieces of any size."""

    def __init__(self, config: FeatureConfig | None = None) -> None:
        import kaldi_native_fbank

        self.config = config or FeatureConfig()
        self._fbank: Any = kaldi_native_fbank.OnlineFbank(_options(self.config))
        self._frames = 0
        self._finished = False

    def accept(self, samples: Samples) -> Tensor:
        """Processes samples (n,), n >= 0; returns the features (t, 80) of the frames that they complete.

        Raises:
            PathwaysError: after :meth:`flush`, or if ``samples`` is not a float vector of finite values.
        """
        if self._finished:
            raise PathwaysError("features: audio after the end of the stream")
        samples = np.ascontiguousarray(samples)
        require_samples(samples, "features: ")
        if len(samples):
            self._fbank.accept_waveform(SAMPLE_RATE, samples)
        return self._ready()

    def flush(self) -> Tensor:
        """Ends the stream; returns the features (t, 80) of the last frames, whose windows reach past the end."""
        if not self._finished:
            self._fbank.input_finished()
            self._finished = True
        return self._ready()

    def _ready(self) -> Tensor:
        import torch

        count = self._fbank.num_frames_ready
        frames: NDArray[np.float32] = np.empty((count - self._frames, self.config.bins), dtype=np.float32)
        for index in range(self._frames, count):
            frames[index - self._frames] = self._fbank.get_frame(index)
        if count > self._frames:
            self._fbank.pop(count - self._frames)
        self._frames = count
        return torch.from_numpy(frames)


def _options(config: FeatureConfig) -> Any:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    frame = options.frame_opts
    frame.samp_freq = SAMPLE_RATE
    frame.frame_length_ms = 25
    frame.frame_shift_ms = 1000 * FRAME_SHIFT
    frame.window_type = "hann"
    frame.preemph_coeff = 0.97
    frame.remove_dc_offset = False
    frame.dither = 0
    frame.snip_edges = False
    options.mel_opts.num_bins = config.bins
    options.mel_opts.low_freq = 0
    options.mel_opts.high_freq = SAMPLE_RATE / 2
    options.mel_opts.is_librosa = True
    options.use_energy = False
    return options
