"""Files that hold less, or more, than their header says; and those that libsndfile does not read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.data.audio import Truncated, audio_length, place_in, read_audio
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone


def write(path: Path, kind: str, subtype: str | None = None, seconds: float = 2.0, rate: int = 16_000) -> bytes:
    soundfile.write(path, tone(seconds, rate=rate), rate, format=kind, subtype=subtype)
    return path.read_bytes()


CUT = [
    *[("WAV", name) for name in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610", "G721_32")],
    *[(name, "PCM_16") for name in ("WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "SVX")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS")],
]


@pytest.mark.parametrize(("kind", "subtype"), CUT)
def test_a_file_cut_short_is_refused(tmp_path: Path, kind: str, subtype: str) -> None:
    path = tmp_path / "a.wav"
    data = write(path, kind, subtype, 5.0, 8000)
    whole = read_audio(path)
    assert len(whole) >= 5 * 16_000
    for share in (0.6, 0.95):
        path.write_bytes(data[: round(share * len(data))])
        for read in (read_audio, audio_length):
            with pytest.raises(Truncated, match=r"a\.wav: truncated audio: ") as caught:
                read(path)
            assert "\n" not in str(caught.value)
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"12345" + data)
    assert np.array_equal(read_audio(Path(place_in(archive, 5, len(data)))), whole)


@pytest.mark.parametrize("length", [0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF])
def test_a_length_that_a_pipe_did_not_know_is_no_promise(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.wav"
    data = write(path, "WAV")
    path.write_bytes(data[:40] + struct.pack("<I", length) + data[44:])
    assert len(read_audio(path)) == 32_000


def test_ogg_streams_one_after_another_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    parts = [write(path, "OGG", "VORBIS", 2.0), write(path, "OGG", "OPUS", 3.0, 48_000), write(path, "OGG", None, 1.0)]
    separate = []
    for part in parts:
        path.write_bytes(part)
        separate.append(read_audio(path))
    path.write_bytes(b"".join(parts))
    samples = read_audio(path)
    assert np.array_equal(samples, np.concatenate(separate)) and len(samples) == pytest.approx(6 * 16_000, abs=2)
    assert audio_length(path) == (16_000, pytest.approx(6 * 16_000, abs=2))
    assert np.abs(read_audio(path, 2.5, 1.0) - separate[1][8000:24_000])[100:-100].max() < 1e-2
    assert len(read_audio(path, 1.5, 1.0)) == 16_000 and len(read_audio(path, 5.5)) == pytest.approx(8000, abs=2)
    with pytest.raises(PathwaysError, match="offset 7 s is beyond its end at 6 s"):
        read_audio(path, 7.0)


@pytest.mark.parametrize("kind", ["FLAC", "AU", "RF64", "NIST", "WAV", "AIFF"])
def test_files_joined_otherwise_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.x"
    data = write(path, kind)
    path.write_bytes(data + data)
    with pytest.raises(PathwaysError, match=r"another file begins at its byte|not readable as audio"):
        read_audio(path)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "GSM610"), ("W64", "GSM610"), ("WAV", "G721_32"), ("AU", "G723_24"), ("AU", "G723_40")],
)
def test_codecs_that_cannot_seek_are_read(tmp_path: Path, kind: str, subtype: str) -> None:
    path = tmp_path / "a.x"
    write(path, kind, subtype, 2.0, 8000)
    samples = read_audio(path)
    assert len(samples) == pytest.approx(32_000, abs=640)
    assert np.abs(np.fft.rfft(samples[:16_000])).argmax() == 440
    assert np.corrcoef(read_audio(path, 0.5, 0.5), samples[8000:16_000])[0, 1] > 0.999


def test_headerless_gsm_is_read_and_raw_samples_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.gsm"
    soundfile.write(path, tone(1.0, rate=8000), 8000, format="RAW", subtype="GSM610")
    assert len(read_audio(path)) == pytest.approx(16_000, abs=640)
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(32_000))
    with pytest.raises(PathwaysError, match=r"a\.raw: no header says its rate and format: convert it"):
        read_audio(raw)
    raw.write_bytes(write(tmp_path / "b.wav", "WAV"))
    assert len(read_audio(raw)) == 32_000  # a WAV by another name


def test_flac_that_does_not_know_its_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    data = bytearray(write(path, "FLAC", seconds=3.0))
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # as an encoder to a pipe leaves it
    path.write_bytes(data)
    for read in (read_audio, audio_length):
        with pytest.raises(PathwaysError, match=r"a\.flac: its header does not say how long it is: convert it"):
            read(path)


def test_rates_that_no_speech_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(9), 1)
    with pytest.raises(PathwaysError, match=r"a\.wav: sample rate 1 Hz: it must be from 1,000"):
        read_audio(path)
    write(path, "WAV", rate=384_000)
    assert len(read_audio(path)) == 32_000


def test_a_text_named_mp3_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("no sound at all\n" * 99)
    with pytest.raises(PathwaysError, match=r"a\.mp3: not readable as audio: Format not recognised$"):
        read_audio(tmp_path / "a.mp3")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypM4A ", "MP4 or M4A"),
        (b"\x1a\x45\xdf\xa3\x01", "WebM or Matroska"),
        (b"\x30\x26\xb2\x75\x8e\x66", "WMA"),
        (b"#!AMR\n", "AMR"),
        (b"\xff\xf1\x50\x80", "AAC"),
    ],
)
def test_what_libsndfile_does_not_read_is_named_with_the_way_to_convert_it(
    tmp_path: Path, head: bytes, name: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(head + bytes(3000))
    with pytest.raises(PathwaysError, match=rf"a\.bin: {name} is not read: convert it, such as by `ffmpeg -i IN"):
        read_audio(path)
