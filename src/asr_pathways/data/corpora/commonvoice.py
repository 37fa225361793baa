"""Mozilla Common Voice: sentences read by volunteers, MP3 at 32 or 48 kHz.

The text has case and punctuation: it goes through :func:`asr_pathways.data.normalize.normalize`. A language's folder
is named by its code, some with a region (``sv-SE``): every folder of the download that is named so is supported.

Lhotse's recipe (1.33) needs columns that older releases lack, cuts a sentence at a tab or newline in it, and ends at
the first empty clip, so tables are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asr_pathways.data.corpora.published import Published, Spoken, lengths_of, reading, table_lines
from asr_pathways.data.corpus import SPLITS
from asr_pathways.data.normalize import normalize
from asr_pathways.errors import PathwaysError


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    tables = {split: _rows(source / folder / f"{split}.tsv") for split in SPLITS}
    for split, rows in tables.items():
        with reading(source / folder, COMMON_VOICE.name):
            paths = [_clip(source / folder / "clips", row["path"]) for row in rows]
            for row, path, length in zip(rows, paths, lengths_of(paths, f"{folder} {split}", jobs), strict=True):
                yield Spoken(split, path.stem, path, length, row["sentence"], row.get("client_id"), row["sentence"])


def _clip(clips: Path, name: str) -> Path:
    """The path of a clip; the first releases leave the suffix out."""
    return clips / (name if Path(name).suffix else f"{name}.mp3")


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows by column. A sentence may have tabs and newlines in it: they become spaces.

    Raises:
        PathwaysError: if a column that is needed is missing, or a row has too few.
    """
    lines = table_lines(table)
    header = lines[0].split("\t")
    missing = [name for name in ("path", "sentence") if name not in header]
    if missing:
        raise PathwaysError(f"{table}: its header has no column {', '.join(missing)}")
    place = header.index("sentence")
    rows: list[dict[str, str]] = []
    number = 1
    while number < len(lines):
        first, fields = number + 1, lines[number].split("\t")
        number += 1
        if not any(fields):
            continue
        while place < len(fields) < len(header) and number < len(lines):  # the line ends in its sentence, or is short
            rest = lines[number].split("\t")
            if len(rest) >= len(header) or any(field.endswith(".mp3") for field in rest):
                break  # another row
            fields = [*fields[:-1], f"{fields[-1]} {rest[0]}", *rest[1:]]
            number += 1
        more = len(fields) - len(header)
        if more < 0 or not fields[header.index("path")]:
            raise PathwaysError(f"{table}: line {first}: {len(fields)} columns where its header has {len(header)}")
        fields = [*fields[:place], " ".join(fields[place : place + more + 1]), *fields[place + more + 1 :]]
        rows.append(dict(zip(header, fields, strict=True)))
    return rows


COMMON_VOICE = Published(
    name="Common Voice",
    licence="CC0-1.0",
    attribution="Common Voice, Mozilla and its volunteers",
    download="at commonvoice.mozilla.org/datasets, one archive a language and release (cv-corpus-...)",
    transcripts="{folder}/{split}.tsv",
    audio="{folder}/clips",
    read=_read,
    text=normalize,
    folders={code: code for code in ("cs", "de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru")},  # among others
    named_by_code=True,
)
