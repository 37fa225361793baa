"""Audio of any format, rate and channel count that libsndfile reads, as 16 kHz mono float32."""

from __future__ import annotations

import io
import os
import re
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError

SAMPLE_RATE = 16_000  # Hz
RATES = (1_000, 10_000_000)  # Hz; what a file or a caller states beyond them is a mistake

Samples = NDArray[np.float32]

_PLACE = re.compile(r"(.+\.tar)#(\d+)\+(\d+)")


def place_in(archive: Path, start: int, size: int) -> str:
    """A path that `read_audio` reads: the ``size`` bytes from byte ``start`` of an uncompressed tar archive."""
    return f"{archive}#{start}+{size}"


def read_audio(path: Path, offset: float = 0.0, duration: float | None = None) -> Samples:
    """Samples (N,) of ``path`` at 16 kHz, channels averaged, in [-1, 1].

    Args:
        path: anything that libsndfile reads (wav, flac, ogg, opus, mp3, gsm, ...), or a place in an archive of such
            files (see `place_in`).
        offset: where to start, in seconds.
        duration: how much to read, in seconds; None reads to the end.

    Raises:
        PathwaysError: if the file is missing, is not audio, is damaged or truncated, holds no samples (or
            none in the part asked for), or holds values that are not finite.
    """
    import soundfile

    path = Path(path)
    try:
        with soundfile.SoundFile(_opened(path)) as sound:
            rate = sound.samplerate
            start = round(offset * rate)
            wanted = -1 if duration is None else round(duration * rate)
            if start >= sound.frames > 0:
                raise PathwaysError(f"{path}: offset {offset:g} s is beyond its end at {sound.frames / rate:g} s")
            sound.seek(start)
            expected = sound.frames - start if wanted < 0 else min(wanted, sound.frames - start)
            samples = sound.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise PathwaysError(f"{path}: not readable as audio: {error}".rstrip(".")) from None
    if len(samples) == 0:
        raise PathwaysError(f"{path}: no audio in it")
    if len(samples) < expected:
        raise PathwaysError(
            f"{path}: truncated audio: {len(samples) / rate:.2f} s of {expected / rate:.2f} s could be read"
        )
    if not np.isfinite(samples).all():
        raise PathwaysError(f"{path}: audio holds values that are not finite")
    try:
        return resample(samples.mean(axis=1, dtype=np.float32), rate)
    except PathwaysError as error:
        raise PathwaysError(f"{path}: {error}") from None


def _opened(path: Path) -> Any:
    """A path or stream for soundfile; raises PathwaysError if there is no such file, or it is empty."""
    try:
        place = None if path.exists() else _PLACE.fullmatch(str(path))
        file = path if place is None else Path(place[1])
        if not file.is_file():
            raise PathwaysError(f"{file}: no such audio file")
        if file.stat().st_size == 0:
            raise PathwaysError(f"{file}: empty file, no audio in it")
        if place is None:
            return os.fsencode(path) if re.search("[\udc80-\udcff]", str(path)) else str(path)  # not UTF-8: bytes
        start, size = int(place[2]), int(place[3])
        with file.open("rb") as archive:
            archive.seek(start)
            data = archive.read(size)
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read audio: {error.strerror}") from None
    if len(data) < size:
        raise PathwaysError(f"{path}: the archive ends before it")
    return io.BytesIO(data)


def check_rate(rate: object) -> None:
    """Raises PathwaysError for what is no sample rate in Hz: not a number, or outside `RATES`."""
    lowest, highest = RATES
    if isinstance(rate, bool) or not isinstance(rate, Real) or not lowest <= float(rate) <= highest:
        raise PathwaysError(f"sample rate {rate} Hz: it must be from {lowest:,} to {highest:,} Hz")


def resample(samples: Samples, rate: float, target: float = SAMPLE_RATE) -> Samples:
    """Samples (N,) at ``rate`` Hz resampled to ``target`` Hz (soxr, high quality).

    Raises:
        PathwaysError: for a rate that is none.
    """
    check_rate(rate)
    if rate == target:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, target))


def write_flac(path: Path, samples: NDArray[np.int16] | Samples) -> None:
    """Writes samples (N,), int16 or float32 in [-1, 1] (clipped), as 16-bit 16 kHz mono FLAC."""
    import soundfile

    # Coded in memory: soundfile waits for the disk at each file that it closes, a third of the time in all.
    data = io.BytesIO()
    soundfile.write(data, to_int16(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getbuffer())


def to_int16(samples: NDArray[np.int16] | Samples) -> NDArray[np.int16]:
    """Samples (N,) as 16-bit integers; float samples in [-1, 1] are scaled, rounded and clipped."""
    if samples.dtype == np.int16:
        return np.asarray(samples, dtype=np.int16)
    return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype=np.int16)
