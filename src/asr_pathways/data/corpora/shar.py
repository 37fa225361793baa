"""Lhotse Shar: a corpus in shards, for storage that is slow with many small files.

    SOURCE/{train,dev,test}/cuts.000000.jsonl.gz, recording.000000.tar, cuts.000001.jsonl.gz, ...

or of one shard, cuts.jsonl.gz and recording.tar.

The shards stay where they are. The data folder refers to each utterance by its place in its archive, so that any one is
read at once, without what is before it: batches are chosen, shuffled and resumed as with files.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from asr_pathways.data.audio import Truncated, audio_length, place_in
from asr_pathways.data.corpora.published import why_left_out
from asr_pathways.data.corpus import SLACK, SPLITS, build_corpus, cut_row, spoken_part
from asr_pathways.data.languages import plain_language
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError, reason_of

UNKNOWN = "?"
"""In place of the language of a cut that has none, or several."""


def prepare_shar(out: Path, source: Path, languages: Sequence[str] | None = None) -> dict[str, Counter[str]]:
    """Makes a data folder that refers to the audio in a Lhotse Shar.

    Texts stay as they are; languages are in any form of their code. Of a cut with more than its supervision only that
    part is read. Left out is what `prepare_published` leaves out, cuts that have not one supervision, or one that goes
    beyond the cut, or no recording, and audio that is shorter than the cut.

    Args:
        out: the data folder to make.
        source: the folder with those of ``train``, ``dev`` and ``test`` that there are.
        languages: keep only these; None keeps all.

    Returns:
        For each language, how many utterances were left out and why.

    Raises:
        PathwaysError: if there are no shards, or one is broken, compressed or not of the other's cuts; if a cut has no
            language, or there are none in one of ``languages``.
    """
    wanted = None if languages is None else [plain_language(language) for language in languages]
    dropped: dict[str, Counter[str]] = {}
    kept: Counter[str] = Counter()
    about = {"name": source.name, "licence": "the user's own", "attribution": f"from {source.name}"}
    with build_corpus(out, [about]) as builder:
        for split, cuts, archive in track(_shards(source), source.name):
            for language, row in _utterances(split, cuts, archive):
                if wanted is not None and language not in (*wanted, UNKNOWN):
                    continue
                if isinstance(row, str):
                    dropped.setdefault(language, Counter())[row] += 1
                    continue
                builder.add_row(split, row)
                kept[language] += 1
        for language in wanted or ():
            if not kept[language]:
                available = ", ".join(sorted(kept)) or "nothing that can be used"
                raise PathwaysError(f"{source}: nothing of {language!r} that can be used: it holds {available}")
        if not kept:
            raise PathwaysError(f"{source}: no utterance that can be used")
    return dropped


def _shards(source: Path) -> list[tuple[str, Path, Path]]:
    """(split, cuts, archive) of each shard."""
    if not source.is_dir():
        raise PathwaysError(f"{source}: no such folder")
    shards = []
    for split in SPLITS:
        for cuts in sorted((source / split).glob("cuts*.jsonl.gz")):
            archive = cuts.with_name(cuts.name.replace("cuts", "recording", 1).replace(".jsonl.gz", ".tar"))
            if not archive.is_file():
                raise PathwaysError(f"{cuts}: there is no {archive.name} beside it")
            shards.append((split, cuts, archive))
    if not shards:
        raise PathwaysError(f"{source}: no shards in it: expected such as train/cuts.000000.jsonl.gz")
    return shards


def _utterances(split: str, cuts: Path, archive: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Language and row of each cut of a shard; in place of a row, why it is left out."""
    from lhotse.serialization import load_jsonl

    try:
        for cut, entry in zip_longest(load_jsonl(cuts), _entries(archive)):
            if cut is None or entry is None or cut["id"] != entry[0]:
                listed = "no more cuts" if cut is None else f"cut {cut['id']!r}"
                archived = "nothing more" if entry is None else repr(entry[0])
                raise PathwaysError(f"{cuts}: {listed} where {archive.name} has {archived}: not of one shard")
            languages = [supervision.get("language") for supervision in cut["supervisions"]]
            if len(languages) != 1:
                language = plain_language(languages[0]) if len(set(languages)) == 1 and languages[0] else UNKNOWN
                yield language, "not one supervision"
            elif not languages[0]:
                raise PathwaysError(f"{cuts}: cut {cut['id']!r} has no language")
            else:
                yield plain_language(languages[0]), _row(split, cut, entry[1])
    except PathwaysError:
        raise
    except Exception as error:  # of gzip, JSON, tarfile or Lhotse: anything
        raise PathwaysError(f"{cuts}, or {archive.name} beside it, is broken: {reason_of(error)}") from None


def _entries(archive: Path) -> Iterator[tuple[str, tuple[str, Any] | None]]:
    """Each id with the place of its audio (see `place_in`) and Lhotse's recording, of members data, metadata, ..."""
    from lhotse import Recording

    with tarfile.open(archive, "r:") as members:
        pairs = iter(members)
        for data in pairs:
            beside = next(pairs, None)
            if beside is None:
                raise PathwaysError(f"{archive}: ends after the audio of {data.name!r}")
            metadata = members.extractfile(beside)
            name = PurePosixPath(data.name)
            audio = None
            if name.suffix != ".nodata" and metadata is not None:
                place = place_in(archive.absolute(), data.offset_data, data.size)
                audio = place, Recording.from_dict(json.load(metadata))
            yield str(name.with_suffix("")), audio


def _row(split: str, cut: dict[str, Any], audio: tuple[str, Any] | None) -> dict[str, Any] | str:
    if audio is None:
        return "no audio"
    supervision, (place, recording) = cut["supervisions"][0], audio
    text, speaker = (supervision.get("text") or "").strip(), supervision.get("speaker")
    try:
        rate, samples = audio_length(Path(place))
    except Truncated:
        return "audio cut short"
    except PathwaysError:
        return "not readable as audio"
    if samples / rate < cut["start"] + cut["duration"] - SLACK:
        return "audio cut short"
    part = spoken_part(supervision["start"], supervision["duration"], cut["duration"])
    if part is None:
        return "its text is of more than the cut"
    start, duration = cut["start"] + part[0], part[1]
    whole = start == 0 and abs(duration - samples / rate) <= SLACK
    ids, wanted = recording.channel_ids or [0], cut.get("channel", 0)
    channel = ids.index(wanted) if len(ids) > 1 and not isinstance(wanted, list) else None
    return why_left_out(split, text, samples / rate if whole else duration) or cut_row(
        cut["id"],
        place,
        samples,
        plain_language(supervision["language"]),
        text,
        speaker,
        rate,
        part=None if whole else (start, duration),
        channel=channel,
        channels=len(ids),
    )
