from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME, VoiceActivity
from asr_pathways.runtime.speech_parts import LEAST, PADDING, Part, SpeechParts


class Loudness(VoiceActivity):
    """Loud frames are speech."""

    def __init__(self) -> None:
        self._samples = np.zeros(0, np.float32)

    def accept(self, samples: Samples) -> np.ndarray:
        self._samples = np.concatenate([self._samples, samples])
        whole = len(self._samples) // FRAME * FRAME
        frames, self._samples = self._samples[:whole].reshape(-1, FRAME), self._samples[whole:]
        return np.abs(frames).max(axis=1, initial=0.0).astype(np.float32)


def frames(*counts: int) -> Samples:
    """Silence and speech in turn, each of so many frames, counted on so that every sample differs."""
    speech = np.arange(sum(counts) * FRAME, dtype=np.float32) / 1e9 + 0.9
    return speech * np.repeat(np.arange(len(counts)) % 2, np.array(counts) * FRAME).astype(np.float32)


def found(samples: Samples, step: int, longest: float = 20.0) -> list[Part]:
    listener = SpeechParts(Loudness(), 0, pause=0.8, longest=longest)
    for start in range(0, len(samples), step):
        listener.accept(samples[start : start + step])
    listener.end()
    return listener.parts


PAUSE = 25  # frames: 0.8 s


@pytest.mark.parametrize("step", [100, FRAME, 5_000, 1 << 20])
def test_a_long_pause_ends_a_part_however_it_comes(step: int) -> None:
    recording = frames(50, 20, PAUSE - 1, 30, PAUSE, 40, 60)
    first, second = found(recording, step)
    assert first.start == (50 - PADDING) * FRAME and first.over and not first.cut
    assert first.speech_end == (50 + 20 + PAUSE - 1 + 30) * FRAME and first.until == first.speech_end + PADDING * FRAME
    assert second.start == first.speech_end + (PAUSE - PADDING) * FRAME
    assert second.speech_end == (len(recording) // FRAME - 60) * FRAME
    for part in (first, second):
        np.testing.assert_array_equal(part.samples, recording[part.start : part.until])


def test_what_is_said_now_grows_and_rests_in_a_pause() -> None:
    listener = SpeechParts(Loudness(), 0, pause=0.8, longest=20)
    listener.accept(frames(20, 10))
    (part,) = listener.parts
    assert (part.until, part.paused, part.over) == (30 * FRAME, False, False)
    listener.accept(frames(PADDING + 5))
    assert part.paused and part.until == (30 + PADDING) * FRAME
    listener.accept(frames(0, 3))
    assert not part.paused and part.until == listener.position == (30 + PADDING + 5 + 3) * FRAME
    listener.accept(frames(PAUSE))
    assert part.over and listener.parts == [part]


def test_a_click_is_no_part_and_a_segment_may_begin_within_a_frame() -> None:
    assert found(frames(20, LEAST - 1, 100), 700) == []
    activity = Loudness()
    activity.accept(np.zeros(100, np.float32))
    listener = SpeechParts(activity, 100, pause=0.8, longest=20)
    speech = frames(0, 30)
    listener.accept(speech)
    (part,) = listener.parts
    assert part.start == 100
    np.testing.assert_array_equal(part.samples, speech)


def test_long_speech_is_cut_in_its_longest_pause_and_nothing_is_lost() -> None:
    recording = frames(PADDING, 40, 3, 30, 8, 30, 2, 100, PAUSE)
    longest = 130 * FRAME / SAMPLE_RATE
    parts = found(recording, 1_000, longest)
    assert all(part.cut for part in parts[:-1]) and len(parts) > 2
    assert parts[0].start == 0 and parts[0].until == (PADDING + 40 + 3 + 30 + 4) * FRAME
    assert all(before.until == after.start for before, after in pairwise(parts))
    assert all(len(part.samples) <= 130 * FRAME for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.samples for part in parts]), recording[: parts[-1].until])
