"""docs/performance.md from the figures of `asr-pathways bench`, so that no number there is typed by hand.

asr-pathways bench --preset base --json results/performance.json
python -m benchmarks.performance
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "results" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"

INTRODUCTION = """# Performance

Streaming recognition with random weights, which take as long as trained ones, in one process: rounds of all systems in
turn, medians of five. RTF is seconds of compute a second of audio; a chunk's milliseconds are those of one call, and
latency is the chunk, a right context of 40 ms, and that. "Speed" is against dense float32 in torch in the same run.
Memory and load time are of a process of its own, which imports torch. Made by:

    asr-pathways bench --preset base --json results/performance.json
    python -m benchmarks.performance
"""


def page(figures: dict[str, Any]) -> str:
    """The page's text."""
    machine = figures["machine"]
    lines = [INTRODUCTION, f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}."]
    for result in figures["results"]:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _section(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    dense = next(row for row in rows if row["system"] == "torch float32")
    switch = result["switch"]
    lines = [
        f"## {result['preset']}, {1000 * result['chunk_s']:.0f} ms at a time, threads: {result['threads']}",
        "",
        "| System | Sparsity | RTF | Speed | Chunk p50 ms | p95 ms | Load s | Peak MiB | Bundle MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sparse = row["sparsity"] is not None
        cells = [
            f"{row['system']}, {row['granularity']}" if sparse else row["system"],
            f"{100 * row['sparsity']:.0f}%" if sparse else "",
            f"{row['rtf']:.4f}",
            f"{dense['rtf'] / row['rtf']:.2f}x",
            f"{row['chunk_p50_ms']:.1f}",
            f"{row['chunk_p95_ms']:.1f}",
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['bytes'] / 1e6:.1f}" if sparse else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"A switch to another language takes {switch['loaded_ms']:.2f} ms when its pathway is packed, "
        f"{switch['packed_on_demand_ms']:.0f} ms when it is packed from the bundle (its masks decoded before), and "
        f"{switch['first_ms']:.0f} ms the first time.",
    ]
    return lines


def main() -> None:
    PAGE.write_text(page(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
