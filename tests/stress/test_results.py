"""The page about interruptions says what the last stress test found; what that kills at is there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stress.points import CALLS

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_was_found() -> None:
    found = json.loads((ROOT / "results" / "stress.json").read_text())
    page = " ".join((ROOT / "docs" / "interruptions.md").read_text().split())
    other = sum(found["other_faults"].values())
    said = (
        f"{found['kills']} kills in {found['runs']} runs, {found['damaged_checkpoints']} damaged checkpoints, {other}"
    )
    assert said in page
    assert [found[name] for name in ("lost", "differing", "files_left")] == [0, 0, 0]


def test_the_points_at_which_runs_are_killed_are_there() -> None:
    assert [name for name, (owner, attribute) in CALLS.items() if not callable(getattr(owner, attribute, None))] == []
