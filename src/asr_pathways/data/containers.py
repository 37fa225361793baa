"""What audio containers say of themselves, where libsndfile reads on in silence: cut short, joined, or unknown."""

from __future__ import annotations

import re

PLACEHOLDER = 0x7FFF0000
"""Bytes: writers to a pipe put such a length, or a larger one, before audio whose length they do not know."""

_SLACK = 64  # bytes: some writers count the header with the audio
_NOTED = re.compile(r"(\w[\w ]*?) *:? (\d+) \(?should be (\d+)", re.MULTILINE)
_WHOLE = ("RIFF", "FORM")  # lengths of all chunks, those after the audio too
_SAMPLE_COUNT = re.compile(rb"\bsample_count -i (\d+)")
_UNREADABLE = (
    (4, b"ftyp", "MP4 or M4A"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"#!AMR", "AMR"),
    (0, b"#!SILK", "SILK"),
    (0, b"\x02#!SILK", "SILK"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b".RMF", "RealMedia"),
    (0, b"FLV", "Flash video"),
    (0, b"DSD ", "DSD"),
    (0, b"MThd", "MIDI, which holds notes and no sound"),
)
_AAC = ((0, b"\xff\xf1", "AAC"), (0, b"\xff\xf9", "AAC"))  # raw samples may begin so
_HEADERS = (
    (0, b"RIFX", "RIFX"),
    (0, b"RF64", "RF64"),
    (0, b"BW64", "BW64"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"FORM", "AIFF"),
    (0, b".snd", "AU"),
    (0, b"caff", "CAF"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"riff\x2e\x91", "W64"),
)


def promised_bytes(log: str) -> tuple[int, int] | None:
    """The bytes of audio that a header promises, and those that are there; None: they are.

    Args:
        log: what libsndfile noted when it opened the file (``SoundFile.extra_info``).
    """
    if "should be" not in log:  # much faster than the search
        return None
    for name, promised, there in _NOTED.findall(log):
        if name.strip() not in _WHOLE and int(there) + _SLACK < int(promised) < PLACEHOLDER:
            return int(promised), int(there)
    return None


def sphere_samples(head: bytes) -> int | None:
    """The samples of each channel that the header of a NIST SPHERE file promises."""
    found = _SAMPLE_COUNT.search(head[:1024])
    return int(found[1]) if found else None


def unreadable(head: bytes) -> str | None:
    """The name of a container that libsndfile does not read; None: it is none of them."""
    return _named(head, _UNREADABLE + _AAC)


def container(head: bytes) -> str | None:
    """The name of a container other than WAV that begins so; None: it is none of them, or raw samples."""
    return _named(head, _HEADERS + _UNREADABLE)


def _named(head: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for at, mark, name in table if head[at : at + len(mark)] == mark), None)


def ogg_links(data: bytes) -> tuple[list[bytes], bool]:
    """The streams of an Ogg file that come one after another, and whether the last of them is whole.

    A stream is whole if its last page says so (RFC 3533, section 6).
    """
    starts: list[int] = []
    open_streams: set[bytes] = set()
    at, beginning = 0, False
    while (at := data.find(b"OggS", at)) >= 0 and len(data) >= at + 27:
        flags, serial, segments = data[at + 5], data[at + 14 : at + 18], data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if flags & 2:
            if not beginning:
                starts.append(at)
                open_streams.clear()
            open_streams.add(serial)
        beginning = bool(flags & 2)
        if len(data) < at + size:
            break
        if flags & 4:
            open_streams.discard(serial)
        at += size
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)], not open_streams


def before_last_page(data: bytes) -> int:
    """The samples (of Vorbis) in an Ogg file that are before its last page: the granule position of the page before.

    Within the last page libsndfile (1.2) goes to another place than it is asked for, since the page's own position is
    that of the end of the audio, not of its last packet.
    """
    at = data.rfind(b"OggS")
    while (at := data.rfind(b"OggS", 0, max(0, at))) >= 0:
        if (position := int.from_bytes(data[at + 6 : at + 14], "little", signed=True)) >= 0:  # -1: no packet ends there
            return position
    return 0
