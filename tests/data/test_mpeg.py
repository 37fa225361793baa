"""MP3 of every kind is as long as its sound, whatever its header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.data.audio import Truncated, audio_length, read_audio
from asr_pathways.data.mpeg import count_frames
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone

SECONDS = 3.0


def mp3(path: Path, rate: int = 44_100, mode: str = "VARIABLE", channels: int = 1, seconds: float = SECONDS) -> bytes:
    """A tone that comes and goes, so that a variable bitrate varies."""
    samples = tone(seconds, rate=rate) * (np.arange(round(seconds * rate)) // (rate // 2) % 2)[:, None].T[0]
    soundfile.write(
        path,
        np.stack([samples] * channels, axis=1),
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode=mode,
        compression_level=0.5,
    )
    return path.read_bytes()


def without_header(data: bytes) -> bytes:
    stream = count_frames(data)
    assert stream is not None and stream.promised
    return data[stream.start :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22_050, 2), (44_100, 1), (48_000, 2)])
def test_without_a_header_it_is_read_to_its_end(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, rate, mode, channels)
    whole = read_audio(path)
    assert len(whole) == SECONDS * 16_000
    path.write_bytes(without_header(data))
    samples = read_audio(path)
    assert SECONDS * 16_000 <= len(samples) < (SECONDS + 0.3) * 16_000  # the codec's delays are not known any more
    found_rate, found = audio_length(path)
    assert found_rate == rate and found / rate == pytest.approx(len(samples) / 16_000, abs=1e-3)
    delay = int(np.argmax(np.correlate(samples[: 16_000 + 2000], whole[:16_000], "valid")))
    assert np.abs(samples[delay : delay + len(whole) - 2000] - whole[: len(whole) - 2000]).max() < 0.1
    part = read_audio(path, 1.5, 0.5)
    assert len(part) == 8000 and np.abs(part - samples[24_000:32_000])[100:-100].max() < 1e-2


def test_a_header_is_obeyed_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    mp3(path, 16_000)
    with soundfile.SoundFile(path) as sound:
        wanted = sound.read(dtype="float32")
    assert np.array_equal(read_audio(path), wanted)
    assert audio_length(path) == (16_000, len(wanted))


def test_after_a_seek_nothing_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    mp3(path, 16_000, seconds=8.0)
    whole = read_audio(path)
    for offset in (0.3, 2.6, 5.1, 7.4):
        start = round(offset * 16_000)
        assert np.abs(read_audio(path, offset, 0.5) - whole[start : start + 8000]).max() < 1e-4


def test_joined_files_are_read_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, 16_000)
    tags = b"TAG".ljust(128, b"\0"), b"ID3\x04\x00\x00\x00\x00\x01\x00".ljust(138, b"\0")
    for between in (b"", *tags, tags[0] + tags[1]):
        path.write_bytes(data + between + data)
        assert 2 * SECONDS <= len(read_audio(path)) / 16_000 < 2 * SECONDS + 0.5
    other = mp3(tmp_path / "b.mp3", 8000)
    path.write_bytes(data + other)
    with pytest.raises(PathwaysError, match=r"a\.mp3: its rate or channels change within: convert it"):
        read_audio(path)


def test_a_file_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, 16_000)
    for share in (0.1, 0.34, 0.9):
        path.write_bytes(data[: round(share * len(data))])
        for read in (read_audio, audio_length):
            with pytest.raises(Truncated, match=r"a\.mp3: truncated audio: .* s that its header says"):
                read(path)


def test_what_is_no_mpeg_has_no_frames() -> None:
    assert count_frames(b"") is None
    assert count_frames(b"\xff\xfb\x90") is None
    assert count_frames(bytes(5000)) is None
    assert count_frames(b"ID3" + bytes(200)) is None
