"""Where speech is in a stream, as it comes: parts between pauses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME, VoiceActivity, best_cut, runs_of, speech_frames

PADDING = 10
"""Frames of silence that belong to a part before and after its speech, at most: 0.32 s."""

LEAST = 3
"""Frames of speech that make a part: about 0.1 s."""


@dataclass
class Part:
    """Speech without a long pause.

    Attributes:
        start: of its samples, in samples at 16 kHz from the start of the stream.
        samples: (n,): so far.
        speech_end: where its speech ended last, counted as the start.
        frames: of speech; with fewer than `LEAST` it may be a click, and is no part any more if a pause follows
            (unless it goes on from one that was cut).
        paused: whether silence has followed for `PADDING`; then ``samples`` end there until speech goes on.
        over: whether nothing will follow.
        cut: whether it is over because it was too long: the next one begins where it ends.
    """

    start: int
    samples: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    speech_end: int = 0
    frames: int = 0
    paused: bool = False
    over: bool = False
    cut: bool = False

    @property
    def until(self) -> int:
        """The end of its samples, counted as the start."""
        return self.start + len(self.samples)


class SpeechParts:
    """Finds the parts of a segment.

    Args:
        activity: of the stream.
        position: where the segment begins, in samples at 16 kHz from the start of the stream.
        pause: seconds of silence that end a part.
        longest: seconds of a part; a longer one is cut where it pauses longest.

    Attributes:
        position: the end of what was accepted, counted as at the start.
        parts: in order.
    """

    def __init__(self, activity: VoiceActivity, position: int, pause: float, longest: float) -> None:
        self.position = position
        self.parts: list[Part] = []
        self._activity = activity
        self._pause = max(2.0, pause * SAMPLE_RATE / FRAME)  # frames
        self._longest = max(2, int(longest * SAMPLE_RATE / FRAME) - 2 * PADDING)  # likewise, of speech
        # What is not over: samples, and the probability of speech in each frame; both counted from the stream's start.
        self._samples, self._from = np.zeros(0, np.float32), position
        self._frames, self._first = np.zeros(0, np.float32), -(-position // FRAME)

    def accept(self, samples: Samples) -> None:
        """Appends samples (n,) at 16 kHz.

        Raises:
            PathwaysError: if the voice activity detector is not installed.
        """
        self.position += len(samples)
        found = self._activity.accept(samples)
        before = self.position // FRAME - len(found)  # frames that were known; of another segment, if before the first
        self._samples = np.concatenate([self._samples, samples])
        self._frames = np.concatenate([self._frames, found[max(0, self._first - before) :]])
        while self._advance():
            pass

    def end(self) -> None:
        """No more samples will come."""
        if self.parts:
            self.parts[-1].over = True

    def _advance(self) -> bool:
        """Begins, continues or ends the last part; whether there may be more to do."""
        speech = speech_frames(self._frames)
        runs = runs_of(speech)
        if not self.parts or self.parts[-1].over:
            self._drop((runs[0][0] if runs else len(speech)) - PADDING)
            if runs:
                self.parts.append(Part(self._from, speech_end=self._from))
            return bool(runs)
        part = self.parts[-1]
        end = runs[0][1] if runs else 0
        for start, stop in runs[1:]:
            if start - end >= self._pause:
                break
            end = stop
        part.frames = int(speech[:end].sum())
        if end > self._longest:
            self._end(part, best_cut(self._longest // 2, self._longest, self._frames, speech))
            part.cut = True
            self.parts.append(Part(self._from, speech_end=self._from))
            return True
        part.speech_end = (self._first + end) * FRAME
        if len(speech) - end >= self._pause:
            if part.frames >= LEAST or any(before.cut for before in self.parts[-2:-1]):
                self._end(part, end + min(PADDING, int(self._pause) // 2))
            else:  # a click
                self.parts.pop()
                self._drop(end)
            return True
        part.paused = len(speech) - end >= PADDING
        part.samples = self._samples[: self._count(end + PADDING)] if part.paused else self._samples
        return False

    def _end(self, part: Part, frame: int) -> None:
        part.samples, part.over = self._samples[: self._count(frame)], True
        self._drop(frame)

    def _count(self, frame: int) -> int:
        """How many of the samples are before a frame."""
        return (self._first + frame) * FRAME - self._from

    def _drop(self, frame: int) -> None:
        """Forgets what is before a frame."""
        if frame > 0:
            count = self._count(frame)
            self._samples, self._frames = self._samples[count:], self._frames[frame:]
            self._first, self._from = self._first + frame, self._from + count
