"""Audio files or a microphone to text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.live import live_blocks
from asr_pathways.model_folder.decode import Transcript, read_samples
from asr_pathways.runtime.streaming import Recognizer, Result

CHUNK = 0.32
"""Seconds of audio in each step of streaming."""


def transcribe_stream(
    recognizer: Recognizer, path: Path, language: str, chunk: float = CHUNK, channel: int | None = None
) -> Iterator[tuple[Transcript, bool]]:
    """Decodes a recording ``chunk`` seconds at a time; yields the hypothesis after each, and whether it is final.

    Raises:
        PathwaysError: as `model_folder.decode.transcribe`.
    """
    stream = recognizer.stream(language)
    samples = read_samples(path, channel)
    seconds = len(samples) / SAMPLE_RATE
    step = max(1, round(chunk * SAMPLE_RATE))
    for start in range(0, len(samples), step):
        stream.accept(samples[start : start + step])
        yield _transcript(path, stream.partial(), seconds)
    yield _transcript(path, stream.final(), seconds)


def transcribe_live(
    recognizer: Recognizer,
    sound: BinaryIO,
    language: str,
    rate: int = SAMPLE_RATE,
    encoding: str = "s16le",
    channel: int | None = None,
) -> Iterator[tuple[Transcript, bool]]:
    """Decodes a WAV stream, or raw samples of ``rate`` and ``encoding``, as they are read, until ``sound`` ends.

    Yields the hypothesis of a segment after each `CHUNK` seconds, and the final one once silence has ended it.

    Raises:
        PathwaysError: for an unknown language, or as `data.live.live_blocks` does.
    """
    stream = recognizer.stream(language)
    for samples, its_rate in live_blocks(sound, CHUNK, rate, encoding, channel):
        stream.accept(samples, its_rate)
        result = stream.final() if stream.partial().text and stream.endpoint() else stream.partial()
        yield _transcript(Path("-"), result, result.end - result.start)
    if (last := stream.final()).text:
        yield _transcript(Path("-"), last, last.end - last.start)


def _transcript(path: Path, result: Result, seconds: float) -> tuple[Transcript, bool]:
    return Transcript(str(path), result.language, result.text, result.tokens, seconds), result.final
