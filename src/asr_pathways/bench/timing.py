"""Timing streaming systems side by side: rounds of all of them, so that a slow minute of the machine is everyone's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.runtime.streaming import FRAME

ROUNDS = 5

Tokens = Sequence[tuple[object, float]]
"""Tokens, each with the time of its frame in seconds."""


class System(Protocol):
    """Something that recognises a stream.

    Attributes:
        disk: the bytes that it is loaded from.
    """

    disk: int

    def stream(self) -> Callable[[Samples], Tokens]:
        """A new stream: takes samples at 16 kHz, recognises what it can, and returns all tokens so far."""


@dataclass(frozen=True)
class Timing:
    """Medians over rounds.

    Attributes:
        rtf: seconds of compute a second of audio.
        p50, p95: milliseconds that a chunk takes.
        first: milliseconds from the end of the frame that gives the first token until the token is there, if audio
            comes as it is spoken, a chunk at a time; None if there is none.
    """

    rtf: float
    p50: float
    p95: float
    first: float | None


def time_streams(systems: Mapping[str, System], samples: Samples, chunk: float) -> dict[str, Timing]:
    """Streams ``samples`` (N,) at 16 kHz through each system, ``chunk`` seconds at a time, `ROUNDS` times over."""
    rounds: dict[str, list[Timing]] = {name: [] for name in systems}
    for system in systems.values():
        _stream(system, samples[: 3 * SAMPLE_RATE], chunk)  # what is made at the first call is not counted
    for _ in range(ROUNDS):
        for name, system in systems.items():
            rounds[name].append(_stream(system, samples, chunk))
    return {name: _medians(timings) for name, timings in rounds.items()}


def _medians(timings: Sequence[Timing]) -> Timing:
    first = [timing.first for timing in timings if timing.first is not None]
    return Timing(
        rtf=statistics.median(timing.rtf for timing in timings),
        p50=statistics.median(timing.p50 for timing in timings),
        p95=statistics.median(timing.p95 for timing in timings),
        first=statistics.median(first) if first else None,
    )


def _stream(system: System, samples: Samples, chunk: float) -> Timing:
    accept = system.stream()
    spent: list[float] = []
    first: float | None = None
    done = 0.0
    for index, piece in enumerate(_pieces(samples, chunk)):
        began = time.perf_counter()
        tokens = accept(piece)
        spent.append(time.perf_counter() - began)
        done = max(done, (index + 1) * chunk) + spent[-1]
        if tokens and first is None:
            first = 1000 * (done - (tokens[0][1] + FRAME))
    p50, p95 = np.percentile(spent, [50, 95])
    return Timing(sum(spent) / (len(samples) / SAMPLE_RATE), 1000 * float(p50), 1000 * float(p95), first)


def _pieces(samples: Samples, chunk: float) -> Iterator[Samples]:
    step = round(chunk * SAMPLE_RATE)
    for start in range(0, len(samples) - step + 1, step):
        yield samples[start : start + step]
