"""A data folder: Lhotse cuts in three splits, 16 kHz mono FLAC, and where it all came from.

    OUT/cuts_{train,dev,test}.jsonl.gz   one supervision a cut, with language and text
    OUT/audio/<language>/*.flac          paths in the manifests are relative to OUT
    OUT/corpus.json                      {"sources": [{"name", "licence", "attribution"}, ...]}

A folder is written whole or not at all, and can be moved: paths are made absolute when it is loaded. Audio of a
published corpus stays outside, in any format and rate, and is named by an absolute path.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.data.audio import SAMPLE_RATE, Samples, write_flac
from asr_pathways.data.left_out import LeftOut
from asr_pathways.errors import PathwaysError, reason_of
from asr_pathways.files import atomic_folder, parse_json, read_json, write_json

if TYPE_CHECKING:
    from lhotse import CutSet

SPLITS = ("train", "dev", "test")
WRITTEN = "written"
"""In the ``custom`` field of a supervision: its text with case, punctuation and digits, where it is known."""
ABOUT = "corpus.json"
"""In a data folder: its sources."""
MAX_CHARACTERS_PER_SECOND = 30.0
SLACK = 0.1
"""Seconds by which a file or a cut may be shorter than its manifest states."""

About = dict[str, Any]


@dataclass(frozen=True)
class SplitSummary:
    """How much speech one language has in one split."""

    language: str
    split: str
    hours: float
    utterances: int
    words: int


class CorpusBuilder:
    """Collects utterances in a folder; made by :func:`build_corpus`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, dict[str, str]] = {split: {} for split in SPLITS}  # id: row, as the line to write
        self._ids: set[str] = set()

    def add(
        self,
        split: str,
        identifier: str,
        language: str,
        text: str,
        samples: NDArray[np.int16] | Samples,
        speaker: str | None = None,
        written: str | None = None,
    ) -> None:
        """Writes one utterance: samples (N,) at 16 kHz, its normalised text and language; see `cut_row`."""
        audio = f"audio/{language}/{_file_name(identifier)}.flac"
        write_flac(self.folder / audio, samples)
        self.add_row(split, cut_row(identifier, audio, len(samples), language, text, speaker, written=written))

    def add_row(self, split: str, row: dict[str, Any]) -> None:
        """Adds one manifest row whose audio is already in the folder, or outside under an absolute path."""
        if row["id"] in self._ids:
            raise PathwaysError(f"two utterances have the same id {row['id']!r}: ids must be unique in a corpus")
        self._ids.add(row["id"])
        self._rows[split][row["id"]] = json.dumps(row, ensure_ascii=False, separators=(",", ":"))

    def finish(self, sources: Sequence[About]) -> None:
        """Writes the manifests, sorted by id, and ``corpus.json``."""
        for split, rows in self._rows.items():
            with (
                _manifest(self.folder, split).open("wb") as file,
                gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
            ):
                packed.writelines(f"{rows[identifier]}\n".encode() for identifier in sorted(rows))
        write_json(self.folder / ABOUT, {"sources": list(sources)})


def is_data_folder(path: Path) -> bool:
    """Whether there is a data folder: one is written whole or not at all."""
    return (path / ABOUT).is_file()


@contextmanager
def build_corpus(out: Path, sources: Sequence[About]) -> Iterator[CorpusBuilder]:
    """Yields a builder for the data folder ``out``, which appears when the block ends without an error.

    Args:
        out: the folder to make; a data folder that exists is replaced.
        sources: for each source a dict with at least ``name``, ``licence`` and ``attribution``.

    Raises:
        PathwaysError: if ``out`` is anything else than a data folder: that is not ours to replace.
    """
    if out.exists() and not (out.is_dir() and (is_data_folder(out) or not any(out.iterdir()))):
        raise PathwaysError(f"{out}: exists and is not a data folder: choose another place")
    with atomic_folder(out) as folder:
        builder = CorpusBuilder(folder)
        yield builder
        builder.finish(sources)


