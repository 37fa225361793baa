"""Log-mel features against transformers' extractor, as training uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from asr_pathways.data.audio import Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import ExtractorFrontend
from asr_pathways.models.hub.load import load_hub_model
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.runtime.whisper.features import LogMel, pad
from tests.conftest import spoken
from tests.models.hub.tiny import whisper

RANDOM = np.random.default_rng(3)


def extracted(samples: Samples, **options: Any) -> np.ndarray:
    extractor = WhisperFeatureExtractor(**options)
    return ExtractorFrontend(extractor, "input_features", 100.0, transposed=True)(samples).numpy()


def noise(count: int, level: float = 0.1) -> Samples:
    return (RANDOM.standard_normal(count) * level).astype(np.float32)


def click(count: int) -> Samples:
    samples = np.zeros(count, np.float32)
    samples[count // 3] = 1.0
    return samples


SOUNDS = {
    "speech": np.asarray(spoken(["one", "two", "three"], "en", 1), np.float32),
    "noise": noise(16_001),
    "faint": noise(4_000, 1e-5),
    "fading": noise(8_000) * np.logspace(0, -6, 8_000, dtype=np.float32),
    "loud": noise(8_159, 10.0),
    "tone": np.sin(np.arange(5_000) * 0.3).astype(np.float32),
    "click": click(3_200),
    "silence": np.zeros(1_600, np.float32),
    "shortest": noise(201),
    "one frame": noise(319),
    "two frames": noise(320),
}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("bins", [80, 128])
def test_features_are_the_extractors(sound: str, bins: int) -> None:
    found = LogMel(bins)(SOUNDS[sound])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, extracted(SOUNDS[sound], feature_size=bins), rtol=0, atol=1e-4)


def test_other_sizes_are_read_from_the_extractors_file() -> None:
    sizes = {"feature_size": 40, "n_fft": 512, "hop_length": 200}
    found = LogMel.of(WhisperFeatureExtractor(**sizes).to_dict())(SOUNDS["noise"])
    np.testing.assert_allclose(found, extracted(SOUNDS["noise"], **sizes), rtol=0, atol=1e-4)
    assert LogMel.of({})(SOUNDS["noise"]).shape == (100, 80)


@pytest.mark.parametrize("count", [0, 1, 159, 160, 200])
def test_too_little_audio_is_refused_as_in_training(count: int) -> None:
    with pytest.raises(PathwaysError, match="ms of audio"):
        extracted(noise(count))
    with pytest.raises(PathwaysError, match=f"only {count / 16:.0f} ms of audio: too short for one frame"):
        LogMel()(noise(count))


def test_what_is_no_audio_is_refused() -> None:
    with pytest.raises(PathwaysError, match="float32 vector"):
        LogMel()(np.zeros(1_600))  # type: ignore[arg-type]
    with pytest.raises(PathwaysError, match=r"of shape \(1600, 2\)"):
        LogMel()(np.zeros((1_600, 2), np.float32))
    with pytest.raises(PathwaysError, match="not finite"):
        LogMel()(np.full(1_600, np.nan, np.float32))


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ({"sampling_rate": 8000}, "input is at 8000 Hz: only 16000 Hz"),
        ({"hop_length": 0}, "are no such sizes"),
        ({"n_fft": 1}, "are no such sizes"),
        ({"feature_size": 10**9}, "are no such sizes"),
        ({"n_fft": "400"}, "n_fft: '400' is no whole number"),
        ({"hop_length": True}, "hop_length: True is no whole number"),
        ({"dither": 0.1}, "dither: only 0 is supported"),
    ],
)
def test_what_an_extractors_file_cannot_mean_is_refused(file: dict[str, Any], problem: str) -> None:
    with pytest.raises(PathwaysError, match=problem):
        LogMel.of(file)


def test_padding_is_what_the_encoder_fills_in(tmp_path: Path) -> None:
    model, _ = load_hub_model(str(whisper(tmp_path)))
    assert isinstance(model, Whisper)
    features = LogMel()(SOUNDS["speech"])
    seen: list[torch.Tensor] = []
    model.hub.model.encoder.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for padding, size in {"window": model.frames, "longest": len(features) + len(features) % 2}.items():
        model.hub.config.padding = padding
        with torch.no_grad():
            model.encode(torch.from_numpy(features)[None], torch.tensor([len(features)]))
        assert np.array_equal(pad(features, size), seen[-1][0].T.numpy())
    with pytest.raises(PathwaysError, match="45 frames of features do not fit a window of 44"):
        pad(features, 44)


@pytest.mark.parametrize("level", [1.0, 1e-2, 1e-3, 1e-5])
def test_padding_is_the_extractors_however_faint_the_recording(level: float) -> None:
    samples = np.asarray(level * SOUNDS["speech"], np.float32)
    features, expected = LogMel()(samples), WhisperFeatureExtractor()(samples, sampling_rate=16_000)["input_features"]
    edge = len(features) + 3  # frames that have samples and silence
    np.testing.assert_allclose(pad(features, 3_000)[edge:], expected[0].T[edge:], rtol=0, atol=1e-4)
