from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.tables import comparison_table, score_table, systems_table
from asr_pathways.evaluation.wer import Utterance, compare, score

GOOD = [Utterance("1", "en", "one two three four", "one two tree four"), Utterance("2", "fr", "un deux", "un deux")]
BAD = [Utterance("1", "en", "one two three four", "won"), Utterance("2", "fr", "un deux", "un deux trois")]


def rendered(table: Table) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return [[cell.strip() for cell in line.split("│")] for line in stream.getvalue().splitlines() if "│" in line]


def test_score_table_has_counts_intervals_and_mean() -> None:
    rows = rendered(score_table(score(GOOD)))
    assert rows[0][1:-1] == ["en", "1", "4", "25.0", "25.0–25.0", "1", "0", "0", "5.6"]
    assert rows[1][1:5] == ["fr", "1", "2", "0.0"]
    assert rows[2][1:-1] == ["mean", "2", "6", "12.5", "12.5–12.5", "", "", "", "2.8"]


def test_systems_side_by_side() -> None:
    rows = rendered(systems_table({"dense": score(GOOD), "sparse": score(list(reversed(BAD)))}))
    assert rows[0][1:-1] == ["dense", "25.0", "0.0", "12.5 (12.5–12.5)", "2.8"]
    assert rows[1][1:5] == ["sparse", "100.0", "50.0", "75.0 (75.0–75.0)"]


def test_systems_of_other_languages_are_refused() -> None:
    with pytest.raises(PathwaysError, match="sparse was scored on other languages"):
        systems_table({"dense": score(GOOD), "sparse": score(BAD[:1])})
    with pytest.raises(PathwaysError, match="no systems"):
        systems_table({})


def test_comparison_table() -> None:
    rows = rendered(comparison_table("dense", "sparse", compare(GOOD, BAD)))
    assert rows[0][1:-1] == ["en", "−75.0", "−75.0 to −75.0", "100%"]
    assert rows[-1][1:-1] == ["mean", "−62.5", "−62.5 to −62.5", "100%"]
