from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from asr_pathways.evaluation.tables import score_table
from asr_pathways.evaluation.wer import Utterance, score

GOOD = [Utterance("1", "en", "one two three four", "one two tree four"), Utterance("2", "fr", "un deux", "un deux")]


def rendered(table: Table) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return [[cell.strip() for cell in line.split("│")] for line in stream.getvalue().splitlines() if "│" in line]


def test_score_table_has_counts_intervals_and_mean() -> None:
    rows = rendered(score_table(score(GOOD)))
    assert rows[0][1:-1] == ["en", "1", "4", "25.0", "25.0–25.0", "1", "0", "0", "5.6"]
    assert rows[1][1:5] == ["fr", "1", "2", "0.0"]
    assert rows[2][1:-1] == ["mean", "2", "6", "12.5", "12.5–12.5", "", "", "", "2.8"]
