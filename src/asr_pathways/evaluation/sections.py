"""The sections of the report; each is empty where the report has no data for it."""

from __future__ import annotations

from asr_pathways.evaluation import figures
from asr_pathways.evaluation.markup import Html, element, figure, heading_row, join, row, section, table
from asr_pathways.evaluation.report import Overlap, Report, Sample
from asr_pathways.evaluation.tables import comparison_sentence, difference_name, probability
from asr_pathways.evaluation.wer import Edit, LanguageScore, align
from asr_pathways.formats import (
    duration,
    language_name,
    percent,
    percent_interval,
    points,
    points_interval,
    size,
)

NOTHING = Html("")


def header(report: Report) -> Html:
    """Title, one-sentence summary, and the mean WER of every system."""
    numbers = [
        element(
            "div",
            element("dt", system.name),
            element("dd", f"{percent(system.scores.mean_wer)}%", class_="big"),
            element("dd", element("small", f"95% CI {percent_interval(system.scores.mean_wer_ci)}")),
            style=f"--colour: {figures.colour(index)}",
        )
        for index, system in enumerate(report.systems)
    ]
    return element(
        "header",
        element("h1", report.title),
        element("p", report.summary or summary(report), class_="summary"),
        element("dl", *numbers, class_="numbers", aria_label="Mean word error rate of each system"),
    )


def summary(report: Report) -> str:
    """One sentence with the mean WER of the main system beside the others'."""
    main = report.system(report.main)
    count = len(main.scores.languages)
    where = "one language" if count == 1 else f"{count} languages"
    sparsity = "" if main.sparsity is None else f" at {100 * main.sparsity:.0f}% sparsity"
    others = [f"{system.name} {percent(system.scores.mean_wer)}%" for system in report.systems if system is not main]
    beside = f", beside {', '.join(others)}" if others else ""
    return (
        f"The mean word error rate of {main.name} over {where}{sparsity} is {percent(main.scores.mean_wer)}% "
        f"(95% CI {percent_interval(main.scores.mean_wer_ci)}){beside}."
    )


def error_rates(report: Report) -> Html:
    """The chart and the tables of WER and CER."""
    systems = {system.name: system.scores for system in report.systems}
    series = _series(report)
    first = report.systems[0].scores.languages
    head = [
        element(
            "tr",
            element("th", "Language", scope="col", rowspan=2),
            element("th", "Words", scope="col", rowspan=2, class_="number"),
            *(element("th", system.name, scope="colgroup", colspan=2) for system in report.systems),
        ),
        element(
            "tr",
            *(element("th", unit, scope="col", class_="number") for _ in report.systems for unit in ("WER %", "CER %")),
        ),
    ]
    body = []
    for index, entry in enumerate(first):
        cells: list[str | Html] = [f"{entry.words:,}"]
        for system in report.systems:
            score = system.scores.languages[index]
            rate = join([percent(score.wer.rate), element("small", percent_interval(score.wer_ci))])
            cells += _pair_of_cells(rate, percent(score.cer.rate), system.name == report.main)
        body.append(row(language_name(entry.language), cells))
    means: list[str | Html] = [f"{sum(entry.words for entry in first):,}"]
    for system in report.systems:
        interval = element("small", percent_interval(system.scores.mean_wer_ci))
        rate = join([percent(system.scores.mean_wer), interval])
        means += _pair_of_cells(rate, percent(system.scores.mean_cer), system.name == report.main)
    body.append(row("Mean", means, class_="mean"))
    notes = [
        element("li", element("strong", system.name), f": {system.note}") for system in report.systems if system.note
    ]
    return section(
        "Word error rates on the test split",
        element("ul", *notes) if notes else NOTHING,
        figure(
            figures.wer_chart(systems, series),
            "Word error rate with 95% bootstrap intervals over utterances. The mean is unweighted over languages.",
            figures.legend(list(systems), series),
        ),
        table("Word and character error rates; 95% intervals in small print.", head, body),
        _edits(report),
    )


def _pair_of_cells(rate: Html, characters: str, main: bool) -> list[str | Html]:
    kind = "main" if main else None
    return [element("td", rate, class_=kind), element("td", characters, class_=kind)]


