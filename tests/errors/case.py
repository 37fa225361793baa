"""One row of the table, and the ways in which its files are made bad."""

from __future__ import annotations

import gzip
import json
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000  # Hz

Make = Callable[[Path], object]


def nothing(here: Path) -> None:
    """All that the command needs is there, or it is that something is not there."""


@dataclass(frozen=True)
class Case:
    """A command, what is bad about its input, and what it says.

    Attributes:
        about: what is bad.
        command: the words after ``asr-pathways``, in a folder with ``dense`` and ``sparse`` (model folders),
            ``sparse.asrp`` (a bundle), ``data`` (a data folder), ``hello.wav`` and ``recipe.yaml``.
        says: the line on stderr, for a command that goes on one of its lines; ``...`` stands for anything.
        make: makes the bad input in that folder.
        status: the exit status.
        leaves: the one file or folder that may be new afterwards.
    """

    about: str
    command: str
    says: str
    make: Make = nothing
    status: int = 1
    leaves: str | None = None


def prune(more: str = "", *, method: str = "dynamic", sparsity: str = "0.5", model: str = "dense") -> str:
    """The command that most cases about training give."""
    config = "" if "--config" in more else " --config recipe.yaml"
    return f"prune {model} --data data --method {method} --sparsity {sparsity} --out run{config} {more}".strip()


def own(here: Path, name: str) -> Path:
    """A copy, to be changed, of what is only linked to."""
    path = here / name
    source = path.resolve()
    path.unlink()
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    return path


def folder(name: str) -> Make:
    return lambda here: (here / name).mkdir()


def text(name: str, content: str) -> Make:
    def make(here: Path) -> None:
        (here / name).unlink(missing_ok=True)  # it may be a link
        (here / name).write_text(content)

    return make


def content(name: str, data: bytes) -> Make:
    return lambda here: (here / name).write_bytes(data)


def sound(name: str, seconds: float, rate: int = RATE, value: float = 0.0, channels: int = 1) -> Make:
    """A file in which every sample is ``value``."""

    def make(here: Path) -> None:
        subtype = "FLOAT" if name.endswith(".wav") else "PCM_16"
        with soundfile.SoundFile(str(here / name), "w", rate, channels, subtype) as file:
            for _ in range(max(1, round(seconds))):
                file.write(np.full((round(min(seconds, 1.0) * rate), channels), value, dtype=np.float32))

    return make


def header_only(name: str) -> Make:
    def make(here: Path) -> None:
        with wave.open(str(here / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)

    return make


def halved(name: str) -> Make:
    def make(here: Path) -> None:
        path = here / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def doubled(name: str) -> Make:
    """A file and itself once more."""
    return lambda here: (here / name).write_bytes(2 * (here / name).read_bytes())


def opposite(name: str) -> Make:
    """Noise in one channel, and its negative in the other."""
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    return lambda here: soundfile.write(here / name, np.stack([noise, -noise], axis=1), RATE)


def cut(folder: str, file: str, share: float = 0.5) -> Make:
    """The first part of a file in a folder (or, where that is empty, of a file) that is ours for the purpose."""

    def make(here: Path) -> None:
        path = own(here, folder) / file if file else own(here, folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: round(share * len(whole))])

    return make


def replaced(folder: str, file: str, data: bytes) -> Make:
    return lambda here: (own(here, folder) / file).write_bytes(data)


def no_audio(language: str, split: str) -> Make:
    def make(here: Path) -> None:
        for path in (own(here, "data") / "audio" / language).glob(f"*-{split}-*"):
            path.unlink()

    return make


def removed(folder: str, file: str) -> Make:
    return lambda here: (own(here, folder) / file).unlink()


def shard(cuts: bytes, archive: bytes | None = None) -> Make:
    """A folder ``shards`` with one shard of a Lhotse Shar; ``cuts`` is compressed if it is empty."""

    def make(here: Path) -> None:
        folder = here / "shards" / "dev"
        folder.mkdir(parents=True)
        (folder / "cuts.000000.jsonl.gz").write_bytes(cuts or gzip.compress(cuts))
        if archive is not None:
            (folder / "recording.000000.tar").write_bytes(archive)

    return make


def changed_json(folder: str, file: str, **values: Any) -> Make:
    """A JSON file in a folder with other values at its top."""

    def make(here: Path) -> None:
        path = own(here, folder) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return make


def changed_rows(split: str, change: Callable[[list[dict[str, Any]]], list[Any]]) -> Make:
    """The manifest of a split of ``data`` with its rows changed; a row that is text stays as it is."""

    def make(here: Path) -> None:
        path = own(here, "data") / f"cuts_{split}.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        lines = [row if isinstance(row, str) else json.dumps(row) for row in change(rows)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))

    return make


def manifest(*rows: dict[str, Any] | str, good: bool = False) -> Make:
    """``rows.jsonl``; rows are about ``hello.wav`` in English unless they say something else."""

    def make(here: Path) -> None:
        base = {"audio_filepath": "hello.wav", "text": "hello", "lang": "en"}
        full = [row if isinstance(row, str) else json.dumps(base | row) for row in rows]
        (here / "rows.jsonl").write_text("\n".join([*full, *([json.dumps(base)] if good else [])]))

    return make


def several(*makes: Make) -> Make:
    def make(here: Path) -> None:
        for one in makes:
            one(here)

    return make
