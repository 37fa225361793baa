"""The page about interruptions says what the last stress test found."""

from __future__ import annotations

import json
from pathlib import Path

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
