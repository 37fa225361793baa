"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import MEAN, Comparison, Difference, Scores
from asr_pathways.formats import language_name, percent, percent_interval, points, points_interval


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
    """Language identification: a row per language, and for each split the share of utterances told right."""
    table = Table(title="Language told right, %")
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


def systems_table(systems: Mapping[str, Scores], title: str | None = None) -> Table:
    """Several systems: a row each, with WER per language, the mean WER with its 95% CI, and the mean CER.

    Raises:
        PathwaysError: if there are no systems, or they were scored on different languages.
    """
    if not systems:
        raise PathwaysError("no systems to put in a table")
    languages = [entry.language for entry in next(iter(systems.values())).languages]
    table = Table(title=title)
    table.add_column("WER %")
    for heading in (*languages, "mean (95% CI)", "CER %"):
        table.add_column(heading, justify="right")
    for name, scores in systems.items():
        if {entry.language for entry in scores.languages} != set(languages):
            raise PathwaysError(f"cannot put systems in one table: {name} was scored on other languages")
        rates = [percent(scores.language(language).wer.rate) for language in languages]
        mean = f"{percent(scores.mean_wer)} ({percent_interval(scores.mean_wer_ci)})"
        table.add_row(name, *rates, mean, percent(scores.mean_cer))
    return table


def comparison_table(a: str, b: str, comparison: Comparison) -> Table:
    """The paired difference in WER of systems ``a`` and ``b``: by language, then for the mean."""
    table = Table(title=f"WER of {a} minus WER of {b}")
    table.add_column("Language")
    for heading in ("Points", "95% CI", f"{a} better"):
        table.add_column(heading, justify="right")
    for entry in (*comparison.languages, comparison.mean):
        if entry is comparison.mean:
            table.add_section()
        table.add_row(entry.language, points(entry.difference), points_interval(entry.ci), probability(entry))
    return table


def comparison_sentence(a: str, b: str, comparison: Comparison) -> str:
    """One sentence on the difference in mean WER between systems ``a`` and ``b``, with its interval."""
    mean = comparison.mean
    interval = f"(95% CI {points_interval(mean.ci)}; better in {probability(mean)} of resamples)"
    if not mean.significant:
        return f"{a} against {b}: no measurable difference in mean WER, {points(mean.difference)} points {interval}."
    direction = "lower" if mean.difference < 0 else "higher"
    return f"{a} against {b}: {direction} mean WER, {points(mean.difference)} points {interval}."


def probability(difference: Difference) -> str:
    """The share of resamples in which the first system is better, as whole percent."""
    return f"{100 * difference.probability:.0f}%"


def difference_name(difference: Difference) -> str:
    """The language of a difference, by name; the mean over languages is "Mean"."""
    return "Mean" if difference.language == MEAN else language_name(difference.language)
