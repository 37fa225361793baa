"""A pipe's WAV is what its header says; raw samples are what they are said to be; nothing else is sound."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.data.live import live_blocks
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone


def read(data: bytes, **options: object) -> tuple[np.ndarray, int]:
    blocks = list(live_blocks(io.BytesIO(data), 0.32, **options))  # type: ignore[arg-type]
    (rate,) = {rate for _, rate in blocks}
    return np.concatenate([samples for samples, _ in blocks]), rate


def wav(samples: np.ndarray, rate: int, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8000, 1)])
def test_a_wav_stream_is_read_as_the_file(subtype: str, kind: str, rate: int, channels: int) -> None:
    data = wav(np.stack([tone(1.0, 300 * (1 + n), rate) for n in range(channels)], axis=1), rate, subtype, kind)
    wanted, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    samples, found = read(data)
    assert found == rate and np.array_equal(samples, wanted.mean(axis=1, dtype=np.float32))
    assert np.array_equal(read(data, channel=channels - 1)[0], wanted[:, -1])


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF])
def test_a_header_may_not_know_its_length(length: int) -> None:
    data = wav(tone(1.0), 16_000)
    samples, _ = read(data[:40] + struct.pack("<I", length) + data[44:])
    assert len(samples) == 16_000


def test_other_chunks_are_no_sound_and_joined_files_are_all_read() -> None:
    data = wav(tone(1.0), 16_000)
    note = b"LIST" + struct.pack("<I", 7) + b"abcdefg\0"
    data = data[:36] + note + data[36:] + note
    samples, _ = read(data + data)
    assert np.array_equal(samples, np.tile(read(wav(tone(1.0), 16_000))[0], 2))


def test_a_header_alone_is_silence() -> None:
    assert list(live_blocks(io.BytesIO(wav(np.zeros(0), 16_000)), 0.32)) == []
    assert list(live_blocks(io.BytesIO(b""), 0.32)) == []


@pytest.mark.parametrize(
    ("encoding", "subtype"),
    [("s16le", "PCM_16"), ("u8", "PCM_U8"), ("s24le", "PCM_24"), ("f32le", "FLOAT"), ("mulaw", "ULAW")],
)
def test_raw_samples_are_what_the_options_say(encoding: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    soundfile.write(path, tone(1.0, rate=8000), 8000, format="RAW", subtype=subtype)
    wanted, _ = soundfile.read(path, dtype="float32", samplerate=8000, channels=1, format="RAW", subtype=subtype)
    samples, rate = read(path.read_bytes() + (b"\0" if encoding == "s16le" else b""), rate=8000, encoding=encoding)
    assert rate == 8000 and np.array_equal(samples, wanted)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "RF64", "W64", "NIST"])
def test_other_containers_are_refused(kind: str) -> None:
    data = wav(tone(1.0), 16_000, {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16"), kind)
    with pytest.raises(PathwaysError, match=r"^-: .*: only WAV and raw samples are read as they come: `ffmpeg"):
        read(data)


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(PathwaysError, match=r"-: WAV of format 17 with 4 bits in 1 channels: samples as they come are"):
        read(wav(tone(1.0), 16_000, "IMA_ADPCM"))
    with pytest.raises(PathwaysError, match="-: WAV without a format or without audio"):
        read(wav(tone(1.0), 16_000)[:36])
    with pytest.raises(PathwaysError, match="encoding 'mp3': choose among u8, s16le"):
        read(b"1234", encoding="mp3")
    with pytest.raises(PathwaysError, match="-: no channel 2: it has 1"):
        read(wav(tone(1.0), 16_000), channel=2)
    with pytest.raises(PathwaysError, match=r"-: samples reach .* where full scale is 1"):
        read((tone(1.0) * 32768).tobytes(), encoding="f32le")
