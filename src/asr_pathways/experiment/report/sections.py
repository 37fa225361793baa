"""The text of an experiment's report: claims first, then each block's design, tables, comparisons and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, mode

from asr_pathways.evaluation.significance import Difference, Paired
from asr_pathways.evaluation.wer import Edit, align
from asr_pathways.experiment.findings import BlockFinding, ClaimFinding, Findings, RowFinding, most_seeds
from asr_pathways.experiment.recipe import DENSE
from asr_pathways.experiment.report.charts import Chart, charts
from asr_pathways.experiment.report.markdown import bullets, cell, escape, strong, table
from asr_pathways.experiment.report.speeds import speeds
from asr_pathways.formats import language_name, percent, percent_interval, points, points_interval, share, size

_TITLES = {"A": "Table A: monolingual", "B": "Table B: multilingual"}
_SIGN = "\\*"
_READING = (
    "WER and CER are corpus-level for each language, then the unweighted mean over languages, all seeds pooled. "
    "Intervals are 95% percentile intervals of the bootstrap: 10,000 times, utterances are drawn within each "
    "language. Comparisons are paired: both systems are drawn alike. They show whether a difference would stay "
    "with other utterances of the same kind and voices; what chance does in training is averaged over the seeds, and "
    "the seeds in favour show whether they agree. p is two-sided, 0.0002 at the least, and not corrected for the "
    "number of comparisons. All "
    "rows, those of choices and ideas too, are scored on the test split: what was chosen by them looks better "
    "than it is. Loss is the model's, in nats a word piece. Total steps are those of a system's own training and "
    "of the runs that made its masks; the dense model's are not counted."
)

Part = str | Chart


def report(findings: Findings, discussion: str | None, command: str) -> Iterator[Part]:
    """All parts of the report: Markdown, and charts.

    ``discussion`` is Markdown by people, placed after the claims; ``command`` is what makes the report.
    """
    yield f"# {escape(findings.recipe.title)}"
    if findings.recipe.about:
        yield findings.recipe.about.strip()
    yield from _claims(findings)
    if findings.missing_cells:
        verb = "has" if findings.missing_cells == 1 else "have"
        yield f"{findings.missing_cells} of {findings.cells} cells {verb} no result yet; the last section names them."
    if discussion is not None:
        yield discussion.strip()
    for block in findings.blocks.values():
        yield from _block(block)
    yield "## How to read this"
    yield escape(_READING)
    yield f"Made from the ledger by `{command}`."
    if sources := findings.sources:
        yield "## Data"
        yield bullets([escape(source) for source in sources])
    if findings.missing_cells:
        yield "## No result yet"
        yield "Cells without a result, of all cells of a row; a cell may belong to several rows."
        yield bullets(
            [
                escape(f"{place}: {'; '.join(f'{name} ({missing} of {of})' for name, (missing, of) in rows.items())}")
                for place, rows in findings.missing.items()
            ]
        )


def main_table(block: BlockFinding) -> str:
    """The rows of tables A and B (without them, of all tables) that all seeds have: mean WER with its interval."""
    rows = []
    tables = block.tables()
    names = sorted(name for name in tables if name in ("A", "B")) or [*tables]
    shown = {row.name for row in most_seeds([row for name in names for row in tables[name]])}
    for name in names:
        scenario = "monolingual" if name == "A" else "multilingual"
        for row in (row for row in tables.get(name, []) if row.name in shown):
            assert row.pooled is not None
            wer = cell(percent(row.pooled.wer), percent_interval(row.pooled.wer_ci))
            rows.append([_named(row), scenario, _sparsity(row), _steps(row, row.total_steps), wer])
    if not rows:
        return "No results yet."
    columns = ("System", "Scenario", "Sparsity %", "Total steps", "Mean WER % (95% CI)")
    return table(columns, rows, numbers_from=2)


def _claims(findings: Findings) -> Iterator[str]:
    claims = findings.claims
    if claims:
        planned = _counted([claim for claim in claims if claim.claim.planned], "planned claim{}")
        later = _counted([claim for claim in claims if not claim.claim.planned], "claim{} made after results were seen")
        refuted = [claim.claim.says for claim in claims if claim.verdict == "does not hold"]
        yield strong(" ".join(filter(None, (planned, later)))) + (
            escape(f" Refuted: {'; '.join(refuted)}.") if refuted else ""
        )
        caption = (
            "Mean WER of the system named first under a claim minus that of the second, below zero if the first is "
            "better. A claim is decided by p < 0.05; one with a margin, by whether the interval stays below it. "
            "Planned: it was made before any of its results was seen. "
            "Seeds: those in which the first is better, of those that both have."
        )
        columns = ("Claim", "Planned", "It", "Points of WER", "95% CI", "Relative %", "p", "Seeds")
        yield table(columns, [_claim(claim) for claim in claims], numbers_from=3, caption=caption)
    if against := [_against_dense(block, block.dense) for block in findings.blocks.values() if block.dense]:
        yield bullets(against)


_VERDICTS = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "not decided": ("is not decided", "are not decided"),
}


def _counted(claims: Sequence[ClaimFinding], noun: str) -> str:
    if not claims:
        return ""
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in _VERDICTS}
    parts = [f"{count} {_VERDICTS[verdict][count != 1]}" for verdict, count in counts.items() if count]
    early = sum(claim.verdict != "not decided" and not claim.complete for claim in claims)
    lacking = f"; {early} decided {'one lacks' if early == 1 else 'ones lack'} seeds" if early else ""
    return f"Of {len(claims)} {noun.format('s' * (len(claims) != 1))}, {_listed(parts)}{lacking}."


def _claim(result: ClaimFinding) -> list[str]:
    claim, pair = result.claim, result.paired
    margin = f", margin {percent(claim.margin, 1)} points" if claim.margin else ""
    name = cell(claim.says, f"{claim.block}: {claim.better} − {claim.than}{margin}")
    so_far = "" if pair is None or result.complete else "so far"
    verdict = cell(result.verdict, so_far, bold=result.verdict != "not decided")
    first = [name, "yes" if claim.planned else "no", verdict]
    if pair is None:
        return [*first, "", "", "", "", "none yet"]
    p = "" if claim.margin else _p(pair.wer.p)  # p is of a difference from zero, not from the margin
    relative, seeds = _numbers(pair)
    return [*first, points(pair.wer.points, 2), points_interval(pair.wer.ci, 2), relative, p, seeds]


def _against_dense(block: BlockFinding, pair: Paired) -> str:
    which = f"best of {block.sparse} models" if block.sparse > 1 else "one model"
    verdict = "not measurably different from"
    if pair.wer.significant:
        verdict = "better than" if pair.wer.points < 0 else "worse than"
    model = f"{block.name}: the {which} of all languages at {share(block.block.sparsity)}% sparsity, {pair.first}, is "
    chosen = " The best one was chosen by these same tests, which flatters it." if block.sparse > 1 else ""
    other = f", {escape(pair.second)}" if block.rows[pair.first].system.start else ""  # there are several
    came = f"{strong(verdict)} the dense model that it came from{other}"
    return f"{escape(model)}{came}: {difference(pair)}.{chosen}"


def difference(pair: Paired) -> str:
    """``−1.00 points of WER (95% CI −2.00 to −0.10, −4.0% relative), p = 0.030, 3 seeds, lower WER in 2 of them``."""
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


def _numbers(pair: Paired) -> tuple[str, str]:
    """The relative difference, and in how many of the seeds the first is better."""
    return "" if pair.relative is None else points(pair.relative), f"{pair.better} of {len(pair.seeds)}"


def _block(block: BlockFinding) -> Iterator[Part]:
    yield f"## Block {escape(block.name)}"
    yield escape(block.block.about)
    yield escape(_design(block))
    yield escape(_power(block))
    if not block.tables():
        yield "There are no results yet."
    for name, rows in block.tables().items():
        yield f"### {escape(_TITLES.get(name, name))}"
        yield _systems(block, name, rows)
    yield from speeds(block)
    yield from _pairs(block)
    for index, chart in enumerate(charts(block)):
        if not index:
            yield f"### Figures: {escape(block.name)}"
        yield chart
    if block.block.detailed:
        yield from _sizes(block)
        yield from _samples(block)


def _design(block: BlockFinding) -> str:
    recipe = block.block
    languages = _listed([language_name(language) for language in block.languages])
    seeds = _listed([str(seed) for seed in recipe.seeds])
    text = f"{len(block.languages)} languages ({languages})" if len(block.languages) > 1 else languages
    text += f"; seed{'s' * (len(recipe.seeds) != 1)} {seeds}"
    if recipe.folds:
        text += f", each with another part of {recipe.folds} as its test (cross-validation)"
    limit = f", at most {recipe.utterances} utterances a language" if recipe.utterances else ""
    return f"Design: {text}. Tested on {_listed(recipe.test)}{limit}: {block.words:,} words over all seeds so far."


def _power(block: BlockFinding) -> str:
    text = "Power: the recipe counts on nothing. "
    if block.assumed is not None:
        text = (
            f"Power: the recipe counts on {block.block.words:,} words and a standard deviation of "
            f"{block.block.deviation:g} errors a word in the difference of two systems, which, if words were "
            f"independent, would show a true difference of {percent(block.assumed, 2)} points of WER with 80% power "
            "(two-sided, 5%). "
        )
    measured = block.measured
    if not measured:
        return text + "No pair has results to measure it by yet."
    low, middle, high = (percent(value, 2) for value in (measured[0], median(measured), measured[-1]))
    spread = f" (median; {low} to {high})" if len(measured) > 1 else ""
    return text + f"By the bootstrap's standard errors of the pairs below it is {middle} points{spread}."


def _systems(block: BlockFinding, name: str, rows: Sequence[RowFinding]) -> str:
    base = block.base
    shown = [base, *rows] if base and base.pooled and base not in rows else rows
    columns = ["System", "Method", "Sparsity %", "Steps", "Total steps", *block.languages]
    columns += ["Mean (95% CI)", "− dense", "CER %", "Loss", "Union density %", "Mean IoU"]
    caption = (
        f"{block.name}, {_TITLES.get(name, name)}. WER in % by language, its mean, and that minus the dense model's "
        "on the same seeds, which is what to compare rows of other seeds by."
    )
    if any(row.monolingual for row in rows):
        caption += " Each: every language has its own model, trained for so many steps."
    return table(columns, [_system(block, row) for row in shown], numbers_from=2, caption=caption)


def _system(block: BlockFinding, row: RowFinding) -> list[str]:
    pooled, dense = row.pooled, block.base_wer.get(row.seeds)
    assert pooled is not None  # rows without results are in no table
    union, iou = row.mask_mean("union_density"), row.mask_mean("mean_iou")
    return [
        _named(row),
        escape(row.system.method),
        _sparsity(row),
        _steps(row, row.system.steps),
        _steps(row, row.total_steps),
        *(percent(rate.wer) for rate in pooled.languages.values()),
        cell(percent(pooled.wer), percent_interval(pooled.wer_ci), bold=True),
        "" if dense is None or row is block.base else points(pooled.wer - dense),
        percent(pooled.cer),
        f"{pooled.loss:.3f}",
        "" if union is None else percent(union),
        "" if iou is None else f"{iou:.2f}",
    ]


def _named(row: RowFinding) -> str:
    planned = len({run.seed for run in row.row.runs})
    done = f"{len(row.seeds)} of {planned} seeds" if len(row.seeds) < planned else ""
    fewer = f"{planned} seed{'s' * (planned != 1)}" if not done and row.fewer_seeds else ""
    return cell(row.name, "; ".join(part for part in (row.system.note, done or fewer) if part))


def _sparsity(row: RowFinding) -> str:
    return "" if row.row.sparsity is None else share(row.row.sparsity)


def _steps(row: RowFinding, steps: int) -> str:
    if row.system.method == DENSE and not steps:
        return ""
    return cell(f"{steps:,}", "each" if row.monolingual else "")


def _pairs(block: BlockFinding) -> Iterator[str]:
    if not block.pairs:
        return
    yield f"### Comparisons: {escape(block.name)}"
    if pairs := [pair for pair in block.pairs.values() if pair]:
        columns = ("Pair", "First is", "Points of WER", "95% CI", "Relative %", "p", "Points of CER", "p", "Loss")
        caption = (
            "Mean WER of the first minus that of the second: below zero, the first is better. * p < 0.05. "
            "Seeds: those in which the first is better, of those that both have."
        )
        yield table((*columns, "Seeds"), [_pair(pair) for pair in pairs], numbers_from=2, caption=caption)
    if without := [f"{first} and {second}" for (first, second), pair in block.pairs.items() if pair is None]:
        yield escape(f"No results in common yet: {'; '.join(without)}.")


def _pair(pair: Paired) -> list[str]:
    verdict = ("better" if pair.wer.points < 0 else "worse") if pair.wer.significant else "not decided"
    relative, seeds = _numbers(pair)
    return [
        escape(f"{pair.first} − {pair.second}"),
        cell(verdict, bold=pair.wer.significant),
        cell(points(pair.wer.points, 2), bold=pair.wer.significant),
        points_interval(pair.wer.ci, 2),
        relative,
        _starred(pair.wer),
        cell(points(pair.cer.points, 2), bold=pair.cer.significant),
        _starred(pair.cer),
        f"{pair.loss:+.3f}".replace("-", "−"),
        seeds,
    ]


def _starred(difference: Difference) -> str:
    return f"{_p(difference.p)}{_SIGN}" if difference.significant else _p(difference.p)


def _sizes(block: BlockFinding) -> Iterator[str]:
    """Weights and files of each system, of the first seed."""
    rows = []
    for row in _shared(block):
        if "size" in (entry := row.entries[row.seeds[0]][0]):
            sizes, masks = entry["size"], entry["masks"]
            kept = ["", "", ""]
            if masks:
                shares = [1 - sparsity for sparsity in masks["sparsity"].values()]
                ends = dict.fromkeys(map(percent, (min(shares), max(shares))))
                kept = [f"{masks['weights']:,}", "–".join(ends)]
                kept.append(percent(masks["union_density"]))
            files = [size(sizes["bytes"]), size(sizes["mask_bytes"]) if masks else ""]
            rows.append([escape(row.name), f"{sizes['weights']:,}", *kept, *files])
    if rows:
        yield f"### Sizes: {escape(block.name)}"
        columns = ("System", "Weights", "Prunable", "% kept by a language", "% kept by any", "Model file", "Masks")
        caption = (
            "Prunable are the weights of linear, convolution and LSTM layers. The model's file holds the weights that "
            "all languages share, zeros too; masks are one bit a weight and language."
        )
        yield table(columns, rows, numbers_from=1, caption=caption)


def _shared(block: BlockFinding) -> list[RowFinding]:
    """The rows of all tables that are models of all languages."""
    return [row for rows in block.tables().values() for row in rows if not row.monolingual]


def _samples(block: BlockFinding) -> Iterator[str]:
    """One recording of each language, as each system transcribes it; in folds, those that were tested on it."""
    shown = {row.name: row.entries[row.seeds[0]][0].get("samples", {}) for row in _shared(block)}
    for index, language in enumerate(block.languages):
        texts = {name: samples[language] for name, samples in shown.items() if language in samples}
        if not texts:
            continue
        if not index:
            yield f"### A recording of each language: {escape(block.name)}"
            yield "**Wrong word**, ~~missing word~~, *extra word*. At the right, errors of reference words."
        spoken = mode(sample["id"] for sample in texts.values())
        texts = {name: sample for name, sample in texts.items() if sample["id"] == spoken}
        first = next(iter(texts.values()))
        yield f"#### {escape(language_name(language))}, `{first['id']}`"
        rows = [["reference", escape(first["reference"]), ""]]
        for name, sample in texts.items():
            edits = align(sample["reference"], sample["hypothesis"])
            wrong = sum(edit.kind != "equal" for edit in edits)
            words = len(sample["reference"].split())
            rows.append([escape(name), " ".join(map(_marked, edits)), f"{wrong} of {words}"])
        yield table(("System", "Text", "Errors"), rows, numbers_from=2)


def _marked(edit: Edit) -> str:
    word = escape(edit.hypothesis if edit.hypothesis is not None else edit.reference or "")
    sign = {"equal": "", "substitute": "**", "delete": "~~", "insert": "*"}[edit.kind]
    return f"{sign}{word}{sign}"
