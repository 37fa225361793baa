from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from asr_pathways.data import voice_activity
from asr_pathways.data.audio import SAMPLE_RATE, Samples, resample
from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.data.voice_activity import (
    FRAME,
    VoiceActivity,
    is_silent,
    parts_within,
    speech_probabilities,
    speech_segments,
)
from asr_pathways.errors import PathwaysError

SENTENCES = ("good morning to all of you", "the train leaves at nine from the second platform", "thank you very much")


@pytest.fixture(scope="module")
def sentences() -> list[Samples]:
    """Synthetic speech at 16 kHz, with little silence at its ends."""
    espeak = Espeak()
    said = [espeak.say(text, "en-us+f2").astype(np.float32) / 32768 for text in SENTENCES]
    return [resample(one, espeak.rate)[: -SAMPLE_RATE // 10] for one in said]


def seconds(count: float) -> Samples:
    return np.zeros(round(count * SAMPLE_RATE), np.float32)


def test_speech_is_found_between_long_pauses(sentences: list[Samples]) -> None:
    one, two, three = sentences
    recording = np.concatenate([seconds(5), one, seconds(3), two, seconds(0.5), three, seconds(7)])
    first = (5 * SAMPLE_RATE, 5 * SAMPLE_RATE + len(one))
    begin = first[1] + 3 * SAMPLE_RATE
    second = (begin, begin + len(two) + len(three) + SAMPLE_RATE // 2)
    found = speech_segments(recording)
    assert len(found) == 2
    for (start, end), (begin, finish) in zip(found, (first, second), strict=True):
        assert begin - 0.35 * SAMPLE_RATE <= start <= begin + 0.1 * SAMPLE_RATE
        assert finish - 0.2 * SAMPLE_RATE <= end <= finish + 0.4 * SAMPLE_RATE
    assert len(speech_segments(recording, silence=0.3)) == 3
    assert len(speech_segments(recording, silence=4)) == 1


def test_a_quiet_voice_and_one_over_noise_are_found(sentences: list[Samples]) -> None:
    quiet = np.concatenate([seconds(3), 0.0005 * sentences[1], seconds(3)])
    noisy = np.concatenate([seconds(3), sentences[1], seconds(3)])
    noisy += np.random.default_rng(0).normal(0, 0.02, len(noisy)).astype(np.float32)
    clicks = quiet.copy()
    clicks[[20_000, 50_000, 90_000]] = 0.9
    for recording in (quiet, noisy, clicks):
        ((start, end),) = speech_segments(recording)
        assert 2.5 * SAMPLE_RATE < start < 3.3 * SAMPLE_RATE
        assert end - start > 0.8 * len(sentences[1]) and not is_silent(recording)


@pytest.mark.parametrize("longest", [0.5, 1.2, 3.0, 30.0])
def test_no_segment_is_longer_than_allowed_and_nothing_said_is_lost(sentences: list[Samples], longest: float) -> None:
    recording = np.concatenate([seconds(1), *sentences, *sentences, seconds(1)])
    ((begin, finish),) = speech_segments(recording, padding=0)
    found = speech_segments(recording, longest=longest)
    assert all(0 < end - start <= longest * SAMPLE_RATE for start, end in found)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert found[0][0] <= begin and found[-1][1] >= finish
    fits = len(recording) <= longest * SAMPLE_RATE
    assert parts_within(recording, longest) == ([(0, len(recording))] if fits else found)


def test_the_longest_pause_is_where_a_segment_is_cut(sentences: list[Samples]) -> None:
    one, two, three = sentences
    pauses = [0.4, 0.8, 0.3]
    recording = np.concatenate([one, seconds(0.4), two, seconds(0.8), three, seconds(0.3), one, two])
    window = (len(recording) / SAMPLE_RATE) * 0.7
    middle = len(one) + len(two) + (pauses[0] + pauses[1] / 2) * SAMPLE_RATE
    assert speech_segments(recording, longest=window)[0][1] == pytest.approx(middle, abs=0.15 * SAMPLE_RATE)


def _sines(*pitches: float) -> Samples:
    time = np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE
    return sum(0.2 * np.sin(2 * np.pi * pitch * time) for pitch in pitches).astype(np.float32)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "make",
    [
        lambda: seconds(120),
        lambda: np.random.default_rng(1).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32),
        lambda: (np.cumsum(np.random.default_rng(1).normal(size=60 * SAMPLE_RATE)) / 5000).astype(np.float32),
        lambda: _sines(440),
        lambda: _sines(220, 277, 330, 440),
        lambda: np.random.default_rng(1).normal(0, 1e-5, 60 * SAMPLE_RATE).astype(np.float32),
        lambda: np.full(60 * SAMPLE_RATE, 0.3, np.float32),
        lambda: np.tile(np.eye(1, 4000, dtype=np.float32)[0], 240),
    ],
    ids=["silence", "white noise", "brown noise", "a tone", "a chord", "dither", "direct current", "clicks"],
)
def test_what_is_not_speech_gives_no_segment(make: Callable[[], Samples]) -> None:
    assert speech_segments(sound := make()) == [] and is_silent(sound)


@pytest.mark.parametrize("length", [0, 1, FRAME - 1, FRAME, FRAME + 1, 512 * FRAME, 512 * FRAME + 1])
def test_any_length_has_a_probability_for_each_frame(length: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    found = speech_probabilities(noise)
    assert found.shape == (-(-length // FRAME),) and found.dtype == np.float32
    assert np.isfinite(found).all()


def test_what_follows_the_first_speech_is_not_listened_to(
    sentences: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Counting:
        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            calls.append(len(inputs["input"]))
            return detector.run(names, inputs)

    detector = voice_activity._detector()
    monkeypatch.setattr(voice_activity, "_detector", Counting)
    for silence in (0, 1, 3):
        recording = np.concatenate([seconds(silence), *sentences])
        calls.clear()
        assert not is_silent(recording)
        assert sum(calls) < (silence + 1.1) * SAMPLE_RATE / FRAME
    calls.clear()
    assert is_silent(seconds(3)) and sum(calls) == -(-3 * SAMPLE_RATE // FRAME)


def test_blocks_make_no_difference(sentences: list[Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = speech_probabilities(sentences[1])
    monkeypatch.setattr(voice_activity, "_BLOCK", 7)
    np.testing.assert_allclose(speech_probabilities(sentences[1]), whole, atol=1e-5)
    assert whole.max() > 0.9


@pytest.mark.parametrize("sizes", [[200, 10_000] * 5, [FRAME] * 30], ids=["uneven", "frames"])
def test_a_stream_finds_the_speech_of_the_whole(sentences: list[Samples], sizes: list[int]) -> None:
    recording = np.concatenate([seconds(1), *sentences[:2], seconds(1)])
    whole, activity = speech_probabilities(recording), VoiceActivity()
    found = np.concatenate([activity.accept(piece) for piece in np.split(recording, np.cumsum(sizes))])
    assert len(found) == len(recording) // FRAME and whole.max() > 0.9
    assert ((found > 0.5) == (whole[: len(found)] > 0.5)).mean() > 0.95


@pytest.mark.parametrize("level", [0.0005, 0.02, 1.0])
def test_a_stream_finds_quiet_and_loud_voices_and_none_in_noise(sentences: list[Samples], level: float) -> None:
    activity, draw = VoiceActivity(), np.random.default_rng(0)
    voice = np.concatenate([seconds(3), level * sentences[1], seconds(3)])
    voice += draw.normal(0, 1e-2 * level, len(voice)).astype(np.float32)
    found = np.concatenate([activity.accept(piece) for piece in np.split(voice, range(1600, len(voice), 1600))])
    begin, end = 3 * SAMPLE_RATE // FRAME, (3 * SAMPLE_RATE + len(sentences[1])) // FRAME
    assert (found[: begin - 2] < 0.5).all() and (found[end + 6 :] < 0.5).all()
    assert (found[begin:end] > 0.5).mean() > 0.7


def test_nothing_is_imported_before_it_is_needed_nor_torch_at_all() -> None:
    code = (
        "import sys, numpy; from asr_pathways.data import voice_activity as v\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "v.speech_segments(numpy.zeros(16000, numpy.float32))\n"
        "assert not {'torch', 'torchaudio', 'silero_vad'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_detector_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_activity, "find_spec", lambda name: None)
    voice_activity._detector.cache_clear()
    with pytest.raises(PathwaysError, match="needs the package silero-vad: pip install"):
        speech_segments(seconds(1))
    voice_activity._detector.cache_clear()
