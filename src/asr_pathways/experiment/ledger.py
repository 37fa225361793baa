"""The ledger: the results of each cell, for good, as one small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import UtteranceCounts
from asr_pathways.files import read_json, write_text

FORMAT, VERSION = "asr-pathways-cell", 1


def write_entry(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Writes the entry of cell ``name``, whole or not at all; a line for each part, so that it stays small."""
    counts = {language: _packed(one) for language, one in entry["tested"].items()}
    parts = {"format": FORMAT, "version": VERSION, "name": name, **entry, "tested": counts}
    lines = [f"{json.dumps(key)}: {json.dumps(_rounded(value), ensure_ascii=False)}" for key, value in parts.items()]
    write_text(folder / f"{name}.json", "{\n" + ",\n".join(lines) + "\n}\n")


def read_entry(folder: Path, name: str) -> dict[str, Any] | None:
    """The entry of a cell; None if there is none.

    Raises:
        PathwaysError: if the file is not an entry of that name.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    entry = read_json(path)
    if not isinstance(entry, dict) or (entry.get("format"), entry.get("version")) != (FORMAT, VERSION):
        raise PathwaysError(f"{path}: not a ledger entry of this version")
    if entry.get("name") != name:
        raise PathwaysError(f"{path}: the entry of another cell, {entry.get('name')}")
    return entry


def tested(entry: Mapping[str, Any]) -> dict[str, UtteranceCounts]:
    """The counts of each language in an entry.

    Raises:
        PathwaysError: if they are damaged.
    """
    try:
        counts = {}
        for language, packed in entry["tested"].items():
            lists = {key: [int(number) for number in packed[key].split()] for key in _LISTS}
            if len({len(values) for values in lists.values()}) != 1:
                raise ValueError("lists differ in length")
            counts[language] = UtteranceCounts(utterances=packed["utterances"], loss=packed["loss"], **lists)
        return counts
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PathwaysError(f"ledger entry {entry.get('name')}: damaged counts: {error}") from None


def _rounded(value: Any) -> Any:
    """Plain data with six figures after the point, which is more than anything here means."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


_LISTS = ("words", "word_errors", "characters", "character_errors")


def _packed(counts: UtteranceCounts) -> dict[str, Any]:
    lists = {key: " ".join(map(str, getattr(counts, key))) for key in _LISTS}
    return {"utterances": counts.utterances, "loss": counts.loss, **lists}
