"""Files of an evaluation: its scores and utterances as JSON, its aligned errors as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.cells import cell_len, set_cell_size

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Edit, Scores, Utterance, align
from asr_pathways.files import atomic_path, read_json, write_json

_LETTERS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}


def write_evaluation(path: Path, scores: Scores, utterances: Iterable[Utterance]) -> None:
    """Writes scores and utterances as JSON, so that systems can be compared later without decoding again.

    Raises:
        PathwaysError: if the file cannot be written.
    """
    write_json(path, {**scores.to_dict(), "utterances": [asdict(utterance) for utterance in utterances]})


def read_evaluation(path: Path) -> tuple[Scores, list[Utterance]]:
    """Reads what `write_evaluation` wrote.

    Raises:
        PathwaysError: if the file is missing or is not an evaluation.
    """
    data = read_json(path)
    try:
        utterances = [Utterance(**entry) for entry in data["utterances"]]
        return Scores.from_dict(data), utterances
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, PathwaysError):
        raise PathwaysError(f"{path}: not an evaluation; make one with `asr-pathways evaluate --json`") from None


def write_alignments(path: Path, utterances: Iterable[Utterance]) -> None:
    """Writes every utterance, reference over hypothesis word by word, the errors marked S, D and I below.

    Utterances without an error are listed by their text alone. UTF-8 text.

    Raises:
        PathwaysError: if the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for utterance in utterances:
            stream.write(alignment_text(utterance) + "\n")


def alignment_text(utterance: Utterance) -> str:
    """The aligned errors of one utterance, a few lines of text for a fixed-width font."""
    edits = align(utterance.reference, utterance.hypothesis)
    errors = [_LETTERS[edit.kind] for edit in edits if edit.kind != "equal"]
    heading = f"{utterance.id} ({utterance.language}): "
    if not errors:
        return f"{heading}no error\n  REF  {utterance.reference}\n"
    counts = " ".join(f"{errors.count(letter)}{letter}" for letter in "SDI" if letter in errors)
    rows = [_row(edits, side) for side in range(3)]
    return "\n".join([heading + counts, f"  REF  {rows[0]}", f"  HYP  {rows[1]}", f"       {rows[2]}"]) + "\n"


def _row(edits: Sequence[Edit], side: int) -> str:
    cells = []
    for edit in edits:
        column = (edit.reference or "***", edit.hypothesis or "***", _LETTERS[edit.kind])
        cells.append(set_cell_size(column[side], max(map(cell_len, column))))
    return " ".join(cells).rstrip()
