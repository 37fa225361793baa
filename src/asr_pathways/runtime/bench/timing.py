"""Timing streaming systems side by side: rounds of all of them, so that a slow minute of the machine is everyone's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples

ROUNDS = 5


class System(Protocol):
    """Something that recognises a stream.

    Attributes:
        disk: the bytes that it is loaded from.
    """

    disk: int

    def stream(self) -> Callable[[Samples], object]:
        """A new stream: takes samples at 16 kHz and recognises what it can."""


@dataclass(frozen=True)
class Timing:
    """Medians over rounds.

    Attributes:
        rtf: seconds of compute a second of audio.
        p50, p95: milliseconds that a chunk takes.
    """

    rtf: float
    p50: float
    p95: float


def time_streams(systems: Mapping[str, System], samples: Samples, chunk: float) -> dict[str, Timing]:
    """Streams ``samples`` (N,) at 16 kHz through each system, ``chunk`` seconds at a time, `ROUNDS` times over."""
    rounds: dict[str, list[Timing]] = {name: [] for name in systems}
    for system in systems.values():
        _stream(system, samples[: 3 * SAMPLE_RATE], chunk)  # what is made at the first call is not counted
    for _ in range(ROUNDS):
        for name, system in systems.items():
            spent = _stream(system, samples, chunk)
            seconds = len(samples) / SAMPLE_RATE
            p50, p95 = np.percentile(spent, [50, 95])
            rounds[name].append(Timing(sum(spent) / seconds, 1000 * float(p50), 1000 * float(p95)))
    return {
        name: Timing(*(statistics.median(getattr(t, part) for t in timings) for part in ("rtf", "p50", "p95")))
        for name, timings in rounds.items()
    }


def _stream(system: System, samples: Samples, chunk: float) -> list[float]:
    """Seconds that each chunk takes."""
    accept = system.stream()
    spent = []
    for piece in _pieces(samples, chunk):
        began = time.perf_counter()
        accept(piece)
        spent.append(time.perf_counter() - began)
    return spent


def _pieces(samples: Samples, chunk: float) -> Iterator[Samples]:
    step = round(chunk * SAMPLE_RATE)
    for start in range(0, len(samples) - step + 1, step):
        yield samples[start : start + step]
