from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import detectable
from asr_pathways.experiment import ledger
from asr_pathways.experiment.findings import Findings, as_json, gather, most_seeds
from asr_pathways.experiment.plan import Plan
from tests.experiment.example import WRONG, as_data, counts, entry_of, fill, planned


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture(scope="module")
def root(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("experiment")
    fill(plan, root)
    return root


@pytest.fixture(scope="module")
def findings(plan: Plan, root: Path) -> Findings:
    return gather(plan, root / "ledger")


def rate_of(plan: Plan, block: str, name: str, language: str, seeds: set[int]) -> float:
    """Straight from the example's counts."""
    wrong = words = 0
    for run in plan.row(block, name).runs:
        if run.seed in seeds and language in run.languages:
            cell = plan.cells[run.cell]
            rate = WRONG[cell.spec.get("method", "dense")] / 100
            tested = counts(language, cell.spec["data"].get("fold", 0), rate, cell.name)
            wrong, words = wrong + sum(tested.word_errors), words + sum(tested.words)
    return wrong / words


@pytest.mark.parametrize(
    ("block", "name", "seeds"),
    [
        ("folds", "dense", {0, 1}),
        ("folds", "adaptive", {0, 1}),
        ("folds", "LTH", {0}),
        ("folds", "fixed", {0}),
        ("plain", "grown, sparsity 0.5, adapt_every none", {0, 1}),
    ],
)
def test_rows_pool_the_seeds_that_are_whole(
    plan: Plan, findings: Findings, block: str, name: str, seeds: set[int]
) -> None:
    row = findings.blocks[block].rows[name]
    assert set(row.seeds) == seeds and row.pooled is not None
    expected = [rate_of(plan, block, name, language, seeds) for language in ("en", "fr")]
    assert [rate.wer for rate in row.pooled.languages.values()] == pytest.approx(expected)
    assert row.pooled.wer == pytest.approx(sum(expected) / 2)
    assert row.pooled.wer_ci[0] < row.pooled.wer < row.pooled.wer_ci[1]


def test_a_seed_lacking_a_language_does_not_count(findings: Findings) -> None:
    """Of LTH, seed 1, one of two languages is there."""
    rows = findings.blocks["folds"].rows
    assert rows["LTH"].seeds == (0,) and rows["PARP"].seeds == () and rows["PARP"].pooled is None


def test_what_is_missing_is_counted_once_and_named(plan: Plan, findings: Findings) -> None:
    # A model, an LTH, a fixed, 4 PARP, one that never ran.
    assert (findings.cells, findings.missing_cells) == (len(plan.cells), 8)
    assert findings.missing == {
        "folds": {"LTH": (1, 4), "PARP": (4, 4), "fixed": (1, 2)},
        "plain": {"never run": (1, 1)},
        "others": {"model scratch": (1, 1)},
    }


def test_tables_in_order_without_helpers_and_empty_rows(findings: Findings) -> None:
    names = {name: [row.name for row in rows] for name, rows in findings.blocks["folds"].tables().items()}
    assert names == {"B": ["dense", "fixed", "dynamic"], "A": ["IMP", "adaptive", "LTH"]}
    assert len(findings.blocks["plain"].tables()["Sparsity"]) == 4


def test_steps_and_masks(findings: Findings) -> None:
    rows = findings.blocks["folds"].rows
    assert (rows["fixed"].system.steps, rows["fixed"].total_steps) == (100, 100 + 2 * 20)
    assert (rows["dynamic"].total_steps, rows["IMP"].total_steps, rows["dense"].total_steps) == (110, 20, 0)
    assert (rows["dynamic"].mask_mean("union_density"), rows["dynamic"].mask_mean("mean_iou")) == (0.4, 0.75)
    assert rows["IMP"].mask_mean("union_density") is None and rows["dense"].mask_mean("mean_iou") is None


def test_pairs_are_those_asked_for_and_those_claimed(findings: Findings) -> None:
    pairs = findings.blocks["folds"].pairs
    assert list(pairs) == [
        ("adaptive", "IMP"),
        ("dynamic", "fixed"),
        ("adaptive", "PARP"),
        ("IMP", "adaptive"),
        ("fixed", "PARP"),
    ]
    one, other, none = pairs["adaptive", "IMP"], pairs["dynamic", "fixed"], pairs["adaptive", "PARP"]
    assert one is not None and one.seeds == (0, 1) and one.wer.points < 0
    assert other is not None and other.seeds == (0,) and none is None


def test_verdicts(findings: Findings) -> None:
    assert [claim.verdict for claim in findings.claims] == ["holds", "does not hold", "not decided"]


def test_the_dense_model_is_pooled_over_each_rows_seeds(findings: Findings) -> None:
    found = findings.blocks["folds"]
    assert set(found.base_wer) == {row.seeds for row in found.rows.values() if row.pooled} == {(0,), (0, 1)}
    base = found.base
    assert base is not None and base.pooled is not None
    assert found.base_wer[0, 1] == base.pooled.wer and found.base_wer[(0,)] == base.pooled.wer_by_seed[0]


def test_rows_of_the_same_seeds_not_of_as_many(findings: Findings) -> None:
    rows = [row for row in findings.blocks["folds"].rows.values() if row.pooled]
    both = next(row for row in rows if row.seeds == (0, 1))
    entries = list(both.entries.values())
    odd = replace(both, entries={0: entries[0], 7: entries[1]})
    assert most_seeds([both, odd, both]) == [both, both] and most_seeds([]) == []


def test_a_claim_is_complete_with_the_seeds_that_both_are_planned_with(findings: Findings, plan: Plan) -> None:
    assert [(claim.planned_seeds, claim.complete) for claim in findings.claims] == [(2, True), (2, True), (2, False)]


@pytest.mark.parametrize(("margin", "verdict"), [(0.001, "does not hold"), (0.08, "not decided"), (0.4, "holds")])
def test_a_claim_with_a_margin_asks_for_the_whole_interval(root: Path, margin: float, verdict: str) -> None:
    worse = {"says": "x", "block": "folds", "better": "IMP", "than": "adaptive", "margin": margin}
    (claim,) = gather(planned(claims=[worse]), root / "ledger").claims
    assert claim.paired is not None and claim.paired.wer.ci[0] < 0.08 < claim.paired.wer.ci[1]
    assert claim.verdict == verdict


def test_a_claim_without_significance_is_not_decided(plan: Plan, root: Path) -> None:
    same = planned(claims=[{"says": "x", "block": "plain", "better": "dense", "than": "dense"}])
    (claim,) = gather(same, root / "ledger").claims
    assert claim.paired is not None and claim.paired.wer.p == 1 and claim.verdict == "not decided"


def test_the_best_sparse_model_of_all_languages_against_its_dense_one(findings: Findings) -> None:
    block = findings.blocks["folds"]
    assert block.dense is not None
    assert (block.dense.first, block.dense.second, block.dense.seeds) == ("dynamic", "dense", (0, 1))
    assert block.sparse == 1  # fixed has fewer seeds
    assert findings.blocks["plain"].dense is None  # nothing there has the block's sparsity


def test_a_sparse_model_of_a_trained_dense_one_is_compared_with_that(tmp_path: Path) -> None:
    data = as_data()
    systems = data["blocks"]["plain"]["systems"]
    systems["trained"] = {"method": "dense", "table": "B", "steps": 50}
    systems["of trained"] = {"method": "dynamic", "table": "B", "steps": 100, "start": "trained"}
    plan = planned(blocks=data["blocks"])
    fill(plan, tmp_path)
    block = gather(plan, tmp_path / "ledger").blocks["plain"]
    assert block.dense is not None and (block.dense.first, block.dense.second) == ("of trained", "trained")
    for run in plan.row("plain", "trained").runs:
        (tmp_path / "ledger" / f"{run.cell}.json").unlink()
    assert gather(plan, tmp_path / "ledger").blocks["plain"].dense is None


def test_power(findings: Findings) -> None:
    block = findings.blocks["folds"]
    assert block.assumed == pytest.approx(detectable(400, 0.5))
    pair = block.pairs["adaptive", "IMP"]
    assert pair is not None
    # Both directions of that pair have two seeds, the other pair has one.
    assert block.measured == pytest.approx([2.8016 * pair.wer.error] * 2, rel=1e-4)
    assert block.words == sum(sum(counts(x, fold, 0, "").words) for x in ("en", "fr") for fold in (0, 1))
    assert findings.blocks["plain"].assumed is None and findings.blocks["plain"].measured == []


def test_json_has_every_number(findings: Findings) -> None:
    found = as_json(findings)
    json.dumps(found, allow_nan=False)
    assert [claim["verdict"] for claim in found["claims"]] == ["holds", "does not hold", "not decided"]
    block = found["blocks"]["folds"]
    row = next(row for row in block["tables"]["A"] if row["system"] == "LTH")
    pooled = findings.blocks["folds"].rows["LTH"].pooled
    assert pooled is not None
    assert (row["seeds"], row["wer"], row["wer_ci"]) == (
        [0],
        round(pooled.wer, 6),
        [round(x, 6) for x in pooled.wer_ci],
    )
    assert row["languages"]["fr"]["cer"] == round(pooled.languages["fr"].cer, 6)
    assert (row["method"], row["total_steps"], row["mean_iou"]) == ("lth", 20, None)
    pair = findings.blocks["folds"].pairs["adaptive", "IMP"]
    assert pair is not None
    assert block["pairs"][0]["wer"]["p"] == round(pair.wer.p, 6)
    assert block["pairs"][2] == {"first": "adaptive", "second": "PARP", "seeds": []}
    assert block["detectable"]["assumed"] == round(detectable(400, 0.5), 6)
    assert found["cells"]["missing"] == 8


def test_an_interval_of_too_few_utterances_is_null(findings: Findings) -> None:
    block = findings.blocks["folds"]
    pair = block.pairs["adaptive", "IMP"]
    assert pair is not None
    unknown = replace(pair, wer=replace(pair.wer, ci=(-math.inf, math.inf), error=math.inf))
    block = replace(block, pairs={("adaptive", "IMP"): unknown})
    assert block.measured == []
    found = as_json(replace(findings, blocks={"folds": block}))
    assert (found["blocks"]["folds"]["pairs"][0]["wer"] | {"p": 0, "points": 0}) == {
        "points": 0,
        "ci": [None, None],
        "p": 0,
        "error": None,
    }


def test_the_order_of_a_systems_seeds_does_not_matter(tmp_path: Path) -> None:
    data = as_data(claims=[])
    data["blocks"]["folds"]["systems"]["dynamic"]["seeds"] = [1, 0]
    turned = planned(blocks=data["blocks"], claims=[])
    fill(turned, tmp_path)
    block = gather(turned, tmp_path / "ledger").blocks["folds"]
    assert block.rows["dynamic"].seeds == block.rows["dense"].seeds == (0, 1)
    assert {"dense", "dynamic"} <= {row.name for row in most_seeds(block.tables()["B"])}


def test_an_empty_ledger(plan: Plan, tmp_path: Path) -> None:
    found = gather(plan, tmp_path)
    assert found.missing_cells == found.cells
    assert [block.tables() for block in found.blocks.values()] == [{}, {}]
    assert {claim.verdict for claim in found.claims} == {"not decided"}


def test_an_entry_without_a_language_is_named(plan: Plan, tmp_path: Path) -> None:
    cell = plan.cells[plan.row("plain", "dense").runs[0].cell]
    entry = entry_of(cell)
    del entry["tested"]["fr"]
    ledger.write_entry(tmp_path, cell.name, entry)
    with pytest.raises(PathwaysError, match="plain: dense, seed 0: the ledger has no test of fr"):
        gather(plan, tmp_path)


def test_a_model_in_two_tables_is_chosen_from_once(tmp_path: Path) -> None:
    data = as_data()
    systems = data["blocks"]["folds"]["systems"]
    systems["dynamic again"] = {**systems["dynamic"], "table": "Choices"}
    plan = planned(blocks=data["blocks"])
    fill(plan, tmp_path)
    assert gather(plan, tmp_path / "ledger").blocks["folds"].sparse == 1
