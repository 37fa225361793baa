from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asr_pathways.evaluation.significance import Difference, Paired
from asr_pathways.evaluation.wer import align
from asr_pathways.experiment.findings import BlockFinding, Findings, gather
from asr_pathways.experiment.report.sections import _marked, main_table, report
from tests.experiment.example import fill, planned


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    root, plan = tmp_path_factory.mktemp("experiment"), planned()
    fill(plan, root)
    results = gather(plan, root / "ledger")
    return replace(results, blocks={"folds": results.blocks["folds"]})


def lines_of(findings: Findings) -> list[str]:
    """The report's lines but for its title; charts are tested elsewhere."""
    parts = [part for part in report(findings, None, "make results") if isinstance(part, str)]
    return "\n\n".join(parts[1:]).splitlines()


def rows_of(lines: list[str], first: str) -> list[list[list[str]]]:
    """The cells of each table whose first heading is ``first``."""
    tables: list[list[list[str]]] = []
    for text in re.findall(rf"^\| {first} \|.*\n\| ---.*\n((?:\|.*\n?)+)", "\n".join(lines), flags=re.MULTILINE):
        tables.append([[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()])
    return tables


def with_dense(findings: Findings, points: float, ci: tuple[float, float], p: float) -> Findings:
    difference = Difference(points, ci, p, 0.01)
    pair = Paired("dynamic", "dense", (0, 1, 2), difference, points / 0.1, difference, 0.0, 2)
    block = replace(findings.blocks["folds"], dense=pair, sparse=4)
    return replace(findings, blocks={"folds": block}, claims=findings.claims[:1])


@pytest.mark.parametrize(
    ("points", "ci", "p", "verdict", "end"),
    [
        (-0.02, (-0.03, -0.01), 0.001, "better than", "lower WER in 2 of them."),
        (0.02, (0.01, 0.03), 0.0002, "worse than", "lower WER in 2 of them."),
        (
            0.001,
            (-0.01, 0.0123),
            0.8,
            "not measurably different from",
            "chosen by these same tests, which flatters it.",
        ),
        (-0.02, (-0.03, -0.001), 0.06, "not measurably different from", "p = 0.060, 3 seeds"),
    ],
)
def test_against_the_dense_model(
    findings: Findings, points: float, ci: tuple[float, float], p: float, verdict: str, end: str
) -> None:
    lines = lines_of(with_dense(findings, points, ci, p))
    assert lines[0] == "**Of 1 planned claim, 1 holds.**"
    (line,) = [line for line in lines if line.startswith("- folds: the best of 4 models of all languages")]
    assert f"at 70% sparsity, dynamic, is **{verdict}** the dense model that it came from: " in line
    assert end in line and "3 seeds" in line


def test_a_dense_model_that_is_not_the_blocks_is_named(findings: Findings) -> None:
    block = with_dense(findings, 0.02, (0.01, 0.03), 0.0002).blocks["folds"]
    row = block.rows["dynamic"]
    system = row.system.model_copy(update={"start": "dense"})
    of_trained = replace(row, row=replace(row.row, variant=replace(row.row.variant, system=system)))
    block = replace(block, rows={**block.rows, "dynamic": of_trained})
    lines = lines_of(replace(findings, blocks={"folds": block}))
    assert any("**worse than** the dense model that it came from, dense: +2.00 points" in line for line in lines)


def test_it_begins_with_what_the_recipe_says_of_it(findings: Findings) -> None:
    said = replace(findings, recipe=findings.recipe.model_copy(update={"about": "See [more](more.md)."}))
    assert lines_of(said)[0] == "See [more](more.md)." and lines_of(said)[2:] == lines_of(findings)


def test_claims_made_after_the_results_are_counted_apart(findings: Findings) -> None:
    later = [replace(found, claim=found.claim.model_copy(update={"planned": False})) for found in findings.claims[:2]]
    lines = lines_of(replace(findings, claims=[*later, findings.claims[2]]))
    assert lines[0] == (
        "**Of 1 planned claim, 1 is not decided. Of 2 claims made after results were seen, 1 holds and 1 does not "
        "hold.** Refuted: Stages beat adapting."
    )


def test_a_claim_that_lacks_seeds_is_marked(findings: Findings) -> None:
    early = replace(findings.claims[0], planned_seeds=5)
    lines = lines_of(replace(findings, claims=[early]))
    (table,) = rows_of(lines, "Claim")
    assert table[0][2] == "**holds** (so far)"
    assert lines[0] == "**Of 1 planned claim, 1 holds; 1 decided one lacks seeds.**"


def test_design_and_power(findings: Findings) -> None:
    lines = "\n".join(lines_of(findings))
    assert "2 languages (English and French); seeds 0 and 1, each with another part of 2 as its test" in lines
    assert "400 words and a standard deviation of 0.5 errors a word" in lines
    assert "a true difference of 7.00 points of WER with 80% power" in lines


def test_the_dense_model_is_at_the_head_of_each_table_once(findings: Findings) -> None:
    tables = rows_of(lines_of(findings), "System")
    names = [[row[0].split(" (")[0] for row in table] for table in tables]
    assert names == [["dense", "fixed", "dynamic"], ["dense", "IMP", "adaptive", "LTH"]]
    assert {len(row) for table in tables for row in table} == {13}


def test_the_main_table_has_rows_of_all_seeds_monolingual_ones_first(findings: Findings) -> None:
    (table,) = rows_of(main_table(findings.blocks["folds"]).splitlines(), "System")
    assert [(row[0].split(" (")[0], row[1]) for row in table] == [
        ("IMP", "monolingual"),
        ("adaptive", "monolingual"),
        ("dense", "multilingual"),
        ("dynamic", "multilingual"),
    ]


def test_the_main_table_of_other_tables_has_all_their_rows(tmp_path: Path) -> None:
    plan = planned()
    fill(plan, tmp_path)
    rows = gather(plan, tmp_path / "ledger").blocks["plain"].tables()["Sparsity"]
    shown = main_table(cast(BlockFinding, SimpleNamespace(tables=lambda: {"Sparsity": rows})))
    (table,) = rows_of(shown.splitlines(), "System")
    assert rows and [(row[0], row[1]) for row in table] == [(row.name, "multilingual") for row in rows]


def test_a_detailed_block_has_sizes_and_samples(findings: Findings) -> None:
    block = findings.blocks["folds"]
    detailed = replace(block, block=block.block.model_copy(update={"detailed": True}))
    lines = lines_of(replace(findings, blocks={"folds": detailed}))
    sizes = {row[0]: row[1:] for row in rows_of(lines, "System")[2]}
    assert sizes["dynamic"] == ["2,000", "1,000", "30.0", "40.0", "8.0 kB", "250 B"]
    assert sizes["dense"] == ["2,000", "", "", "", "8.0 kB", ""]
    place = lines.index("#### English, `en-1`")
    (sample,) = rows_of(lines[place : lines.index("#### French, `fr-1`")], "System")
    assert sample[0] == ["reference", "one two three four", ""]
    assert ["dynamic", "one **tow** three **five_six**", "2 of 4"] in sample
    assert ["dense", "one two three four", "0 of 4"] in sample
    assert lines[lines.index("## Data") + 2] == "- Prompts by somebody (CC0)"
    assert not any("en-1" in line for line in lines_of(findings))


def detailed(findings: Findings, row: str, **changes: Any) -> list[str]:
    """The lines of a detailed block, with changes to the entry of a row's first seed."""
    block = findings.blocks["folds"]
    found = block.rows[row]
    seed, *others = found.seeds
    changed = {seed: [{**found.entries[seed][0], **changes}], **{other: found.entries[other] for other in others}}
    rows = {**block.rows, row: replace(found, entries=changed)}
    block = replace(block, block=block.block.model_copy(update={"detailed": True}), rows=rows)
    return lines_of(replace(findings, blocks={"folds": block}))


def test_the_least_and_most_that_languages_keep_are_compared_as_numbers(findings: Findings) -> None:
    masks = dict(findings.blocks["folds"].rows["dynamic"].entries[0][0]["masks"])
    masks["sparsity"] = {"en": 0.905, "fr": 0.7, "it": 0.9}
    sizes = {row[0]: row[1:] for row in rows_of(detailed(findings, "dynamic", masks=masks), "System")[2]}
    assert sizes["dynamic"][2] == "9.5–30.0"


def test_a_recording_is_shown_as_transcribed_by_the_systems_that_were_tested_on_it(findings: Findings) -> None:
    other = {"id": "en-2", "language": "en", "reference": "five six", "hypothesis": "five six"}
    lines = detailed(findings, "dense", samples={"en": other})
    place = lines.index("#### English, `en-1`")
    sample = rows_of(lines[place:], "System")[0]
    assert [row[0] for row in sample] == ["reference", "fixed", "dynamic"]


def test_a_sparsity_is_not_rounded(findings: Findings) -> None:
    block = findings.blocks["folds"]
    row = block.rows["dynamic"]
    halves = replace(block, rows={**block.rows, "dynamic": replace(row, row=replace(row.row, sparsity=0.925))})
    table = rows_of(lines_of(replace(findings, blocks={"folds": halves})), "System")[0]
    assert [line[2] for line in table] == ["", "70", "92.5"]


@pytest.mark.parametrize(
    ("hypothesis", "marked"),
    [
        ("one three", "one ~~two~~ three"),
        ("one two too three", "one two *too* three"),
        ("", "~~one~~ ~~two~~ ~~three~~"),
    ],
)
def test_missing_and_extra_words_are_marked(hypothesis: str, marked: str) -> None:
    assert " ".join(map(_marked, align("one two three", hypothesis))) == marked


def test_nothing_planned_is_missing(findings: Findings) -> None:
    complete = replace(findings, missing_cells=0, missing={})
    assert not any("no result yet" in line for line in lines_of(complete))
    lines = lines_of(findings)
    assert any("8 of 35 cells have no result yet" in line for line in lines)
    assert "- folds: LTH (1 of 4); PARP (4 of 4); fixed (1 of 2)" in lines
