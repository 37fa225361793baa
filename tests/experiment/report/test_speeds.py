from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.findings import BlockFinding, gather
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.report.speeds import speeds
from tests.experiment.example import as_data, fill


def one(short: float, size: int) -> dict[str, Any]:
    return {"seconds": {"2-5": short, "11": 3 * short}, "bytes": size}


FOUND: dict[str, Any] = {
    "machine": {"processor": "AMD EPYC", "instructions": "avx2", "cores": "2", "torch": "2.13.0"},
    "versions": {"faster-whisper": "1.2.1"},
    "language": "fr",
    "threads": 1,
    "rounds": 5,
    "rows": {
        "dense": {"torch float32": one(0.5, 290_000_000), "asr-pathways": one(0.2, 145_000_000)},
        "grown, sparsity 0.5, adapt_every 5": {"asr-pathways": one(0.1, 72_000_000)},
        "never run": {"torch float32": one(0.25, 200_000_000)},
    },
}


def block_of(tmp_path: Path, path: Path | None) -> BlockFinding:
    data = as_data(claims=[])
    data["blocks"]["plain"]["speeds"] = path and str(path)
    plan = make_plan(ExperimentRecipe.model_validate(data))
    fill(plan, tmp_path)
    return gather(plan, tmp_path / "ledger").blocks["plain"]


def test_errors_beside_seconds_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    path.write_text(json.dumps(FOUND))
    heading, table = speeds(block_of(tmp_path, path))
    assert heading == "### Which to choose: plain"
    columns, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[:-2]]
    assert columns[1:] == [
        "Mean WER % (95% CI)",
        *("torch float32, 2-5 s", "torch float32, 11 s", "asr-pathways, 2-5 s", "asr-pathways, 11 s"),
        *("torch float32, size", "asr-pathways, size"),
    ]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["dense"][1:] == ["0.500", "1.500", "0.200", "0.600", "290.0 MB", "145.0 MB"]
    grown = cells["grown, sparsity 0.5, adapt_every 5"]
    assert grown[0].startswith("1") and grown[1:] == ["", "", "0.100 (2.00x)", "0.300 (2.00x)", "", "72.0 MB"]
    assert cells["never run"] == ["", "0.250 (2.00x)", "0.750 (2.00x)", "", "", "200.0 MB", ""]
    assert cells["grown, sparsity 0.9, adapt_every 5"][1:] == [""] * 6  # tested, not timed
    assert "threads: 1, medians of 5 rounds" in table and "faster-whisper 1.2.1" in table and "in French" in table


def test_a_block_that_asks_for_none_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert list(speeds(block_of(tmp_path, None))) == []
    assert list(speeds(block_of(tmp_path, Path("nowhere.json"))))[1] == "No speeds yet: nowhere.json is not there."


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    path.write_text('{"rows": {"dense": {"torch": 1}}}')
    with pytest.raises(PathwaysError, match=r"speeds.json: not seconds by system and runtime: "):
        list(speeds(block_of(tmp_path, path)))
