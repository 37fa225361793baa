from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from asr_pathways.experiment.document import Bullets, Paragraph, Table, markdown
from asr_pathways.experiment.findings import BlockFinding, Findings, gather
from asr_pathways.experiment.report import main_table, report
from asr_pathways.experiment.significance import Difference, Paired
from tests.experiment.example import fill, planned


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    root, plan = tmp_path_factory.mktemp("experiment"), planned()
    fill(plan, root)
    found = gather(plan, root / "ledger")
    # Figures are others' tests.
    return replace(found, blocks={"folds": found.blocks["folds"]})


def said(findings: Findings) -> list[str]:
    parts = [part for part in report(findings, None, "make results") if isinstance(part, Paragraph | Bullets)]
    return markdown(parts, "").splitlines()


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
    lines = said(with_dense(findings, points, ci, p))
    assert lines[0] == "**Of 1 planned claim, 1 holds.**"
    (line,) = [line for line in lines if line.startswith("- folds: the best of 4 models of all languages")]
    assert f"at 70% sparsity, dynamic, is **{verdict}** the dense model that it came from: " in line
    assert end in line and "3 seeds" in line


def test_claims_made_after_the_results_are_counted_apart(findings: Findings) -> None:
    later = [replace(found, claim=found.claim.model_copy(update={"planned": False})) for found in findings.claims[:2]]
    lines = said(replace(findings, claims=[*later, findings.claims[2]]))
    assert lines[0] == (
        "**Of 1 planned claim, 1 is not decided. Of 2 claims made after results were seen, 1 holds and 1 does not "
        "hold.** Refuted: Stages beat adapting."
    )


def test_a_claim_that_lacks_seeds_is_marked(findings: Findings) -> None:
    early = replace(findings.claims[0], planned_seeds=5)
    parts = report(replace(findings, claims=[early]), None, "")
    table = next(part for part in parts if isinstance(part, Table))
    assert (table.rows[0][2].text, table.rows[0][2].small) == ("holds", "so far")


def test_design_and_power_are_told(findings: Findings) -> None:
    lines = "\n".join(said(findings))
    assert "2 languages (English and French); seeds 0 and 1, each with a part of its own of 2 as its test" in lines
    assert "400 words and a standard deviation of 0.5 errors a word" in lines
    assert "a true difference of 7.00 points of WER with 80% power" in lines


def test_the_dense_model_stands_at_the_head_of_each_table_once(findings: Findings) -> None:
    tables = [part for part in report(findings, None, "") if isinstance(part, Table) and "System" in part.columns]
    assert [[row[0].text for row in table.rows] for table in tables] == [
        ["dense", "fixed", "dynamic"],
        ["dense", "IMP", "adaptive", "LTH"],
    ]
    assert {len(row) for table in tables for row in table.rows} == {len(tables[0].columns)} == {13}


def test_the_main_table_has_rows_of_all_seeds_monolingual_ones_first(findings: Findings) -> None:
    table = main_table(findings.blocks["folds"])
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        ("IMP", "monolingual"),
        ("adaptive", "monolingual"),
        ("dense", "multilingual"),
        ("dynamic", "multilingual"),
    ]


def test_the_main_table_of_other_tables_has_all_their_rows(tmp_path: Path) -> None:
    plan = planned()
    fill(plan, tmp_path)
    rows = gather(plan, tmp_path / "ledger").blocks["plain"].tables()["Sparsity"]
    table = main_table(cast(BlockFinding, SimpleNamespace(tables=lambda: {"Sparsity": rows})))
    assert rows and [(row[0].text, row[1].text) for row in table.rows] == [(row.name, "multilingual") for row in rows]


def test_nothing_planned_is_missing(findings: Findings) -> None:
    complete = replace(findings, missing_cells=0, missing={})
    assert not any("no result yet" in line for line in said(complete))
    lines = said(findings)
    assert any("8 of 35 cells have no result yet" in line for line in lines)
    assert "- folds: LTH (1 of 4); PARP (4 of 4); fixed (1 of 2)" in lines