def cut_row(
    identifier: str,
    audio: str,
    samples: int,
    language: str,
    text: str,
    speaker: str | None,
    rate: int = SAMPLE_RATE,
    *,
    written: str | None = None,
    part: tuple[float, float] | None = None,
    channel: int | None = None,
    channels: int = 1,
) -> dict[str, Any]:
    """One Lhotse MonoCut, as the JSON of a manifest, with one supervision.

    Args:
        identifier: of the cut.
        audio: the file.
        samples: how many it has, at ``rate`` Hz.
        language, text, speaker: of the supervision.
        rate: of the file.
        written: the text with case and punctuation (`normalize.written_text`); None: it is not known.
        part: start and duration in seconds of what is spoken in it; None: all.
        channel: of ``channels``, that is read; None: all that the file has, averaged.
    """
    duration = samples / rate
    start, length = part or (0.0, duration)
    place = {"start": 0.0, "duration": length, "channel": 0 if channel is None else channel}
    supervision = {"id": identifier, "recording_id": identifier, **place, "text": text, "language": language}
    ids = [0] if channel is None else list(range(channels))
    if speaker is not None:
        supervision["speaker"] = speaker
    if written is not None:
        supervision["custom"] = {WRITTEN: written}
    return {
        "id": identifier,
        **place,
        "start": start,
        "supervisions": [supervision],
        "recording": {
            "id": identifier,
            "sources": [{"type": "file", "channels": ids, "source": audio}],
            "sampling_rate": rate,
            "num_samples": samples,
            "duration": duration,
            "channel_ids": ids,
        },
        "type": "MonoCut",
    }


def why_unfit(text: str, seconds: float, longest: float) -> str | None:
    """Why an utterance of ``seconds`` is unfit for a corpus; None: it is fit."""
    if not text:
        return "no words"
    if seconds > longest:
        return f"longer than {longest:g} s"
    return "text too long for the sound" if len(text) > MAX_CHARACTERS_PER_SECOND * seconds else None


def load_cuts(
    data: Path, split: str, languages: Sequence[str] | None = None, left_out: LeftOut | None = None
) -> CutSet:
    """The cuts of one split of a data folder, in manifest order, with absolute audio paths.

    Args:
        data: a data folder.
        split: one of :data:`SPLITS`.
        languages: keep only these; None keeps all.
        left_out: collects the lines that are no utterances; None: they are an error.

    Raises:
        PathwaysError: if the folder, the split or a language is missing, or the manifest is broken.
    """
    from lhotse import CutSet

    cuts = []
    available: set[str] = set()
    ids: set[str] = set()
    for number, row in _read_rows(data, split, left_out):
        where = f"{_manifest(data, split)}: line {number}"
        try:
            cut = _cut(data, row, where)
            if cut.id in ids:
                raise PathwaysError(f"{where}: the id {cut.id!r} is that of an earlier line: ids must be unique")
        except PathwaysError as error:
            if left_out is None:
                raise
            left_out.add(where, error)
            continue
        ids.add(cut.id)
        available.add(cut.supervisions[0].language)
        if languages is None or cut.supervisions[0].language in languages:
            cuts.append(cut)
    for language in languages or ():
        if language not in available:
            content = ", ".join(sorted(available)) or "nothing"
            raise PathwaysError(f"{data}: no {language!r} in split {split!r}: it holds {content}")
    return CutSet.from_cuts(cuts)


def _cut(data: Path, row: dict[str, Any], where: str) -> Any:
    from lhotse import MonoCut, MultiCut

    for source in row["recording"]["sources"]:
        source["source"] = str(data.absolute() / source["source"])
    try:
        kind = MultiCut if row.get("type") == "MultiCut" else MonoCut
        cut = kind.from_dict({key: value for key, value in row.items() if key != "type"})
    except (KeyError, TypeError, AttributeError, ValueError, AssertionError):
        raise PathwaysError(f"{where}: not a Lhotse cut") from None
    if changes := [type(one).__name__ for one in cut.recording.transforms or () if type(one).__name__ != "Resample"]:
        raise PathwaysError(
            f"{where}: cut {cut.id!r} is changed as Lhotse reads it ({', '.join(changes)}), and its file is read as it "
            "is: write the audio first (`cuts.save_audios`)"
        )
    if len(cut.supervisions) != 1:
        raise PathwaysError(f"{where}: cut {cut.id!r} has {len(cut.supervisions)} supervisions: it needs one")
    if not cut.supervisions[0].language or not cut.supervisions[0].text:
        raise PathwaysError(f"{where}: cut {cut.id!r} has no language or no text")
    spoken = cut.supervisions[0]
    part = spoken_part(spoken.start, spoken.duration, cut.duration)
    if part is None:
        raise PathwaysError(f"{where}: cut {cut.id!r} is only a part of what its text is of")
    return cut if part == (0.0, cut.duration) else cut.truncate(offset=part[0], duration=part[1], preserve_id=True)


