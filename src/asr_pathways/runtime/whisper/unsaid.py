"""Where a text ended long before the speech did: what is left is recognised by itself.

A Whisper that trained on short recordings may end its text after the first sentences of a long one, and is sure of it.
openai-whisper goes on from the last time stamp that it wrote; here search goes on from the end of the last word.
"""

from __future__ import annotations

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME, best_cut, speech_frames, speech_probabilities

LONG = 8.0
"""Seconds from which a recording is looked at."""

LEFT = 1.0
"""Seconds of speech after the last word that are recognised by themselves."""

_NEAR = 10
"""Frames of voice activity before and after the last word's end in which the speech is cut: 0.3 s."""


def unsaid(samples: Samples, end: float) -> int | None:
    """Where the speech begins that a text leaves out at its end, in samples; None: it leaves out nothing.

    Args:
        samples: (N,), float32 at 16 kHz.
        end: of the text's last word, in seconds.

    Raises:
        PathwaysError: if the voice activity detector is not installed.
    """
    if not LEFT <= end <= len(samples) / SAMPLE_RATE - LEFT:
        return None
    probabilities = speech_probabilities(samples)
    speech = speech_frames(probabilities)
    last = round(end * SAMPLE_RATE / FRAME)
    if speech[last:].sum() * FRAME < LEFT * SAMPLE_RATE:
        return None
    return best_cut(last - _NEAR, last + _NEAR, probabilities, speech) * FRAME