def _edits(report: Report) -> Html:
    body = []
    for system in report.systems:
        for entry in system.scores.languages:
            body.append(row(system.name, [_words(language_name(entry.language)), *_edit_cells(entry)]))
    columns = (
        "System",
        "Language",
        "Utterances",
        "Words",
        "Substitutions",
        "Deletions",
        "Insertions",
        "Characters",
    )
    return element(
        "details",
        element("summary", "Substitutions, deletions and insertions"),
        table("Word edits of every system and language.", [heading_row(columns, numbers_from=2)], body),
    )


def _edit_cells(entry: LanguageScore) -> list[str]:
    counts = (
        entry.utterances,
        entry.words,
        entry.wer.substitutions,
        entry.wer.deletions,
        entry.wer.insertions,
        entry.cer.reference_length,
    )
    return [f"{count:,}" for count in counts]


def pairs(report: Report) -> Html:
    """Paired comparisons, as sentences and by language."""
    if not report.pairs:
        return NOTHING
    sentences = [element("p", _capital(comparison_sentence(pair.a, pair.b, pair.comparison))) for pair in report.pairs]
    body = []
    for pair in report.pairs:
        entries = (*pair.comparison.languages, pair.comparison.mean)
        for entry in entries:
            body.append(
                row(
                    f"{pair.a} − {pair.b}",
                    [
                        _words(difference_name(entry)),
                        points(entry.difference),
                        points_interval(entry.ci),
                        probability(entry),
                    ],
                    class_="mean" if entry is pair.comparison.mean else None,
                )
            )
    columns = ("Systems", "Language", "Points", "95% CI", "First is better in")
    return section(
        "Paired comparisons",
        *sentences,
        element(
            "details",
            element("summary", "By language"),
            table("Difference in WER, in percentage points.", [heading_row(columns, numbers_from=2)], body),
        ),
        element(
            "p",
            "Both systems are scored on the same resampled utterances. Below zero, the first system makes fewer "
            "errors.",
            class_="soft",
        ),
    )


def curves(report: Report) -> Html:
    """Mean WER on dev over training steps; a curve of one point is drawn as a level line."""
    if not report.curves:
        return NOTHING
    series = _series(report)
    lines = {c.system: (c.steps, c.wer) for c in report.curves if len(c.steps) > 1}
    levels = {c.system: c.wer[0] for c in report.curves if len(c.steps) == 1}
    body = [
        row(c.system, [f"{step:,}", percent(rate)])
        for c in report.curves
        for step, rate in zip(c.steps, c.wer, strict=True)
    ]
    return section(
        "Word error rate while training",
        figure(
            figures.curve_chart(lines, levels, series),
            "Mean word error rate over languages on the dev split. Every point is measured on the sparse model.",
            figures.legend(list(lines), series),
        ),
        element(
            "details",
            element("summary", "As a table"),
            table("Mean WER on dev.", [heading_row(("System", "Step", "WER %"))], body),
        ),
    )


def overlaps(report: Report) -> Html:
    """IoU between the pathways of every two languages, as tables shaded by value."""
    if not report.overlaps:
        return NOTHING
    return section(
        "Overlap of the pathways",
        element(
            "p",
            "IoU is the number of weights that two languages both keep, divided by the number that either keeps: 1 "
            "means one and the same mask.",
        ),
        element("div", *(_overlap(overlap) for overlap in report.overlaps), class_="pair"),
    )


def _overlap(overlap: Overlap) -> Html:
    body = [
        row(language_name(language), [_heat(value) for value in values])
        for language, values in zip(overlap.languages, overlap.iou, strict=True)
    ]
    corner = Html("<td></td>")
    head = element(
        "tr",
        corner,
        *(element("th", language_name(language), scope="col") for language in overlap.languages),
    )
    union = f"{overlap.title}: IoU by pair. Union density {percent(overlap.union_density)}%."
    return table(union, [head], body, class_="heat")


