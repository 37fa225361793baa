"""Cutting long recordings for models that hear a limited stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples

PAUSE = 0.2  # seconds over which loudness is measured
EARLIEST = 0.5  # of the window: no part is cut shorter than this share of it


def cut_at_pauses(samples: Samples, window: float) -> Iterator[Samples]:
    """Yields samples (N,) at 16 kHz in parts of at most ``window`` seconds, cut where it is quietest.

    Each cut is in the second half of its window, in the middle of the stretch of 0.2 s with the least energy.
    """
    while len(samples) > window * SAMPLE_RATE:
        longest, width = int(window * SAMPLE_RATE), int(PAUSE * SAMPLE_RATE)
        energy = np.cumsum(np.square(samples[:longest], dtype=np.float64))
        first = int(EARLIEST * longest)
        stretches = energy[first + width :] - energy[first:-width]
        cut = first + int(np.argmin(stretches)) + width // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples
