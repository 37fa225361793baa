"""Audio of any format, rate and channel count that libsndfile reads, as 16 kHz mono float32."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.data.containers import (
    before_last_page,
    container,
    ogg_links,
    promised_bytes,
    sphere_samples,
    unreadable,
)
from asr_pathways.data.mpeg import count_frames, with_info
from asr_pathways.errors import PathwaysError

SAMPLE_RATE = 16_000  # Hz
RATES = (1_000, 10_000_000)  # Hz; what a file or a caller states beyond them is a mistake

Samples = NDArray[np.float32]

LOUDEST = 10.0
"""Float samples may exceed full scale, 1, by 20 dB: what exceeds that has another scale."""

_CANCELLED = 1e-2  # 20 dB below the loudest channel: an average that is all but silent
_UNKNOWN = 1 << 52  # samples: what libsndfile says of a stream without a length is more
_CONVERT = "convert it, such as by `ffmpeg -i IN OUT.flac`"

_PLACE = re.compile(r"(.+\.tar)#(\d+)\+(\d+)")


def place_in(archive: Path, start: int, size: int) -> str:
    """A path that `read_audio` reads: the ``size`` bytes from byte ``start`` of an uncompressed tar archive."""
    return f"{archive}#{start}+{size}"


def read_audio(path: Path, offset: float = 0.0, duration: float | None = None, channel: int | None = None) -> Samples:
    """Samples (N,) of ``path`` at 16 kHz, in [-1, 1] or a little louder.

    Args:
        path: anything that libsndfile reads (wav, flac, ogg, opus, mp3, gsm, ...), or a place in an archive of such
            files (see `place_in`). MP3 without a header of its length, and Ogg streams one after another, are read to
            their end.
        offset: where to start, in seconds.
        duration: how much to read, in seconds; None reads to the end.
        channel: which to read, from 0; None averages them.

    Raises:
        PathwaysError: if the file is missing, is not audio, is damaged or holds less than its header says, holds no
            samples (or none in the part asked for) or not that channel, if values are not finite or not scaled to
            [-1, 1], or if channels are in opposite phase, so that their average is silence.
    """
    path = Path(path)
    parts: list[Samples] = []
    with ExitStack() as stack, _readable(path):
        sounds = _open(path, stack)
        before = 0.0  # seconds
        for number, sound in enumerate(sounds, 1):
            rate, frames = sound.samplerate, sound.frames
            start = max(0, round((offset - before) * rate))
            wanted = frames - start
            if duration is not None:
                wanted = min(wanted, round((offset - before) * rate) + round(duration * rate) - start)
            before += frames / rate
            if start >= frames > 0 and number == len(sounds) and not parts:
                raise PathwaysError(f"{path}: offset {offset:g} s is beyond its end at {before:g} s")
            if wanted > 0:
                if start + wanted == frames:
                    _require_one_file(path, sound)
                parts.append(resample(to_mono(_samples(path, sound, start, wanted), channel, path), rate))
    if not parts:
        raise PathwaysError(f"{path}: no audio in it")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def audio_length(path: Path) -> tuple[int, int]:
    """The rate (Hz) of an audio file, and how many samples a channel has at that rate.

    The whole of an MP3 or Ogg file is gone through, but nothing is decoded.

    Raises:
        PathwaysError: if the file is missing, is not audio, or holds less than its header says.
    """
    path = Path(path)
    with ExitStack() as stack, _readable(path):
        sounds = _open(path, stack)
        rate = int(sounds[0].samplerate)
        return rate, sum(round(sound.frames * rate / sound.samplerate) for sound in sounds)


class Truncated(PathwaysError):
    """A file that holds less than its header says."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        head = _head(path)
        if head[:4] == b"OggS" and not ogg_links(_bytes(path))[1]:
            raise Truncated(f"{path}: truncated audio: its last page is missing") from None
        kind = unreadable(head)
        if kind is not None:
            raise PathwaysError(f"{path}: {kind} is not read: {_CONVERT}") from None
        reason = str(error).rstrip(".")
        if "does not exist" in reason:  # what libsndfile says of a file named .mp3 that is none
            reason = "Format not recognised"
        elif any(
            part in reason for part in ("unsupported encoding", "unimplemented", "Malformed 'fmt '", "unknown error")
        ):
            reason += f": {_CONVERT}"
        raise PathwaysError(f"{path}: not readable as audio: {reason}") from None
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read audio: {error.strerror}") from None


def _open(path: Path, stack: ExitStack) -> list[Any]:
    """The file as `soundfile.SoundFile` of true length: several where streams were joined."""
    import soundfile

    def opened(file: str | bytes | io.BytesIO) -> Any:
        return stack.enter_context(soundfile.SoundFile(file))

    file = _file(path)
    if path.suffix.lower() == ".raw" and not container(head := _head(path)) and head[:4] != b"RIFF":
        raise PathwaysError(
            f"{path}: no header says its rate and format: "
            "convert it, such as by `ffmpeg -f s16le -ar 16000 -ac 1 -i IN.raw OUT.wav`"
        )
    sound = opened(io.BytesIO(path.read_bytes()) if path.suffix.lower() == ".raw" else file)
    if (lengths := promised_bytes(sound.extra_info)) is not None:
        promised, there = lengths
        raise Truncated(f"{path}: truncated audio: {there} bytes of the {promised} that its header says")
    if sound.format == "NIST":
        promised_samples = sphere_samples(_head(path))
        if promised_samples is not None and sound.frames < promised_samples:
            raise Truncated(
                f"{path}: truncated audio: {sound.frames} samples of the {promised_samples} that its header says"
            )
    check_rate(sound.samplerate, f"{path}: ")
    if sound.frames > _UNKNOWN:
        raise PathwaysError(f"{path}: its header does not say how long it is: {_CONVERT}")
    if sound.format == "MP3" or sound.subtype == "MPEG_LAYER_III":
        data = _bytes(path)
        stream = count_frames(data)
        if stream is None:
            return [sound]
        if not stream.uniform:
            raise PathwaysError(f"{path}: its rate or channels change within: {_CONVERT}")
        seconds = stream.samples / stream.rate
        if stream.promised is not None and stream.frames < stream.promised - 1:
            length, whole = stream.frames * seconds, stream.promised * seconds
            raise Truncated(f"{path}: truncated audio: {length:.2f} s of the {whole:.2f} s that its header says")
        if stream.layer == 3 and (
            sound.format != "MP3" or stream.promised is None or stream.frames > stream.promised + 1
        ):
            return [opened(io.BytesIO(with_info(data, stream)))]
    if sound.format == "OGG":
        links, complete = ogg_links(_bytes(path))
        if not complete:
            raise Truncated(f"{path}: truncated audio: its last page is missing")
        if len(links) > 1:
            return [opened(io.BytesIO(link)) for link in links]
    return [sound]


def _samples(path: Path, sound: Any, start: int, wanted: int) -> Samples:
    """(wanted, channels) from ``start`` on."""
    lead = start  # what cannot seek is read from its beginning
    if start and sound.seekable():
        lead = 0
        if sound.format == "MP3":
            lead = min(start, sound.samplerate)  # its frames build on those before
        elif sound.subtype == "VORBIS":
            data = sound.name.getvalue() if isinstance(sound.name, io.BytesIO) else _bytes(path)
            lead = max(0, start - max(0, before_last_page(data) - 1))
        sound.seek(start - lead)
    samples: Samples = sound.read(lead + wanted, dtype="float32", always_2d=True)
    if sound.format == "MP3" and sound.subtype != "MPEG_LAYER_III":
        wanted -= 2 * 1152  # a guess of the decoder's, from the first frame's bitrate
    if len(samples) < lead + wanted:
        rate = sound.samplerate
        there = max(0, len(samples) - lead) / rate
        raise Truncated(f"{path}: truncated audio: {there:.2f} s of {wanted / rate:.2f} s could be read")
    return samples[lead:]