def spoken_part(start: float, duration: float, whole: float) -> tuple[float, float] | None:
    """Start and duration in seconds of what a supervision is of, in a cut that is ``whole`` seconds long.

    A supervision that is within `SLACK` of the whole is of the whole; None: one that goes beyond it.
    """
    end = start + duration
    if start < -SLACK or end > whole + SLACK or duration <= 0:
        return None
    if start <= SLACK and end >= whole - SLACK:
        return 0.0, whole
    start = max(0.0, start)
    return start, min(end, whole) - start


def languages_of(cuts: Iterable[Any]) -> list[str]:
    """The languages of some cuts, sorted."""
    return sorted({cut.supervisions[0].language for cut in cuts})


def texts_of(cuts: Iterable[Any]) -> dict[str, list[str]]:
    """{language: the texts of some cuts, in their order}."""
    texts: dict[str, list[str]] = {}
    for cut in cuts:
        texts.setdefault(cut.supervisions[0].language, []).append(str(cut.supervisions[0].text))
    return texts


def summarize(data: Path) -> list[SplitSummary]:
    """Hours, utterances and words per language and split of a data folder.

    Raises:
        PathwaysError: as :func:`load_cuts` does.
    """
    totals: dict[tuple[str, str], list[float]] = {}
    for split in SPLITS:
        for _, row in _read_rows(data, split):
            supervision = row["supervisions"][0]
            total = totals.setdefault((supervision["language"], split), [0.0, 0, 0])
            total[0] += min(row["duration"], supervision.get("duration", math.inf)) / 3600
            total[1] += 1
            total[2] += len(supervision["text"].split())
    keys = sorted(totals, key=lambda key: (key[0], SPLITS.index(key[1])))
    return [SplitSummary(*key, totals[key][0], int(totals[key][1]), int(totals[key][2])) for key in keys]


def spoken_rows(data: Path, split: str) -> Iterator[tuple[str, str, str | None, float]]:
    """Language, text, speaker (if known) and seconds of each utterance of a split.

    Raises:
        PathwaysError: as :func:`load_cuts` does.
    """
    for _, row in _read_rows(data, split):
        spoken = row["supervisions"][0]
        yield spoken["language"], spoken["text"], spoken.get("speaker"), float(row["duration"])


def sources_of(data: Path) -> list[About]:
    """The sources of a data folder: name, licence and attribution of each."""
    _check_folder(data)
    about = read_json(data / ABOUT)
    if not isinstance(about, dict) or not isinstance(about.get("sources"), list):
        raise PathwaysError(f"{data / ABOUT}: no list of sources in it: not the file of a data folder")
    sources: list[About] = about["sources"]
    return sources


def merge(inputs: Sequence[Path], out: Path) -> None:
    """Joins data folders into one that needs none of them (audio is hard-linked where that works, else copied).

    Audio that an input refers to by an absolute path stays where it is. Splits stay as they are. Where two folders
    share an utterance id, the ids of the later folder get its name as a prefix.

    Raises:
        PathwaysError: if an input is not a data folder, or the output cannot be written.
    """
    used: set[str] = set()
    sources: list[About] = []
    for folder in inputs:
        sources += [source for source in sources_of(folder) if source not in sources]
    with build_corpus(out, sources) as builder:
        for folder in inputs:
            rows = [(split, row) for split in SPLITS for _, row in _read_rows(folder, split)]
            prefix = _free_prefix(folder.resolve().name, [row["id"] for _, row in rows], used)
            for split, row in rows:
                identifier = prefix + row["id"]
                used.add(identifier)
                builder.add_row(split, _linked(builder.folder, folder, row, identifier))


