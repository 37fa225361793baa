"""The recordings that systems are timed on, from the test part of a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.batches import read_cut

SHORT = (2.0, 5.0)
SHORT_LENGTH = "2-5"
SHORT_CLIPS = 5
PAUSE = 0.3
"""Seconds of silence between utterances that are joined."""


@dataclass(frozen=True)
class Clip:
    """Samples (N,) float32 at 16 kHz, and which row of the table they are timed for."""

    length: str
    samples: Samples

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def make_clips(cuts: Sequence[Any], lengths: Sequence[str]) -> list[Clip]:
    """The clips of each of ``lengths``: ``2-5``: five utterances of so many seconds; a number: utterances joined.

    Args:
        cuts: of one language; their order is drawn, the same at every call. Where there are too few utterances
            of 2 to 5 seconds, joined ones stand in.
        lengths: in seconds.
    """
    order = [cuts[index] for index in np.random.default_rng(0).permutation(len(cuts))]
    clips = []
    for length in lengths:
        if length == SHORT_LENGTH:
            short = [read_cut(cut) for cut in order if SHORT[0] <= cut.duration <= SHORT[1]][:SHORT_CLIPS]
            joined = [
                _joined(order[index:] + order[:index], sum(SHORT) / 2) for index in range(len(short), SHORT_CLIPS)
            ]
            clips += [Clip(length, samples) for samples in short + joined]
        else:
            clips.append(Clip(length, _joined(order, float(length))))
    return clips


def _joined(cuts: Sequence[Any], seconds: float) -> Samples:
    """Utterances with pauses between, from the beginning again when there are no more, until ``seconds``."""
    wanted, parts, have = round(seconds * SAMPLE_RATE), [], 0
    pause = np.zeros(round(PAUSE * SAMPLE_RATE), dtype=np.float32)
    for cut in cycle(cuts):
        parts += [read_cut(cut), pause]
        have += len(parts[-2]) + len(pause)
        if have >= wanted:
            break
    return np.concatenate(parts)[:wanted]
