"""Audio files or a microphone to text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.model_folder.decode import Transcript, read_samples, spoken_segments
from asr_pathways.runtime.streaming import Recognizer, Result

CHUNK = 0.32
"""Seconds of audio in each step of streaming."""


def transcribe_stream(
    recognizer: Recognizer, path: Path, language: str, chunk: float = CHUNK
) -> Iterator[tuple[Transcript, bool]]:
    """Decodes a recording ``chunk`` seconds at a time; yields the hypothesis after each, and whether it is final.

    Raises:
        PathwaysError: as `model_folder.decode.transcribe`.
    """
    stream = recognizer.stream(language)
    samples = read_samples(path)
    seconds = len(samples) / SAMPLE_RATE
    step = max(1, round(chunk * SAMPLE_RATE))
    for start in range(0, len(samples), step):
        stream.accept(samples[start : start + step])
        yield _transcript(path, stream.partial(), seconds)
    yield _transcript(path, stream.final(), seconds)


class Sound(Protocol):
    """Bytes as they come."""

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes; fewer at the end."""


def transcribe_live(recognizer: Recognizer, sound: Sound, language: str) -> Iterator[tuple[Transcript, bool]]:
    """Decodes 16-bit mono samples at 16 kHz as they are read, until ``sound`` ends.

    Yields the hypothesis of a segment after each `CHUNK` seconds, and the final one once silence has ended it.

    Raises:
        PathwaysError: for an unknown language.
    """
    stream = recognizer.stream(language)
    while data := sound.read(2 * round(CHUNK * SAMPLE_RATE)):
        stream.accept(np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / np.float32(32768))
        result = stream.final() if stream.partial().text and stream.endpoint() else stream.partial()
        yield _transcript(Path("-"), result, result.end - result.start)
    if (last := stream.final()).text:
        yield _transcript(Path("-"), last, last.end - last.start)


def _transcript(path: Path, result: Result, seconds: float) -> tuple[Transcript, bool]:
    segments = spoken_segments([(result.start, result.end, result.language, result.text)])
    return Transcript(str(path), result.language, result.text, result.tokens, seconds, segments), result.final