def layers(report: Report) -> Html:
    """Share of kept weights by layer and language, as a table shaded by value."""
    density = report.layers
    if density is None:
        return NOTHING
    head = [element("th", "Layer", scope="col")]
    head += [element("th", language_name(language), scope="col") for language in density.languages]
    if density.union is not None:
        head.append(element("th", "Any", scope="col"))
    body = []
    for index, (name, values) in enumerate(zip(density.layers, density.density, strict=True)):
        cells = [_heat(value) for value in values]
        if density.union is not None:
            cells.append(_heat(density.union[index], "apart"))
        body.append(row(name.removesuffix(".weight"), cells))
    caption = "Share of weights kept, by prunable tensor and language"
    caption += "; “Any” is the share that at least one language keeps." if density.union is not None else "."
    return section(
        "Density by layer",
        table(caption, [element("tr", *head)], body, class_="heat layers", tall=True),
    )


def _heat(value: float, class_: str | None = None) -> Html:
    return element("td", f"{value:.2f}", class_=class_, style=f"--v: {60 * min(max(value, 0.0), 1.0):.0f}%")


def sizes(report: Report) -> Html:
    """What the dense model and the pathways take."""
    sizes = report.sizes
    if sizes is None:
        return NOTHING
    prunable = sizes.prunable_weights
    body = [
        row("All weights of the dense model", [f"{sizes.total_weights:,}", "", size(sizes.dense_bytes)]),
        row("Prunable weights", [f"{prunable:,}", "100.0", ""]),
        *(
            row(f"Kept by {language_name(language)}", [f"{count:,}", percent(count / prunable), ""])
            for language, count in sizes.kept.items()
        ),
        row("Kept by at least one language", [f"{sizes.union:,}", percent(sizes.union / prunable), ""]),
        row("Masks of all languages, packed", ["", "", size(sizes.mask_bytes)]),
    ]
    head = heading_row(("Part", "Weights", "% of prunable", "On disk"))
    return section("Sizes", table("Weights and files.", [head], body))


def samples(report: Report) -> Html:
    """One recording per language as every system hears it, its errors marked."""
    if not report.samples:
        return NOTHING
    key = element(
        "p",
        element("mark", "wrong word"),
        ", ",
        element("del", "missing word"),
        ", ",
        element("ins", "extra word"),
        ". At the right, errors of reference words.",
        class_="soft",
    )
    return section("One recording per language, by system", key, *(_sample(sample) for sample in report.samples))


def _sample(sample: Sample) -> Html:
    count = len(sample.reference.split())
    body = [_line("Reference", Html(element("span", sample.reference, lang=sample.language)), "")]
    for name, hypothesis in sample.hypotheses.items():
        edits = align(sample.reference, hypothesis)
        wrong = sum(edit.kind != "equal" for edit in edits)
        words = element("span", join((_marked(edit) for edit in edits), " "), lang=sample.language)
        body.append(_line(name, words, f"{wrong} of {count}"))
    caption = join(
        [element("strong", language_name(sample.language)), " ", element("code", sample.id)],
    )
    return element("div", element("table", element("caption", caption), element("tbody", *body)), class_="sample")


def _line(name: str, text: Html, number: str) -> Html:
    return row(name, [element("td", text), element("td", number, class_="number")])


def _marked(edit: Edit) -> Html:
    if edit.kind == "equal":
        return join([edit.hypothesis or ""])
    if edit.kind == "substitute":
        return element("mark", edit.hypothesis or "", title=f"instead of: {edit.reference}")
    if edit.kind == "delete":
        return element("del", edit.reference or "")
    return element("ins", edit.hypothesis or "")


def origin(report: Report) -> Html:
    """The command, the time it took, and its settings."""
    made = report.origin
    if made is None:
        return NOTHING
    rows = {"Time": duration(made.seconds), **made.details}
    return section(
        "How this was made",
        element("pre", element("code", made.command)),
        element(
            "table",
            element("caption", "Settings"),
            element("tbody", *(row(name, [value]) for name, value in rows.items())),
            class_="plain",
        ),
    )


def attribution(report: Report) -> Html:
    """Where the recordings come from and under which licence."""
    if not report.attribution:
        return NOTHING
    return section("Data", *(element("p", line) for line in report.attribution))


def _series(report: Report) -> dict[str, int]:
    return {system.name: index for index, system in enumerate(report.systems)}


def _words(text: str) -> Html:
    return element("td", text, class_="words")


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
