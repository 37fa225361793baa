"""What all systems that recognise whole recordings share, so that they do the same work."""

from __future__ import annotations

from asr_pathways.data.audio import Samples
from asr_pathways.data.voice_activity import parts_within

TOKENS_AT_LEAST, TOKENS_PER_SECOND = 20, 20
"""Of a transcript at most: a rival that repeats itself is stopped here, and its figure is not one of nonsense."""


def windows(samples: Samples, seconds: float) -> list[Samples]:
    """The parts of a recording (N,) at 16 kHz of at most so many seconds, as `Recognizer` cuts it."""
    return [samples[start:end] for start, end in parts_within(samples, seconds)]
