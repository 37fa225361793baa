"""MPEG audio (MP3) counted frame by frame: how long a stream is, whatever its header says or lacks.

A decoder that finds no Xing or Info header guesses the length from the first frame's bitrate, and stops there.
Sources: ISO/IEC 11172-3 and 13818-3 (frame headers), gabriel.mp3-tech.org/mp3infotag.html (the Info frame).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_LAYER_3_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KILOBITS = {  # a second, by MPEG 1 or not, and layer
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LAYER_3_LOW,
    (False, 3): _LAYER_3_LOW,
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz, by version bits


@dataclass(frozen=True)
class _Header:
    layer: int
    rate: int  # Hz
    channels: int
    samples: int  # a channel
    size: int  # bytes, those of the header included
    tag: int  # where in the frame an Info tag would be


@dataclass(frozen=True)
class MpegStream:
    """What the frames of a stream amount to.

    Attributes:
        start, end: bytes between which its audio frames are.
        layer: 1, 2 or 3.
        rate: Hz.
        frames: how many whole ones there are.
        samples: a channel, in each.
        promised: frames by a Xing or Info header; None: there is none that says so.
        uniform: whether rate and channels stay the same.
    """

    start: int
    end: int
    layer: int
    rate: int
    frames: int
    samples: int
    promised: int | None
    uniform: bool


def count_frames(data: bytes) -> MpegStream | None:
    """Counts the frames of an MPEG stream; tags before, after and between them are skipped, and so is rubbish.

    Args:
        data: the file.

    Returns:
        None if there are not two frames one after the other, or their size cannot be known (free format).
    """
    at = _next_frame(data, 0)
    first = None if at is None else _header(data, at)
    if at is None or first is None:
        return None
    promised = None
    if (tag := _frames_of_tag(data[at : at + first.size], first)) is not None:
        promised = tag or None
        at += first.size
    start, end, frames, uniform = at, at, 0, True
    while at is not None:
        header = _header(data, at)
        if header is None:
            at = _next_frame(data, at)
            continue
        at += header.size
        if at > len(data):
            break
        uniform &= (header.rate, header.channels) == (first.rate, first.channels)
        frames += 1
        end = at
    return MpegStream(start, end, first.layer, first.rate, frames, first.samples, promised, uniform)


def begins_as_mpeg(data: bytes) -> bool:
    """Whether a file begins with two frames; by chance, samples do so once in many millions."""
    return _next_frame(data, 0) == 0 if data[:3] != b"ID3" else True


def with_info(data: bytes, stream: MpegStream) -> bytes:
    """The stream (layer 3) after an Info frame that counts its frames."""
    first = bytearray(data[stream.start : stream.start + 4])
    first[1] |= 1  # no checksum
    first[2] = 0x90 | first[2] & 0x0C  # a bitrate at which a frame is large enough for the tag
    header = _header(bytes(first), 0)
    assert header is not None
    audio = data[stream.start : stream.end]
    tag = b"Info" + struct.pack(">III", 3, stream.frames, header.size + len(audio))
    return (bytes(first).ljust(header.tag, b"\0") + tag).ljust(header.size, b"\0") + audio


def _header(data: bytes, at: int) -> _Header | None:
    """The header of a frame at a byte; None: there is none."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bitrate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    one, mono, hertz = version == 3, data[at + 3] >> 6 == 3, _RATES[version][rate]
    samples = 384 if layer == 1 else 1152 if one or layer == 2 else 576
    slot = 4 if layer == 1 else 1  # bytes
    size = (samples // 8 // slot * 1000 * _KILOBITS[one, layer][bitrate - 1] // hertz + padding) * slot
    side = (17 if mono else 32) if one else (9 if mono else 17)
    checksum = 0 if data[at + 1] & 1 else 2
    return _Header(layer, hertz, 1 if mono else 2, samples, size, 4 + checksum + side)


def _next_frame(data: bytes, at: int) -> int | None:
    """The first byte from ``at`` on where a frame begins that another, a tag or the end of the file follows."""
    while 0 <= at < len(data):
        if data[at : at + 3] == b"ID3" and len(data) > at + 10:
            size = 0
            for byte in data[at + 6 : at + 10]:
                size = size << 7 | byte & 0x7F
            at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
            continue
        header = _header(data, at)
        if header is not None:
            after = at + header.size
            if _header(data, after) is not None or after == len(data) or data[after : after + 3] in (b"TAG", b"ID3"):
                return at
        found = [place for mark in (b"\xff", b"ID3") if (place := data.find(mark, at + 1)) >= 0]
        at = min(found, default=-1)
    return None


def _frames_of_tag(frame: bytes, header: _Header) -> int | None:
    """The frames that the tag of a first frame counts, 0 if it does not say; None: there is no tag."""
    tag = frame[header.tag : header.tag + 12]
    if tag[:4] in (b"Xing", b"Info") and len(tag) == 12:
        return int.from_bytes(tag[8:12], "big") if tag[7] & 1 else 0
    return 0 if frame[36:40] == b"VBRI" else None
