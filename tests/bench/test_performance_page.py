from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import performance


def test_the_page_is_made_from_the_figures() -> None:
    figures, growth = (
        json.loads(path.read_text(encoding="utf-8")) for path in (performance.FIGURES, performance.GROWTH)
    )
    page = performance.page(figures, growth, performance.whole_figures())
    assert performance.PAGE.read_text(encoding="utf-8") == page


def measured(processor: str, seconds: float) -> dict[str, Any]:
    """As `bench MODEL` writes it; theirs takes 3 s."""

    def row(system: str, spent: float, **values: object) -> dict[str, Any]:
        clip = {"seconds": spent, "rtf": spent / 3, "words": 4, "first_token_s": values.pop("first", None)}
        row = {
            "system": system,
            "window": "own length",
            "load_s": 1.25,
            "peak_mib": 1234.5,
            "bytes": 10**8,
            "wer": 0.125,
        }
        return {**row, "clips": {"2-5": clip}, **values}

    return {
        "machine": {"processor": processor, "instructions": "avx2", "cores": "2", "torch": "2.13.0"},
        "versions": {"faster-whisper": "1.2.1"},
        "model": {"name": "w.asrp", "architecture": "W", "language": "fr", "sparsity": 0.7, "window": "own length"},
        "data": {"name": "prompts", "utterances": 50, "words": 321},
        "reference_wer": 0.123,
        "rounds": 5,
        "left_out": {"whisper.cpp": "not installed"},
        "results": [
            {
                "threads": 1,
                "rows": [
                    row("asr-pathways", seconds, first=0.05),
                    row("faster-whisper int8", 3.0, window="30 s", bytes=None, wer=None),
                ],
            }
        ],
    }


def test_whole_recordings_get_tables_and_a_new_run_replaces_that_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIGURES", "GROWTH"):
        copy = tmp_path / f"{name}.json"
        copy.write_bytes(getattr(performance, name).read_bytes())
        monkeypatch.setattr(performance, name, copy)
    monkeypatch.setattr(performance, "WHOLE", tmp_path / "whole.json")
    monkeypatch.setattr(performance, "PAGE", tmp_path / "page.md")
    for index, result in enumerate((measured("A", 1.0), measured("B", 1.5), measured("A", 0.5))):
        (tmp_path / f"{index}.json").write_text(json.dumps(result))
        performance.main(str(tmp_path / f"{index}.json"))
    page = (tmp_path / "page.md").read_text()
    assert page.startswith(performance.INTRODUCTION)
    assert [line for line in page.splitlines() if line.startswith("## w.asrp")] == [
        "## w.asrp, 70% zeros, fr, on A",
        "## w.asrp, 70% zeros, fr, on B",
    ]
    assert "| asr-pathways | own length | 0.500 | 0.050 | 1.25 | 1,234 | 100.0 | 12.5 |" in page
    assert "| faster-whisper int8 | 30 s | 3.000 (6.00x) |  | 1.25 | 1,234 |  |  |" in page
    assert "| faster-whisper int8 | 30 s | 3.000 (2.00x) |" in page and "(3.00x)" not in page
    assert "the training side's decoder: 12.3%" in page and "Not measured: whisper.cpp, not installed." in page
