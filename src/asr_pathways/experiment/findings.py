"""All results of a plan that the ledger holds: rows, comparisons, claims, and what is still missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import Bootstrap, Paired, Pooled, UtteranceCounts, detectable, detectable_by
from asr_pathways.experiment.ledger import read_entry, tested
from asr_pathways.experiment.plan import Plan, Row
from asr_pathways.experiment.recipe import DENSE, Block, Claim, ExperimentRecipe, SystemSpec

Entry = Mapping[str, Any]
Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class RowFinding:
    """A row and its results.

    Attributes:
        entries: of each seed of which all cells have one.
        total_steps: of each of its runs, with those of the runs that made its masks.
        fewer_seeds: whether it was planned with fewer seeds than the block has.
        pooled: rates over the seeds; None if there are none.
    """

    row: Row
    entries: Mapping[int, Sequence[Entry]]
    total_steps: int
    fewer_seeds: bool
    pooled: Pooled | None

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def system(self) -> SystemSpec:
        return self.row.system

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.entries)

    @property
    def monolingual(self) -> bool:
        """Whether each language has its own model."""
        return self.system.languages == "each"

    def mask_mean(self, key: str) -> float | None:
        """The mean over seeds of a number about masks, for a model of all languages; None where there is none."""
        if self.monolingual:
            return None
        values = [entry["masks"][key] for entries in self.entries.values() for entry in entries if entry["masks"]]
        return fmean(values) if values and None not in values else None


@dataclass(frozen=True)
class BlockFinding:
    """A block of the recipe and its results.

    Attributes:
        languages: that it is tested on.
        rows: all, by name; those without results too.
        pairs: (first, second) and their comparison, None where they have no seed in common yet.
        base_wer: by seeds, for those of every row: the mean WER of the dense model that all start from.
        dense: the best sparse model of all languages at the block's sparsity against the dense one it came from.
        sparse: how many there were to choose that best one from.
    """

    name: str
    block: Block
    languages: tuple[str, ...]
    rows: Mapping[str, RowFinding]
    pairs: Mapping[tuple[str, str], Paired | None]
    base_wer: Mapping[tuple[int, ...], float]
    dense: Paired | None
    sparse: int

    def tables(self) -> dict[str, list[RowFinding]]:
        """Rows with results by table, in order of appearance; helpers' rows are in none."""
        tables: dict[str, list[RowFinding]] = {}
        for row in self.rows.values():
            if row.system.table and row.pooled:
                tables.setdefault(row.system.table, []).append(row)
        return tables

    @property
    def base(self) -> RowFinding | None:
        """The dense model that all start from, if it is a row."""
        return _base(self.rows)

    @property
    def assumed(self) -> float | None:
        """The detectable difference by the recipe's words and deviation."""
        return detectable(self.block.words, self.block.deviation) if self.block.words else None

    @property
    def measured(self) -> list[float]:
        """The detectable differences by the standard errors, where these are known, of the pairs that have the most
        seeds, in rising order.
        """
        pairs = [pair for pair in self.pairs.values() if pair]
        most = max((len(pair.seeds) for pair in pairs), default=0)
        errors = [pair.wer.error for pair in pairs if len(pair.seeds) == most]
        return sorted(detectable_by(error) for error in errors if math.isfinite(error))

    @property
    def words(self) -> int:
        """How many words the system that was tested most was tested on, over seeds."""
        # Not the model that all start from: untrained, it is one model for all seeds, tested once.
        words = [row.pooled.words for row in self.rows.values() if row.pooled and not _is_base(row)]
        return max(words, default=0)


@dataclass(frozen=True)
class ClaimFinding:
    """A claim of the recipe and its verdict.

    Attributes:
        paired: its systems compared; None while they have no seed in common.
        planned_seeds: how many seeds they will have in common.
    """

    claim: Claim
    paired: Paired | None
    planned_seeds: int

    @property
    def complete(self) -> bool:
        """Whether all seeds that both systems are planned with are in."""
        return self.paired is not None and len(self.paired.seeds) == self.planned_seeds

    @property
    def verdict(self) -> Verdict:
        if self.paired is None:
            return "not decided"
        wer, margin = self.paired.wer, self.claim.margin
        if margin:  # non-inferiority: the whole interval is on one side of the margin
            return "holds" if wer.ci[1] < margin else "does not hold" if wer.ci[0] > margin else "not decided"
        if not wer.significant:
            return "not decided"
        return "holds" if wer.points < 0 else "does not hold"


