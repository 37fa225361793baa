from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.data.audio import read_audio, to_int16, write_flac
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone


def test_flac_round_trip_is_exact(tmp_path: Path) -> None:
    samples = to_int16(tone(0.5))
    write_flac(tmp_path / "a.flac", samples)
    assert np.array_equal(to_int16(read_audio(tmp_path / "a.flac")), samples)


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(8000, 1, "wav"), (44_100, 2, "ogg"), (48_000, 3, "flac")])
def test_any_rate_and_channels_become_16k_mono(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(1.0, rate=rate)] * channels, axis=1), rate)
    samples = read_audio(path)
    assert samples.dtype == np.float32 and abs(len(samples) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(samples[:16_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_offset_and_duration(tmp_path: Path) -> None:
    samples = tone(1.0)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav", 0.25, 0.5), samples[4000:12_000])
    assert len(read_audio(tmp_path / "a.wav", 0.9, 5.0)) == 1600


def test_the_end_of_a_vorbis_file_is_where_it_is_asked_for(tmp_path: Path) -> None:
    """libsndfile goes to another place within the last page."""
    path, data = tmp_path / "a.ogg", tmp_path / "b.ogg"
    times = np.arange(6 * 16_000 + 777) / 16_000
    for one, pitch in ((path, 200), (data, 900)):
        samples = 0.2 * np.sin(2 * np.pi * (pitch + 100 * times) * times)
        with soundfile.SoundFile(one, "w", 16_000, 1, format="OGG", subtype="VORBIS") as out:
            for start in range(0, len(samples), 4096):
                out.write(samples[start : start + 4096])
    joined = tmp_path / "joined.ogg"
    joined.write_bytes(path.read_bytes() + data.read_bytes())
    for file in (path, joined):
        whole = read_audio(file)
        for offset in (1.0, 4.5, 5.5, 5.9, 11.75 if file is joined else 6.0):
            found = read_audio(file, offset)
            assert len(found) == len(whole) - round(16_000 * offset)
            assert np.abs(found - whole[-len(found) :]).max() < 1e-4


def test_loud_samples_are_clipped() -> None:
    assert to_int16(np.array([2.0, -2.0, 0.5], np.float32)).tolist() == [32767, -32768, 16384]


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio")
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", tone(0.1), 16_000)
    for path, message in [
        ("missing.wav", "no such audio file"),
        ("empty.wav", "empty file"),
        ("text.wav", "not readable as audio"),
        ("none.wav", "no audio in it"),
        ("nan.wav", "not finite"),
    ]:
        with pytest.raises(PathwaysError, match=message) as caught:
            read_audio(tmp_path / path)
        assert path in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(PathwaysError, match="beyond its end"):
        read_audio(tmp_path / "short.wav", offset=1.0)


def test_a_channel_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = tone(1.0, 300), tone(1.0, 900)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    assert np.array_equal(read_audio(path, channel=0), left)
    assert np.array_equal(read_audio(path, 0.25, 0.5, 1), right[4000:12_000])
    assert np.allclose(read_audio(path), (left + right) / 2)
    for channel in (2, -1):
        with pytest.raises(PathwaysError, match=rf"a\.wav: no channel {channel}: it has 2, counted from 0"):
            read_audio(path, channel=channel)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg"])
def test_channels_in_opposite_phase_are_no_silence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(1.0), -tone(1.0)], axis=1), 16_000)
    with pytest.raises(PathwaysError, match=r"its channels cancel each other when they are averaged: choose one"):
        read_audio(path)
    assert np.abs(read_audio(path, channel=1)).max() > 0.2
    soundfile.write(path, np.stack([tone(1.0), np.zeros(16_000)], axis=1), 16_000)
    assert np.abs(read_audio(path)).max() > 0.1
    soundfile.write(path, np.zeros((16_000, 2)), 16_000)
    assert len(read_audio(path)) == 16_000


@pytest.mark.parametrize("scale", [128.0, 32768.0, 2.0**31])
def test_floats_in_the_range_of_integers_are_refused(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0) * scale, 16_000, subtype="FLOAT")
    with pytest.raises(PathwaysError, match=r"a\.wav: samples reach .* where full scale is 1: divide"):
        read_audio(path)
    soundfile.write(path, tone(1.0) * 9, 16_000, subtype="FLOAT")  # 9 dB over full scale is loud, and no other scale
    assert len(read_audio(path)) == 16_000


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.99])
def test_truncated_flac_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.flac"
    write_flac(path, tone(1.0))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(PathwaysError, match=r"cut\.flac: (truncated|not readable)"):
        read_audio(path)


@pytest.mark.parametrize("rate", [1, 999, 20_000_000])
def test_a_file_of_an_impossible_rate_is_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    with pytest.raises(PathwaysError, match=rf"a\.wav: sample rate {rate} Hz: it must be from 1,000 to 10,000,000 Hz"):
        read_audio(tmp_path / "a.wav")
