"""Where speech is in a recording: Silero's voice activity detector (github.com/snakers4/silero-vad, MIT licence).

The package ``silero-vad`` carries the weights; onnxruntime computes them, and none of the package's code is imported.
Its network for whole sequences takes many frames in one call: about 10 s for an hour of audio, on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError

FRAME = 512
"""Samples that share one probability: 32 ms."""

BEGINS, ENDS = 0.5, 0.35
"""Speech begins at a frame of so high a probability, and ends at one below the second (Silero's own thresholds)."""

LEVEL = 0.05
"""A recording of a lower root mean square is amplified to it, measured in its loud frames: speech below -40 dB is
missed. A click is one or two of them."""

_LOUD = 10  # frames that are louder than the one measured

SILENT = 0.1
"""A recording has surely no speech if no frame is as likely; the least likely of 2,619 prompts has 0.19."""

_MOST_GAIN = 1000.0
_CONTEXT = 64  # samples before a frame that belong to the network's input
_STATE = (1, 1, 128)  # of its LSTM
_BLOCK = 512  # frames in one call
_SHORT_BLOCK = 16  # frames in one call where the first of speech decides
_REMEMBERED = 500  # frames of a stream, of which the loud ones are amplified to `LEVEL`


def speech_segments(
    samples: Samples, *, longest: float = float("inf"), silence: float = 2.0, padding: float = 0.2
) -> list[tuple[int, int]]:
    """The segments of ``samples`` (T,), float32 at 16 kHz, that have speech: (start, end) in samples, in order.

    Segments do not overlap. One that would be longer than ``longest`` is cut where it pauses longest, in the second
    half of what is allowed; where it has no pause there, at the frame that is least likely to be speech.

    Args:
        longest: length of a segment, in seconds, above ``0.1``.
        silence: a pause of so many seconds ends a segment; a shorter one stays in it.
        padding: seconds around speech that are kept; less where a recording begins or ends, or a pause is short.

    Raises:
        PathwaysError: if the detector is not installed.
    """
    probabilities = speech_probabilities(samples)
    speech = speech_frames(probabilities)
    pad = min(padding, longest / 4)
    limit = max(2.0, (longest - 2 * pad) * SAMPLE_RATE / FRAME)
    joined: list[tuple[int, int]] = []
    for start, end in runs_of(speech):
        if joined and (start - joined[-1][1]) * FRAME < silence * SAMPLE_RATE:
            start = joined.pop()[0]
        joined.append((start, end))
    parts = [part for segment in joined for part in _cut(segment, probabilities, speech, limit)]
    bounds = [(start * FRAME, min(end * FRAME, len(samples))) for start, end in parts]
    ends = [0, *(end for _, end in bounds)]
    starts = [*(start for start, _ in bounds), len(samples)]
    reach = round(pad * SAMPLE_RATE)
    gaps = [later - earlier for earlier, later in zip(ends, starts, strict=True)]
    # Neighbours share what is between them; before the first and after the last one there is none to share with.
    reaches = [min(reach, gap if place in (0, len(bounds)) else gap // 2) for place, gap in enumerate(gaps)]
    return [
        (start - before, end + after)
        for (start, end), before, after in zip(bounds, reaches[:-1], reaches[1:], strict=True)
    ]


def parts_within(samples: Samples, window: float) -> list[tuple[int, int]]:
    """The parts of ``samples`` (T,) that are recognised at once, (start, end) each: all of them if these are at most
    ``window`` seconds, else `speech_segments` of at most so many.

    Raises:
        PathwaysError: if they are more, and the detector is not installed.
    """
    if len(samples) <= window * SAMPLE_RATE:
        return [(0, len(samples))]
    return speech_segments(samples, longest=window)


def is_silent(samples: Samples) -> bool:
    """Whether ``samples`` (T,), float32 at 16 kHz, surely have no speech: silence, noise, tones.

    Raises:
        PathwaysError: if the detector is not installed.
    """
    return all(part.max() < SILENT for part in _probabilities(samples, _SHORT_BLOCK))  # up to the first that is not


def speech_probabilities(samples: Samples) -> NDArray[np.float32]:
    """The probability of speech in each `FRAME` of ``samples`` (T,), float32 at 16 kHz: (ceil(T / 512),).

    Raises:
        PathwaysError: if the detector is not installed.
    """
    return np.concatenate([np.zeros(0, np.float32), *_probabilities(samples, _BLOCK)])


def _probabilities(samples: Samples, frames: int) -> Iterator[NDArray[np.float32]]:
    """Those of so many frames at a time."""
    session, gain = _detector(), _gain(samples)
    hidden, cell = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
    size = frames * FRAME
    for start in range(0, len(samples), size):
        part = samples[max(0, start - _CONTEXT) : start + size]
        before = 0 if start else _CONTEXT
        missing = -(len(part) + before - _CONTEXT) % FRAME
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(part, (before, missing)), _CONTEXT + FRAME)[::FRAME]
        inputs = {"input": np.float32(gain) * windows, "h": hidden, "c": cell}
        block, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        yield block


class VoiceActivity:
    """The probability of speech in each frame of a stream, as it comes."""

    def __init__(self) -> None:
        self._state = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
        self._rest = np.zeros(_CONTEXT, np.float32)  # what follows the last whole frame, and its context before
        self._recent = np.zeros(0, np.float32)

    def accept(self, samples: Samples) -> NDArray[np.float32]:
        """The probabilities of the frames that samples (n,), float32 at 16 kHz, complete.

        Raises:
            PathwaysError: if the detector is not installed.
        """
        self._rest = np.concatenate([self._rest, samples])
        whole = (len(self._rest) - _CONTEXT) // FRAME * FRAME
        if not whole:
            return np.zeros(0, np.float32)
        part, self._rest = self._rest[: whole + _CONTEXT], self._rest[whole:]
        self._recent = np.concatenate([self._recent, part[_CONTEXT:]])[-_REMEMBERED * FRAME :]
        # The voice may be louder than what was before it: it must not be amplified beyond full scale.
        gain = min(_gain(self._recent), 1 / max(float(np.abs(part).max()), 1 / _MOST_GAIN))
        windows = np.lib.stride_tricks.sliding_window_view(part, _CONTEXT + FRAME)[::FRAME]
        hidden, cell = self._state
        inputs = {"input": np.float32(max(1.0, gain)) * windows, "h": hidden, "c": cell}
        found, *state = _detector().run(["speech_probs", "hn", "cn"], inputs)
        self._state = tuple(state)
        return np.asarray(found)


@cache
def _detector() -> Any:
    """The session, on one thread, made when it is first needed; importing this module loads nothing."""
    package = find_spec("silero_vad")  # finds it without importing it
    if package is None or package.origin is None:
        raise PathwaysError("voice activity needs the package silero-vad: pip install 'silero-vad>=6.2.3'")
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    if not path.is_file():
        raise PathwaysError(f"{path}: not there: pip install 'silero-vad>=6.2.3'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _gain(samples: Samples) -> float:
    """What brings the loud frames of samples (T,) to `LEVEL`; at least 1."""
    whole = len(samples) // FRAME * FRAME
    frames = samples[:whole].reshape(-1, FRAME)
    powers = np.sort(np.einsum("fs,fs->f", frames, frames)) / FRAME
    power = float(powers[-min(_LOUD, len(powers))]) if len(powers) else 0.0
    return min(max(1.0, LEVEL / float(np.sqrt(max(power, 1e-20)))), _MOST_GAIN)


def speech_frames(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames of speech (n,): it goes on from one above `BEGINS` to the next below `ENDS`."""
    decided = (probabilities >= BEGINS) | (probabilities < ENDS)
    last = np.maximum.accumulate(np.where(decided, np.arange(len(probabilities)), -1))
    speech: NDArray[np.bool_] = (last >= 0) & (probabilities[last] >= BEGINS)
    return speech


def runs_of(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True in (n,): (start, end) of each."""
    edges = np.flatnonzero(np.diff(frames, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _cut(
    segment: tuple[int, int], probabilities: NDArray[np.float32], speech: NDArray[np.bool_], limit: float
) -> list[tuple[int, int]]:
    """A segment of frames in parts of at most ``limit`` frames."""
    start, end = segment
    parts = []
    while end - start > limit:
        first = start + max(1, int(limit) // 2)
        last = max(first + 1, min(start + int(limit), end - int(limit) // 4))  # what is left is no splinter
        place = best_cut(first, last, probabilities, speech)
        parts.append((start, place))
        start = place
    return [*parts, (start, end)]


def best_cut(first: int, last: int, probabilities: NDArray[np.float32], speech: NDArray[np.bool_]) -> int:
    """The frame from ``first`` to ``last`` where speech is best cut: in its longest pause, or where it is least likely.

    Args:
        probabilities: of speech in each frame (n,).
        speech: what `speech_frames` makes of them.
    """
    if pauses := runs_of(~speech[first:last]):
        begin, stop = max(pauses, key=lambda pause: (pause[1] - pause[0], pause[0]))
        return first + (begin + stop) // 2
    return first + int(np.argmin(probabilities[first:last]))