@dataclass(frozen=True)
class Findings:
    """All results.

    Attributes:
        cells: how many are planned.
        missing_cells: how many cells have no entry; a cell that several rows need counts once.
        missing: {block: {row: (cells without an entry, cells)}}; models that are no row are under ``others``.
        blocks, claims: in the recipe's order.
    """

    recipe: ExperimentRecipe
    cells: int
    missing_cells: int
    missing: Mapping[str, Mapping[str, tuple[int, int]]]
    blocks: Mapping[str, BlockFinding]
    claims: Sequence[ClaimFinding]

    @property
    def sources(self) -> list[str]:
        """Attribution and licence of the corpora, of ledger entries that name them."""
        entries = [
            e for b in self.blocks.values() for row in b.rows.values() for es in row.entries.values() for e in es
        ]
        return list(dict.fromkeys(source for entry in entries for source in entry.get("sources", ())))


def gather(plan: Plan, ledger: Path) -> Findings:
    """Reads the ledger's entries of a plan, pools and compares.

    Raises:
        PathwaysError: if an entry is damaged, or runs that are to be compared were tested on other utterances.
    """
    read = {name: read_entry(ledger, name) for name in plan.cells}
    entries = {name: entry for name, entry in read.items() if entry is not None}
    blocks = {name: _block(plan, name, entries) for name in plan.recipe.blocks}
    claims = []
    for claim in plan.recipe.claims:
        block = blocks[claim.block]
        planned = [{run.seed for run in block.rows[name].row.runs} for name in (claim.better, claim.than)]
        claims.append(ClaimFinding(claim, block.pairs[claim.better, claim.than], len(planned[0] & planned[1])))
    missing = plan.cells.keys() - entries.keys()
    return Findings(plan.recipe, len(plan.cells), len(missing), _missing(plan, missing), blocks, claims)


def _block(plan: Plan, name: str, entries: Mapping[str, Entry]) -> BlockFinding:
    block = plan.recipe.blocks[name]
    rows = [row for row in plan.rows if row.block == name]
    languages = tuple(dict.fromkeys(language for row in rows for run in row.runs for language in run.languages))
    complete = {row.name: _complete(row, entries) for row in rows}
    runs = {
        row.name: {seed: _counts(row, seed, entries, languages) for seed in complete[row.name]}
        for row in rows
        if complete[row.name]
    }
    bootstrap = Bootstrap(runs)
    results = {
        row.name: RowFinding(
            row,
            complete[row.name],
            max((plan.cells[run.cell].total_steps for run in row.runs), default=0),
            len({run.seed for run in row.runs}) < len(block.seeds),
            bootstrap.pooled(row.name) if row.name in runs else None,
        )
        for row in rows
    }
    claimed = [(claim.better, claim.than) for claim in plan.recipe.claims if claim.block == name]
    pairs = {
        (a, b): bootstrap.compare(a, b) if a in runs and b in runs else None
        for a, b in dict.fromkeys([*block.compare, *claimed])
    }
    base_wer = _base_wer(results, bootstrap)
    return BlockFinding(name, block, languages, results, pairs, base_wer, *_against_dense(results, block, bootstrap))


def _complete(row: Row, entries: Mapping[str, Entry]) -> dict[int, list[Entry]]:
    """The entries of each seed of which none is missing, in the order of seeds: rows of the same ones are alike."""
    by_seed: dict[int, list[str]] = {}
    for run in sorted(row.runs, key=lambda run: run.seed):
        by_seed.setdefault(run.seed, []).append(run.cell)
    return {seed: [entries[cell] for cell in cells] for seed, cells in by_seed.items() if entries.keys() >= {*cells}}


def _counts(row: Row, seed: int, entries: Mapping[str, Entry], languages: Sequence[str]) -> dict[str, UtteranceCounts]:
    """The counts of one seed, language by language, whichever cell they come from."""
    counts: dict[str, UtteranceCounts] = {}
    for run in row.runs:
        if run.seed == seed:
            of_cell = tested(entries[run.cell])
            counts |= {language: of_cell[language] for language in run.languages if language in of_cell}
    absent = [language for language in languages if language not in counts]
    if absent:
        raise PathwaysError(f"{row.block}: {row.name}, seed {seed}: the ledger has no test of {', '.join(absent)}")
    return {language: counts[language] for language in languages}


def _base_wer(rows: Mapping[str, RowFinding], bootstrap: Bootstrap) -> dict[tuple[int, ...], float]:
    base = _base(rows)
    if base is None:
        return {}
    wanted = {row.seeds for row in rows.values() if row.pooled}
    return {seeds: bootstrap.pooled(base.name, seeds).wer for seeds in wanted if {*seeds} <= {*base.seeds}}


