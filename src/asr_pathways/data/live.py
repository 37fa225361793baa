"""Samples as they come through a pipe: a WAV file, whose header is obeyed, or raw ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from asr_pathways.data.audio import SAMPLE_RATE, Samples, to_mono
from asr_pathways.data.containers import PLACEHOLDER, container
from asr_pathways.data.mpeg import begins_as_mpeg
from asr_pathways.errors import PathwaysError

ENCODINGS = {
    "u8": ("PCM_U8", 1),
    "s16le": ("PCM_16", 2),
    "s24le": ("PCM_24", 3),
    "s32le": ("PCM_32", 4),
    "f32le": ("FLOAT", 4),
    "f64le": ("DOUBLE", 8),
    "alaw": ("ALAW", 1),
    "mulaw": ("ULAW", 1),
}
"""Of raw samples, as ffmpeg names them: the subtype of libsndfile, and bytes a sample."""

_WAV = {  # the same, by format tag and bits
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
NAME = "-"
"""Of standard input, in errors."""

_EXTENSIBLE = 0xFFFE
_SNIFFED = 4096  # bytes that are looked at, less than a block


class Sound(Protocol):
    """Bytes as they come."""

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes; fewer at the end."""


@dataclass(frozen=True)
class _Layout:
    rate: int  # Hz
    channels: int
    encoding: str


def live_blocks(
    sound: Sound,
    seconds: float,
    rate: int = SAMPLE_RATE,
    encoding: str = "s16le",
    channel: int | None = None,
) -> Iterator[tuple[Samples, int]]:
    """Yields samples (n,), float32 in [-1, 1], and their rate (Hz), ``seconds`` at a time, until ``sound`` ends.

    A WAV file (a pipe's, whose header does not know its length, or several one after another) says itself how its
    samples are; anything else is raw samples of one channel. A stream that ends early is what has come.

    Args:
        sound: blocks until it has as many bytes as it is asked for.
        seconds: of a block.
        rate, encoding: of raw samples: Hz, and one of `ENCODINGS`.
        channel: of a WAV file, from 0; None averages them.

    Raises:
        PathwaysError: for another container, an encoding that is unknown, or what `to_mono` raises.
    """
    if encoding not in ENCODINGS:
        raise PathwaysError(f"encoding {encoding!r}: choose among {', '.join(ENCODINGS)}")
    head = sound.read(_SNIFFED)
    kind = "MP3" if begins_as_mpeg(head) else container(head)
    if kind is not None:
        raise PathwaysError(
            f"{NAME}: {kind}: only WAV and raw samples are read as they come: `ffmpeg -i IN -f wav -` makes one"
        )
    stream = _Pushed(head, sound)
    if not _is_wav(head):
        yield from _decoded(stream, _Layout(rate, 1, encoding), None, seconds, channel)
        return
    while _is_wav(stream.read(12)):
        layout, size = _wav_header(stream)
        yield from _decoded(stream, layout, size, seconds, channel)
        while size is not None and (following := stream.read(8)):  # what is after the audio
            if following[:4] == b"RIFF":
                stream = _Pushed(following, stream)
                break
            _skip(stream, following)


class _Pushed:
    """A stream with bytes before it."""

    def __init__(self, head: bytes, sound: Sound | _Pushed) -> None:
        self._head, self._sound = head, sound

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head if len(head) == size else head + self._sound.read(size - len(head))


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _wav_header(stream: _Pushed) -> tuple[_Layout, int | None]:
    """How the samples are, and how many bytes of them there are if the header knows; the stream is at the first."""
    layout: _Layout | None = None
    while len(chunk := stream.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and layout is not None:
            return layout, size if 0 < size < PLACEHOLDER else None
        if chunk[:4] != b"fmt ":
            _skip(stream, chunk)
            continue
        content = stream.read(size + size % 2)
        if len(content) < 16:
            break
        tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
        if tag == _EXTENSIBLE and len(content) >= 26:
            tag = int.from_bytes(content[24:26], "little")
        encoding = _WAV.get((tag, bits))
        if encoding is None or not channels:
            raise PathwaysError(
                f"{NAME}: WAV of format {tag} with {bits} bits in {channels} channels: samples as they come are PCM, "
                "float, A-law or mu-law"
            )
        layout = _Layout(rate, channels, encoding)
    raise PathwaysError(f"{NAME}: WAV without a format or without audio")


def _skip(stream: _Pushed, chunk: bytes) -> None:
    """Reads over the content of a chunk, of which the first 8 bytes were read."""
    size = int.from_bytes(chunk[4:8], "little")
    left = size + size % 2
    while left and (data := stream.read(min(left, 1 << 16))):
        left -= len(data)


def _decoded(
    stream: _Pushed, layout: _Layout, size: int | None, seconds: float, channel: int | None
) -> Iterator[tuple[Samples, int]]:
    """The blocks of ``size`` bytes, None: to the end."""
    import soundfile

    subtype, width = ENCODINGS[layout.encoding]
    frame = width * layout.channels
    block = max(1, round(seconds * layout.rate)) * frame
    left = size
    while data := stream.read(block if left is None else min(block, left)):
        if left is not None:
            left -= len(data)
        whole = data[: len(data) // frame * frame]
        if not whole:
            return
        samples, _ = soundfile.read(
            io.BytesIO(whole),
            dtype="float32",
            always_2d=True,
            samplerate=layout.rate,
            channels=layout.channels,
            format="RAW",
            subtype=subtype,
            endian="LITTLE",
        )
        yield to_mono(samples, channel, NAME), layout.rate
    if left == 0 and size is not None and size % 2:
        stream.read(1)  # chunks are of even length
