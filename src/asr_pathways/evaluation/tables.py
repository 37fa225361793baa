"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from asr_pathways.evaluation.wer import Scores
from asr_pathways.formats import percent, percent_interval


def score_table(scores: Scores, title: str | None = None) -> Table:
    """One system: a row per language with WER, its 95% interval, S/D/I and CER, and a row of means."""
    table = Table(title=title)
    table.add_column("Language")
    for heading in ("Utterances", "Words", "WER %", "95% CI", "Sub", "Del", "Ins", "CER %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in scores.languages:
        table.add_row(
            entry.language,
            f"{entry.utterances:,}",
            f"{entry.words:,}",
            percent(entry.wer.rate),
            percent_interval(entry.wer_ci),
            f"{entry.wer.substitutions:,}",
            f"{entry.wer.deletions:,}",
            f"{entry.wer.insertions:,}",
            percent(entry.cer.rate),
        )
    table.add_section()
    table.add_row(
        "mean",
        f"{sum(entry.utterances for entry in scores.languages):,}",
        f"{sum(entry.words for entry in scores.languages):,}",
        percent(scores.mean_wer),
        percent_interval(scores.mean_wer_ci),
        *("", "", ""),
        percent(scores.mean_cer),
        style="bold",
    )
    return table


def identification_table(right: Mapping[str, Mapping[str, float]]) -> Table:
    """Language identification: a row per language, and for each split the share of utterances identified right."""
    table = Table(title="Language identified right, %")
    table.add_column("Language")
    for split in right:
        table.add_column(split, justify="right")
    languages = sorted({language for shares in right.values() for language in shares})
    for language in languages:
        shares = [split.get(language) for split in right.values()]
        table.add_row(language, *("" if share is None else percent(share) for share in shares))
    table.add_section()
    means = [sum(split.values()) / len(split) for split in right.values()]
    table.add_row("mean", *map(percent, means), style="bold")
    return table