def to_mono(samples: Samples, channel: int | None, path: Path | str) -> Samples:
    """(N,) of samples (N, channels): one of them, from 0, or their average.

    Raises:
        PathwaysError: as `read_audio` does; ``path`` begins its message.
    """
    if not np.isfinite(samples).all():
        raise PathwaysError(f"{path}: audio holds values that are not finite")
    require_scale(samples, f"{path}: ")
    channels = samples.shape[1]
    if channel is not None:
        if not 0 <= channel < channels:
            raise PathwaysError(f"{path}: no channel {channel}: it has {channels}, counted from 0")
        return np.ascontiguousarray(samples[:, channel])
    mixed: Samples = samples.mean(axis=1, dtype=np.float32)
    if channels > 1:
        loudest = float(np.square(samples, dtype=np.float64).mean(axis=0).max())
        if np.square(mixed, dtype=np.float64).mean() < _CANCELLED * loudest:
            raise PathwaysError(f"{path}: its channels cancel each other when they are averaged: choose one (channel)")
    return mixed


def require_samples(samples: NDArray[Any], where: str = "") -> None:
    """Raises PathwaysError for what is no float32 vector of finite values; ``where`` begins its message."""
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise PathwaysError(
            f"{where}samples must be a float32 vector in [-1, 1], not {samples.dtype} of shape {samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise PathwaysError(f"{where}samples have values that are not finite")


def require_scale(samples: Samples, where: str = "") -> None:
    """Raises PathwaysError if float samples are in the range of integers; ``where`` begins its message."""
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak > LOUDEST:
        raise PathwaysError(f"{where}samples reach {peak:g} where full scale is 1: divide those of 16 bits by 32768")


def _require_one_file(path: Path, sound: Any) -> None:
    """Raises PathwaysError if another file follows in the same: libsndfile reads the first."""
    if sound.format in ("FLAC", "AU", "RF64", "W64", "CAF", "NIST"):
        data = _bytes(path)
        if (second := data.find(data[:8], 8)) >= 0:
            raise PathwaysError(f"{path}: another file begins at its byte {second}: they must be apart")


def _file(path: Path) -> str | bytes | io.BytesIO:
    """A path or stream for soundfile; raises PathwaysError if there is no such file, or it is empty."""
    _, _, size = stored_at(path)
    if size is not None:
        return io.BytesIO(_bytes(path))
    return os.fsencode(path) if re.search("[\udc80-\udcff]", str(path)) else str(path)  # not UTF-8: bytes


def stored_at(path: Path) -> tuple[Path, int, int | None]:
    """The file, the first byte in it and their number, None: all; of a path of audio, or a place (see `place_in`).

    Raises:
        PathwaysError: if the file is missing or empty.
    """
    try:
        place = None if path.exists() else _PLACE.fullmatch(str(path))
        file = path if place is None else Path(place[1])
        if not file.is_file():
            raise PathwaysError(f"{file}: {'a folder, not an' if file.is_dir() else 'no such'} audio file")
        if file.stat().st_size == 0:
            raise PathwaysError(f"{file}: empty file, no audio in it")
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read audio: {error.strerror}") from None
    return (path, 0, None) if place is None else (file, int(place[2]), int(place[3]))


def _bytes(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file or place, or the first of them."""
    file, start, size = stored_at(path) if _PLACE.fullmatch(str(path)) else (path, 0, None)
    with file.open("rb") as stream:
        stream.seek(start)
        data = stream.read(-1 if size is None else size) if most is None else stream.read(min(most, size or most))
    if most is None and size is not None and len(data) < size:
        raise PathwaysError(f"{path}: the archive ends before it")
    return data


def _head(path: Path) -> bytes:
    return _bytes(path, 1024)


def check_rate(rate: object, where: str = "") -> None:
    """Raises PathwaysError for what is no sample rate in Hz (not a number, or outside `RATES`); ``where`` begins it."""
    lowest, highest = RATES
    if isinstance(rate, bool) or not isinstance(rate, Real) or rate < lowest or not rate <= highest:
        raise PathwaysError(f"{where}sample rate {rate!s:.40} Hz: it must be from {lowest:,} to {highest:,} Hz")


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
