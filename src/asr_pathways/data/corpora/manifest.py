"""A user's own recordings, from a manifest: JSON lines (as NeMo writes them) or TSV with a header.

Each row has an audio file, its text and its language::

    {"audio_filepath": "a/1.wav", "text": "Hello there!", "lang": "en", "duration": 1.5, "offset": 0.0}

``lang`` is the code of a language in any form (``fr``, ``fra``, ``fr-FR``): the data folder has the shortest.
``duration`` and ``offset`` (seconds), ``channel`` (from 0; else all are averaged), ``split`` (train, dev or test) and
``speaker`` are optional; paths are relative to the manifest. Without ``split`` a row's split is by the hash of its
audio path, 80/10/10. Other names are ignored, but for those by which other manifests name a part of a file.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, read_audio
from asr_pathways.data.corpus import MAX_CHARACTERS_PER_SECOND, SPLITS, CorpusBuilder, build_corpus, parse_line
from asr_pathways.data.languages import check_language, check_script
from asr_pathways.data.normalize import normalize, written_text
from asr_pathways.data.progress import track
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_text

REQUIRED = ("audio_filepath", "text", "lang")
_PARTS = ("start", "end", "begin", "start_time", "end_time")
MAX_SECONDS = 40.0
LISTED = 10  # bad rows that are looked for, however few are allowed
FAINTEST = 2.0**-16  # samples below it are zeros in 16 bits
LONGEST_FILE = 1e7  # seconds: no offset or duration reaches so far


@dataclass(frozen=True)
class BadRow:
    """A row that was left out: its line number, from 1, and what is wrong with it."""

    line: int
    reason: str


def prepare_manifest(out: Path, manifest: Path, max_bad: float = 0.01) -> list[BadRow]:
    """Makes a data folder from a manifest; the audio is converted to 16 kHz mono FLAC.

    Args:
        out: the data folder to make.
        manifest: a ``.tsv`` file, or JSON lines under any other name.
        max_bad: the share of bad rows up to which they are left out; with more it is an error.

    Returns:
        The rows left out.

    Raises:
        PathwaysError: if the manifest cannot be read or is empty, or too many of its rows are bad.
    """
    rows = _read_tsv(manifest) if manifest.suffix.lower() == ".tsv" else _read_lines(manifest)
    if not rows:
        raise PathwaysError(f"{manifest}: no rows in it")
    bad: list[BadRow] = []
    about = {"name": manifest.name, "licence": "the user's own", "attribution": f"from {manifest.name}"}
    with build_corpus(out, [about]) as corpus:
        for line, raw in track(rows, manifest.name):
            try:
                _add(corpus, raw, line, manifest.parent)
            except PathwaysError as error:
                bad.append(BadRow(line, " ".join(str(error).split())))
                if len(bad) > max(LISTED, max_bad * len(rows)):  # else one is named, mended, and then the next
                    raise PathwaysError(_complaint(manifest, bad, len(rows), max_bad)) from None
        if len(bad) > max_bad * len(rows) or len(bad) == len(rows):
            raise PathwaysError(_complaint(manifest, bad, len(rows), max_bad))
    return bad


def _complaint(manifest: Path, bad: list[BadRow], total: int, max_bad: float) -> str:
    first: dict[str, int] = {}  # the first line of each reason
    for row in bad:
        first.setdefault(row.reason, row.line)
    named = [f"line {line}: {reason}" for reason, line in first.items()][:3]
    shown = "; ".join(named)
    more = "" if len(bad) == len(named) else f"; and {len(bad) - len(named)} more"
    hint = "" if len(bad) == total else ": mend them, or leave them out (data manifest --max-bad)"
    return f"{manifest}: more than {max_bad:.1%} of its {total} rows are bad: {shown}{more}{hint}"


def _read_lines(path: Path) -> list[tuple[int, Any]]:
    """(line number, parsed object, or the text of a line that does not parse) of each line that is not blank."""
    lines = enumerate(read_text(path, "manifest").split("\n"), 1)
    return [(number, parse_line(line)) for number, line in lines if line.strip()]


def _read_tsv(path: Path) -> list[tuple[int, Any]]:
    first, *lines = read_text(path, "manifest").split("\n")
    header = first.split("\t")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise PathwaysError(f"{path}: its header has no column {', '.join(missing)}")
    if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise PathwaysError(f"{path}: its header has more than one column {', '.join(twice)}")
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        if len(fields) == len(header):
            rows.append((number, {name: value for name, value in zip(header, fields, strict=True) if value != ""}))
        elif line:
            rows.append((number, line))
    return rows


def _add(corpus: CorpusBuilder, raw: Any, line: int, folder: Path) -> None:
    """Adds a row and its audio; raises PathwaysError with what is wrong."""
    if not isinstance(raw, Mapping):
        raise PathwaysError("not a JSON object; in a table, which is named .tsv: not as many columns as its header")
    for name in REQUIRED:
        if not isinstance(raw.get(name), str):
            raise PathwaysError(f"no {name!r}" if raw.get(name) is None else f"{name!r} is not text")
    if part := next((name for name in _PARTS if raw.get(name) is not None and "offset" not in raw), None):
        raise PathwaysError(f"{part!r} is not read: 'offset' and 'duration' in seconds say what part of a file it is")
    language = check_language(raw["lang"])
    text = normalize(raw["text"], language)
    if not text:
        raise PathwaysError("no words in its text")
    check_script(text, language)
    split = raw.get("split") or split_of(normpath(raw["audio_filepath"]))
    if split not in SPLITS:
        raise PathwaysError(f"unknown split {split!r}: choose among {', '.join(SPLITS)}")
    offset = _seconds(raw, "offset") or 0.0
    duration = _seconds(raw, "duration")
    path = folder / raw["audio_filepath"]
    samples = read_audio(path, offset, min(duration or math.inf, MAX_SECONDS + 1), _channel(raw))  # it may be of hours
    if 0 < (peak := float(np.abs(samples).max())) < FAINTEST:
        raise PathwaysError(
            f"{path}: samples reach {peak:g} where full scale is 1: nothing of it would be left in 16 bits"
        )
    seconds = len(samples) / SAMPLE_RATE
    if seconds > MAX_SECONDS:
        raise PathwaysError(f"{path}: longer than {MAX_SECONDS:g} s: cut it into utterances")
    if duration is not None and seconds < duration - 0.1:
        raise PathwaysError(f"{path}: {seconds:.2f} s of audio where the row states {duration:g} s")
    if len(text) > MAX_CHARACTERS_PER_SECOND * seconds:
        raise PathwaysError(f"{path}: {len(text)} letters in {seconds:.2f} s: the text cannot be spoken in it")
    speaker = raw.get("speaker")
    identifier = f"{line:06d}-{path.stem}"
    if speaker is not None:
        speaker = str(speaker).encode("utf-8", "replace").decode()  # JSON can hold half characters
    corpus.add(split, identifier, language, text, samples, speaker, written_text(raw["text"], language))


def _channel(raw: Mapping[str, Any]) -> int | None:
    value = raw.get("channel")
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4}", str(value)):
        raise PathwaysError(f"'channel' is not the number of one, counted from 0: {value!r}")
    return int(value)


def _seconds(raw: Mapping[str, Any], name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise PathwaysError(f"{name!r} is not a number of seconds: {value!r:.100}") from None
    if not math.isfinite(seconds) or not 0 <= seconds < LONGEST_FILE or (name == "duration" and seconds == 0):
        raise PathwaysError(f"{name!r} cannot be {seconds:g} s")
    return seconds