def _against_dense(rows: Mapping[str, RowFinding], block: Block, bootstrap: Bootstrap) -> tuple[Paired | None, int]:
    """The best sparse row, over as many seeds as there are, against its dense one, and how many were to choose from."""
    base = _base(rows)
    if base is None or base.pooled is None:
        return None, 0
    pairs: dict[tuple[str, ...], Paired] = {}  # by cells: a model that is in two tables counts once
    for row in rows.values():
        shown = row.pooled and row.system.table and not row.monolingual
        if shown and row.row.sparsity == block.sparsity and (pair := bootstrap.compare(row.name, base.name)):
            pairs.setdefault(tuple(run.cell for run in row.row.runs if run.seed in pair.seeds), pair)
    most = max((len(pair.seeds) for pair in pairs.values()), default=0)
    equal = [pair for pair in pairs.values() if len(pair.seeds) == most]
    best = min(equal, key=lambda pair: pair.wer.points, default=None)
    if best is not None and (start := rows[best.first].system.start):  # not of the base, but of one trained from that
        best = bootstrap.compare(best.first, start) if rows[start].pooled else None
    return best, len(equal)


def most_seeds(rows: Sequence[RowFinding]) -> list[RowFinding]:
    """Of rows those of the same seeds, as many as there are: a mean over others is one over other utterances."""
    groups: dict[tuple[int, ...], list[RowFinding]] = {}
    for row in rows:
        groups.setdefault(row.seeds, []).append(row)
    return max(groups.values(), key=lambda group: (len(group[0].seeds), len(group)), default=[])


def _base(rows: Mapping[str, RowFinding]) -> RowFinding | None:
    return next((row for row in rows.values() if _is_base(row)), None)


def _is_base(row: RowFinding) -> bool:
    return row.system.method == DENSE and row.system.steps == 0


def _missing(plan: Plan, missing: set[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """{block: {row: (cells without an entry, cells)}}; cells of no row are under ``others``."""
    by_block: dict[str, dict[str, tuple[int, int]]] = {}
    for row in plan.rows:
        cells = {run.cell for run in row.runs}
        if absent := cells & missing:
            by_block.setdefault(row.block, {})[row.name] = (len(absent), len(cells))
    named = {run.cell for row in plan.rows for run in row.runs}
    for name, cell in plan.cells.items():
        if name in missing - named:
            by_block.setdefault("others", {})[cell.label] = (1, 1)
    return by_block


def as_json(findings: Findings) -> dict[str, Any]:
    """Every number of the tables as plain data; rates and differences are fractions."""
    data = {
        "title": findings.recipe.title,
        "cells": {"planned": findings.cells, "missing": findings.missing_cells, "missing_by_row": findings.missing},
        "claims": [
            {**result.claim.model_dump(), "verdict": result.verdict, "complete": result.complete}
            | {"comparison": result.paired and asdict(result.paired)}
            for result in findings.claims
        ],
        "blocks": {
            name: {
                "languages": block.languages,
                "words": block.words,
                "detectable": {"assumed": block.assumed, "measured": block.measured},
                "tables": {table: [_row_json(row) for row in rows] for table, rows in block.tables().items()},
                "pairs": [
                    asdict(pair) if pair else {"first": first, "second": second, "seeds": []}
                    for (first, second), pair in block.pairs.items()
                ],
                "best_sparse_and_dense": block.dense and asdict(block.dense),
            }
            for name, block in findings.blocks.items()
        },
    }
    # Six figures after the point: what another machine's arithmetic may change is not written.
    rounded: dict[str, Any] = json.loads(
        json.dumps(data), parse_float=lambda text: round(float(text), 6), parse_constant=lambda _: None
    )  # an infinite interval, of too few utterances, is null
    return rounded


def _row_json(row: RowFinding) -> dict[str, Any]:
    pooled = row.pooled
    assert pooled is not None  # tables have no others
    variant, system = row.row.variant, row.system.model_dump(include={"method", "languages", "init", "steps", "note"})
    numbers = asdict(replace(pooled, replicates=np.empty(0), shares={}))
    del numbers["replicates"], numbers["shares"]
    return {
        **{"system": row.name, "base": variant.base, "varied": variant.varied, **system},
        **{"sparsity": row.row.sparsity, "total_steps": row.total_steps, "words": pooled.words, **numbers},
        **{key: row.mask_mean(key) for key in ("union_density", "mean_iou")},
    }