def resplit(data: Path, out: Path, split: Callable[[str, str], str]) -> None:
    """Writes a data folder of the same utterances in other splits (audio is hard-linked where that works).

    Args:
        data: a data folder.
        out: the one to make.
        split: from language and text of an utterance to its split.

    Raises:
        PathwaysError: if ``data`` is not a data folder, or the output cannot be written.
    """
    with build_corpus(out, sources_of(data)) as builder:
        for old in SPLITS:
            for _, row in _read_rows(data, old):
                supervision = row["supervisions"][0]
                row = _linked(builder.folder, data, row, row["id"])
                builder.add_row(split(supervision["language"], supervision["text"]), row)


def _linked(out: Path, data: Path, row: dict[str, Any], identifier: str) -> dict[str, Any]:
    """A row of the folder ``data`` by another id, for the folder ``out``, with the audio that is inside the first."""
    spoken, *others = row["supervisions"]
    audios = []
    for number, source in enumerate(row["recording"]["sources"]):
        audio = source["source"]
        if not Path(audio).is_absolute():
            name = _file_name(identifier if number == 0 else f"{identifier}-{number}")
            audio = f"audio/{spoken['language']}/{name}.flac"
            _link(data / source["source"], out / audio)
        audios.append({**source, "source": audio})
    spoken = {**spoken, "id": identifier, "recording_id": identifier}
    recording = {**row["recording"], "id": identifier, "sources": audios}
    return row | {"id": identifier, "supervisions": [spoken, *others], "recording": recording}


def _free_prefix(name: str, identifiers: Sequence[str], used: set[str]) -> str:
    """The first of "", ``name-``, ``name-2-``, ... with which no identifier is used already."""
    candidates = chain(("", f"{name}-"), (f"{name}-{number}-" for number in count(2)))
    return next(prefix for prefix in candidates if used.isdisjoint(prefix + one for one in identifiers))


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise PathwaysError(f"{source}: audio named in the manifest is missing: prepare the folder again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _file_name(identifier: str) -> str:
    """A file name for an id: the id itself where it is safe, else made safe and unique by a checksum."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in identifier)
    if safe == identifier and len(safe) <= 150 and not safe.startswith("."):
        return safe
    return f"{safe.lstrip('.')[:150]}-{zlib.crc32(identifier.encode()):08x}"


def _manifest(data: Path, split: str) -> Path:
    return data / f"cuts_{split}.jsonl.gz"


def _read_rows(data: Path, split: str, left_out: LeftOut | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    if split not in SPLITS:
        raise PathwaysError(f"unknown split {split!r}: choose among {', '.join(SPLITS)}")
    path = _manifest(data, split)
    _check_folder(data)
    if not path.is_file():
        raise PathwaysError(f"{data}: not a data folder: it has no {path.name}")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = parse_line(line)
                if _well_formed(row):
                    yield number, row
                    continue
                where = f"{path}: line {number}"
                error = PathwaysError(f"{where}: not a cut with language, text and audio")
                if left_out is None:
                    raise error
                left_out.add(where, error)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        broken = f"broken after line {max(number - 1, 0)}: {reason_of(error)}"
        raise PathwaysError(f"{path}: {broken}: prepare it again") from None


def parse_line(line: str) -> Any:
    """The JSON value in a line, or the line itself where it is not JSON."""
    try:
        return parse_json(line)
    except ValueError:
        return line


def _check_folder(data: Path) -> None:
    if data.is_file():
        raise PathwaysError(
            f"{data}: a file, not a data folder: `asr-pathways data manifest DIR {data}` makes one of rows"
        )
    if not data.is_dir():
        raise PathwaysError(f"{data}: no such data folder: make one with `asr-pathways data`")


def _well_formed(row: Any) -> bool:
    try:
        supervision = row["supervisions"][0]
        return (
            isinstance(row["id"], str)
            and 0 < float(row["duration"]) < math.inf
            and 0 <= float(row.get("start", 0)) < math.inf
            and isinstance(supervision["language"], str)
            and isinstance(supervision["text"], str)
            and isinstance(row["recording"]["sources"][0]["source"], str)
            and row["recording"]["num_samples"] > 0
            and row["recording"]["sampling_rate"] > 0
        )
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        return False
