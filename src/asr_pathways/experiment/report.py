"""What the report of an experiment says: claims first, then each block's design, tables, comparisons and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from asr_pathways.experiment.document import (
    Bullets,
    Cell,
    Code,
    Heading,
    Inline,
    Paragraph,
    Part,
    Strong,
    Table,
    Text,
    Written,
)
from asr_pathways.experiment.findings import BlockFinding, ClaimFinding, Findings, RowFinding, most_seeds
from asr_pathways.experiment.pictures import pictures
from asr_pathways.experiment.recipe import DENSE
from asr_pathways.experiment.significance import Difference, Paired
from asr_pathways.formats import language_name, percent, percent_interval, points, points_interval

_TITLES = {"A": "Table A: monolingual", "B": "Table B: multilingual"}
_SIGN = "*"


def report(findings: Findings, discussion: str | None, command: str) -> Iterator[Part]:
    """All parts of the report.

    Args:
        findings: of the ledger.
        discussion: Markdown by people, taken in after the claims.
        command: what makes the report, as a reader would type it.
    """
    yield Heading(1, findings.recipe.title)
    yield from _claims(findings)
    yield from _progress(findings)
    if discussion is not None:
        yield Written(discussion)
    for block in findings.blocks.values():
        yield from _block(block)
    yield Heading(2, "How to read this")
    yield Paragraph(
        "WER and CER are corpus-level for each language, then the unweighted mean over languages, all seeds pooled. "
        "Intervals are 95% percentile intervals of the bootstrap: 10,000 times, utterances are drawn within each "
        "language. Comparisons are paired: both systems are drawn alike. They tell whether a difference would stay "
        "with other utterances of the same kind; what chance does in training is averaged over the seeds, and the "
        "seeds in favour show whether they agree. p is two-sided and not corrected for the number of comparisons. All "
        "rows, those of choices and ideas too, are scored on the test split: what was chosen by them looks better "
        "than it is. Loss is the model's, in nats a word piece. Total steps are those of a system's own training and "
        "of the runs that made its masks; the dense model's are not counted."
    )
    yield Paragraph(["Made from the ledger by ", Code(command), "."])
    yield from _missing(findings)


def main_table(block: BlockFinding) -> Table:
    """The rows of tables A and B (without them, of all tables) that all seeds have: mean WER with its interval."""
    rows = []
    tables = block.tables()
    names = sorted(name for name in tables if name in ("A", "B")) or [*tables]
    shown = {row.name for row in most_seeds([row for name in names for row in tables[name]])}
    for name in names:
        scenario = "monolingual" if name == "A" else "multilingual"
        for row in (row for row in tables.get(name, []) if row.name in shown):
            assert row.pooled is not None
            cells = [_named(row), Cell(scenario), _plain(_sparsity(row)), _steps(row, row.total_steps)]
            rows.append([*cells, Cell(percent(row.pooled.wer), percent_interval(row.pooled.wer_ci))])
    columns = ("System", "Scenario", "Sparsity %", "Total steps", "Mean WER % (95% CI)")
    return Table("", columns, rows, numbers_from=2)


def _claims(findings: Findings) -> Iterator[Part]:
    claims = findings.claims
    if claims:
        planned = [found for found in claims if found.claim.planned]
        others = [found for found in claims if not found.claim.planned]
        said = [_counted(planned, "planned claim")] if planned else []
        said += (
            [_counted(others, "claim made after results were seen", "claims made after results were seen")]
            if others
            else []
        )
        yield Paragraph([Strong(" ".join(said)), _refuted(claims)])
        columns = ("Claim", "Planned", "It", "Points of WER", "95% CI", "Relative %", "p", "Seeds")
        caption = (
            "Mean WER of the system named first under a claim minus that of the second, below zero if the first is "
            "better. A claim is decided by p < 0.05; one with a margin, by whether the interval stays below it. "
            "Planned: it was made before any of its results was seen. "
            "Seeds: those in which the first is better, of those that both have."
        )
        yield Table(caption, columns, [_claim(claim) for claim in claims], numbers_from=3)
    if against := [_against_dense(block, block.dense) for block in findings.blocks.values() if block.dense]:
        yield Bullets(against)


def _counted(claims: Sequence[ClaimFinding], one: str, many: str = "") -> str:
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in _VERDICTS}
    said = [f"{count} {_VERDICTS[verdict][count != 1]}" for verdict, count in counts.items() if count]
    return f"Of {len(claims)} {one if len(claims) == 1 else many or one + 's'}, {_listed(said)}."


_VERDICTS = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "not decided": ("is not decided", "are not decided"),
}


def _refuted(claims: Sequence[ClaimFinding]) -> str:
    refuted = [found.claim.says for found in claims if found.verdict == "does not hold"]
    return f" Refuted: {'; '.join(refuted)}." if refuted else ""


def _claim(found: ClaimFinding) -> list[Cell]:
    claim, pair = found.claim, found.paired
    margin = f", margin {percent(claim.margin, 1)} points" if claim.margin else ""
    name = Cell(claim.says, f"{claim.block}: {claim.better} − {claim.than}{margin}")
    planned = Cell("yes" if claim.planned else "no")
    so_far = "" if pair is None or found.complete else "so far"
    verdict = Cell(found.verdict, so_far, strong=found.verdict != "not decided")
    if pair is None:
        return [name, planned, verdict, *(Cell("") for _ in range(4)), Cell("none yet")]
    return [
        name,
        planned,
        verdict,
        Cell(points(pair.wer.points, 2)),
        Cell(points_interval(pair.wer.ci, 2)),
        Cell("" if pair.relative is None else points(pair.relative)),
        Cell("" if claim.margin else _p(pair.wer.p)),  # p is of a difference from zero, not from the margin
        Cell(f"{pair.better} of {len(pair.seeds)}"),
    ]


def _against_dense(block: BlockFinding, pair: Paired) -> Text:
    which = (
        f"the best of {block.sparse} models of all languages" if block.sparse > 1 else "the one model of all languages"
    )
    says = f"{block.name}: {which} at {percent(block.block.sparsity, 0)}% sparsity, {pair.first}, is "
    if pair.wer.significant:
        verdict = "better than" if pair.wer.points < 0 else "worse than"
        end = "."
    else:
        verdict = "not measurably different from"
        end = "."
    chosen = " The best one was chosen by these same tests, which flatters it." if block.sparse > 1 else ""
    return [says, Strong(verdict), f" the dense model that it came from: {_told(pair)}{end}{chosen}"]


def _told(pair: Paired) -> str:
    relative = "" if pair.relative is None else f", {points(pair.relative)}% relative"
    seeds = f"{len(pair.seeds)} seed{'s' * (len(pair.seeds) != 1)}"
    favour = f", lower WER in {pair.better} of them" if len(pair.seeds) > 1 else ""
    return (
        f"{points(pair.wer.points, 2)} points of WER (95% CI {points_interval(pair.wer.ci, 2)}{relative}), "
        f"p = {_p(pair.wer.p)}, {seeds}{favour}"
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.4f}"


def _progress(findings: Findings) -> Iterator[Part]:
    if findings.missing_cells:
        verb = "has" if findings.missing_cells == 1 else "have"
        says = f"{findings.missing_cells} of {findings.cells} cells {verb} no result yet; the last section names them."
        yield Paragraph(says)


def _missing(findings: Findings) -> Iterator[Part]:
    if findings.missing_cells:
        yield Heading(2, "No result yet")
        yield Paragraph("Cells without a result, of all cells of a row; a cell may belong to several rows.")
        yield Bullets(
            [
                f"{place}: {'; '.join(f'{name} ({missing} of {of})' for name, (missing, of) in rows.items())}"
                for place, rows in findings.missing.items()
            ]
        )


def _block(block: BlockFinding) -> Iterator[Part]:
    yield Heading(2, f"Block {block.name}")
    yield Paragraph(block.block.about)
    yield Paragraph(_design(block))
    yield Paragraph(_power(block))
    if not block.tables():
        yield Paragraph("There are no results yet.")
    for name, rows in block.tables().items():
        yield Heading(3, _TITLES.get(name, name))
        yield _systems(block, name, rows)
    yield from _pairs(block)
    for index, picture in enumerate(pictures(block)):
        if not index:
            yield Heading(3, f"Figures: {block.name}")
        yield picture


def _design(block: BlockFinding) -> str:
    recipe = block.block
    languages = _listed([language_name(language) for language in block.languages])
    seeds = _listed([str(seed) for seed in recipe.seeds])
    says = f"{len(block.languages)} languages ({languages})" if len(block.languages) > 1 else languages
    says += f"; seed{'s' * (len(recipe.seeds) != 1)} {seeds}"
    if recipe.folds:
        says += f", each with a part of its own of {recipe.folds} as its test (cross-validation)"
    limit = f", at most {recipe.utterances} utterances a language" if recipe.utterances else ""
    says += f". Tested on {_listed(recipe.test)}{limit}: {block.words:,} words over all seeds so far."
    return f"Design: {says}"


def _power(block: BlockFinding) -> Text:
    says: list[Inline] = ["Power: "]
    if block.assumed is not None:
        says.append(
            f"the recipe counts on {block.block.words:,} words and a standard deviation of {block.block.deviation:g} "
            "errors a word in the difference of two systems, which, if words were independent, would show a true "
            f"difference of {percent(block.assumed, 2)} points of WER with 80% power (two-sided, 5%). "
        )
    else:
        says.append("the recipe counts on nothing. ")
    measured = block.measured
    if measured:
        low, middle, high = (percent(value, 2) for value in (measured[0], median(measured), measured[-1]))
        spread = f" (median; {low} to {high})" if len(measured) > 1 else ""
        says.append(f"By the bootstrap's standard errors of the pairs below it is {middle} points{spread}.")
    else:
        says.append("No pair has results to measure it by yet.")
    return says


def _systems(block: BlockFinding, name: str, rows: Sequence[RowFinding]) -> Table:
    base = block.base
    shown = [base, *rows] if base and base.pooled and base not in rows else rows
    columns = ["System", "Method", "Sparsity %", "Steps", "Total steps", *block.languages]
    columns += ["Mean (95% CI)", "− dense", "CER %", "Loss", "Union density %", "Mean IoU"]
    caption = (
        f"{block.name}, {_TITLES.get(name, name)}. WER in % by language, its mean, and that minus the dense model's "
        "on the same seeds, which is what to compare rows of other seeds by."
    )
    if any(row.own_models for row in rows):
        caption += " Each: every language has a model of its own, trained for so many steps."
    return Table(caption, columns, [_system(block, row) for row in shown], numbers_from=2)


def _system(block: BlockFinding, row: RowFinding) -> list[Cell]:
    pooled, dense = row.pooled, block.base_wer.get(row.seeds)
    assert pooled is not None  # rows without results stand in no table
    union, iou = row.mask_mean("union_density"), row.mask_mean("mean_iou")
    return [
        _named(row),
        Cell(row.system.method),
        _plain(_sparsity(row)),
        _steps(row, row.system.steps),
        _steps(row, row.total_steps),
        *(Cell(percent(rate.wer)) for rate in pooled.languages.values()),
        Cell(percent(pooled.wer), percent_interval(pooled.wer_ci), strong=True),
        _plain("" if dense is None or row is block.base else points(pooled.wer - dense)),
        Cell(percent(pooled.cer)),
        Cell(f"{pooled.loss:.3f}"),
        _plain("" if union is None else percent(union)),
        _plain("" if iou is None else f"{iou:.2f}"),
    ]


def _named(row: RowFinding) -> Cell:
    planned = len({run.seed for run in row.row.runs})
    done = f"{len(row.seeds)} of {planned} seeds" if len(row.seeds) < planned else ""
    fewer = f"{planned} seed{'s' * (planned != 1)}" if not done and row.fewer_seeds else ""
    return Cell(row.name, "; ".join(part for part in (row.system.note, done or fewer) if part))


def _sparsity(row: RowFinding) -> str:
    return "" if row.row.sparsity is None else percent(row.row.sparsity, 0)


def _steps(row: RowFinding, steps: int) -> Cell:
    if row.system.method == DENSE and not steps:
        return Cell("")
    return Cell(f"{steps:,}", "each" if row.own_models else "")


def _plain(text: str) -> Cell:
    return Cell(text)


def _pairs(block: BlockFinding) -> Iterator[Part]:
    if not block.pairs:
        return
    yield Heading(3, f"Comparisons: {block.name}")
    pairs = [pair for pair in block.pairs.values() if pair]
    if pairs:
        columns = ("Pair", "First is", "Points of WER", "95% CI", "Relative %", "p", "Points of CER", "p", "Loss")
        caption = (
            f"Mean WER of the first minus that of the second: below zero, the first is better. {_SIGN} p < 0.05. "
            "Seeds: those in which the first is better, of those that both have."
        )
        yield Table(caption, (*columns, "Seeds"), [_pair(pair) for pair in pairs], numbers_from=2)
    without = [f"{first} and {second}" for (first, second), pair in block.pairs.items() if pair is None]
    if without:
        yield Paragraph(f"No results in common yet: {'; '.join(without)}.")


def _pair(pair: Paired) -> list[Cell]:
    verdict = ("better" if pair.wer.points < 0 else "worse") if pair.wer.significant else "not decided"
    return [
        Cell(f"{pair.first} − {pair.second}"),
        Cell(verdict, strong=pair.wer.significant),
        Cell(points(pair.wer.points, 2), strong=pair.wer.significant),
        Cell(points_interval(pair.wer.ci, 2)),
        Cell("" if pair.relative is None else points(pair.relative)),
        Cell(_starred(pair.wer)),
        Cell(points(pair.cer.points, 2), strong=pair.cer.significant),
        Cell(_starred(pair.cer)),
        Cell(f"{pair.loss:+.3f}".replace("-", "−")),
        Cell(f"{pair.better} of {len(pair.seeds)}"),
    ]


def _starred(difference: Difference) -> str:
    return f"{_p(difference.p)}{_SIGN}" if difference.significant else _p(difference.p)
