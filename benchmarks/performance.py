"""docs/performance.md from the figures of `asr-pathways bench`, so that no number there is typed by hand.

asr-pathways bench --preset base --chunk 160,320,640 --threads 1,2 --json base.json
asr-pathways bench whisper.asrp --data data/prompts --threads 1,2 --json whisper.json
python -m benchmarks.performance base.json whisper.json   # replaces what was measured before in the same settings
python -m benchmarks.performance                          # only writes the page
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from asr_pathways.files import write_json
from asr_pathways.models.presets import PRESETS
from benchmarks.whole_recordings import key, section

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "results" / "performance.json"
GROWTH = ROOT / "results" / "growth.json"
WHOLE = ROOT / "results" / "whole_recordings.json"
"""Of models that do not stream; absent until one was measured."""

PAGE = ROOT / "docs" / "performance.md"

Row = dict[str, Any]

INTRODUCTION = """# Performance

How fast models run here, beside what could be installed instead: those that stream, then
[others](#whole-recordings), such as Whisper.

Streaming recognition with random weights, which take as long as trained ones, in one process: rounds of all systems in
turn, medians of five. RTF is seconds of compute a second of audio. A chunk's milliseconds are those of one call.
"First token" is the time from the end of the 40 ms with the first token until it is recognised, if audio comes as it
is spoken: what is left of the chunk, a right context of 40 ms, and compute. Memory and load time are of a separate
process, which imports torch. MB are of the bundle. `sparse float32` and `sparse auto` are the precisions of
[runtime.md](runtime.md); sections without `sparse auto` were measured before there was one, and that with it on 12 s of
audio a round, other work on the second core. Made by `make bench`. What
4x1 blocks cost in accuracy: [blocks.md](blocks.md); sizes of bundles: [bundle.md](bundle.md).
"""


def page(figures: dict[str, Any], growth: dict[str, Any], whole: list[dict[str, Any]]) -> str:
    """The page's text, from what `bench`, `benchmarks.growth` and `bench MODEL` measured."""
    machine = figures["machine"]
    lines = [INTRODUCTION, f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}.", ""]
    lines += _summary(figures["results"])
    for result in figures["results"]:
        lines += ["", *_section(result)]
    lines += ["", *_growth(growth)]
    if whole:
        lines += ["", *section(whole)]
    return "\n".join(lines) + "\n"


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The figures of both; where both were measured in the same settings, the new ones."""
    by_settings = {_settings(result): result for result in [*old["results"], *new["results"]]}
    return {"machine": new["machine"], "results": [by_settings[settings] for settings in sorted(by_settings)]}


def _settings(result: dict[str, Any]) -> tuple[int, int, float]:
    return -PRESETS.index(result["preset"]), result["threads"], result["chunk_s"]


def _summary(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## RTF at 70%, beside the fastest dense system of the same run",
        "",
        "| Model | Chunk ms | Threads | Dense float32 | Unstructured | 4x1 blocks | Dense int8 "
        "| Unstructured, auto | 4x1 blocks, auto |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        full, small = _fastest(result["rows"], "float32"), _fastest(result["rows"], "int8")
        cells = [result["preset"], f"{1000 * result['chunk_s']:.0f}", str(result["threads"]), _named(full)]
        for system, granularity, dense in (
            ("sparse float32", "unstructured", full),
            ("sparse float32", "block:4x1", full),
            (None, None, small),
            ("sparse auto", "unstructured", small),
            ("sparse auto", "block:4x1", small),
        ):
            rows = [
                r
                for r in result["rows"]
                if (r["system"], r["granularity"], r["sparsity"]) == (system, granularity, 0.7)
            ]
            if system is None:
                cells.append(_named(dense))
            else:
                cells.append(f"{rows[0]['rtf']:.4f} ({dense['rtf'] / rows[0]['rtf']:.2f}x)" if rows else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _fastest(rows: list[Row], numbers: str) -> Row:
    return min(
        (row for row in rows if row["sparsity"] is None and numbers in row["system"]), key=lambda row: row["rtf"]
    )


def _named(row: Row) -> str:
    return f"{row['rtf']:.4f} ({row['system'].split()[0]})"


def _section(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    switch = result["switch"]
    lines = [
        f"## {result['preset']}, {1000 * result['chunk_s']:.0f} ms at a time, threads: {result['threads']}",
        "",
        "| System | Sparsity | RTF | Chunk p50 ms | p95 ms | First token ms | Load s | Peak MiB | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sparse = row["sparsity"] is not None
        cells = [
            f"{row['system']}, {row['granularity']}" if sparse else row["system"],
            f"{100 * row['sparsity']:.0f}%" if sparse else "",
            f"{row['rtf']:.4f}",
            f"{row['chunk_p50_ms']:.1f}",
            f"{row['chunk_p95_ms']:.1f}",
            "" if row["first_token_ms"] is None else f"{row['first_token_ms']:.0f}",
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['bytes'] / 1e6:.1f}" if sparse else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"A switch to another language takes {switch['loaded_ms']:.2f} ms when its pathway is ready, "
        f"{switch['packed_on_demand_ms']:.0f} ms when it is prepared from the bundle (its masks decoded before), and "
        f"{switch['first_ms']:.0f} ms the first time.",
    ]
    return lines


def _growth(growth: dict[str, Any]) -> list[str]:
    head = [
        "| Weights | Languages | Copy of the weights s | Entering `use` s | Times a copy | Adapting one language s | "
        "Mask bits a weight | Score state MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {r['weights'] / 1e6:.1f}M | {r['languages']} | {r['copy_seconds']:.3f} | {r['use_seconds']:.3f} | "
        f"{r['use_seconds'] / r['copy_seconds']:.1f} | {r['adapt_seconds']:.3f} | {r['mask_bits_per_weight']:.1f} | "
        f"{r['score_bytes'] / 1e6:.1f} |"
        for r in [*growth["weights"], *growth["languages"]]
    ]
    powers, lines, last = growth["exponents"], growth["lines"], growth["languages"][-1]
    several = ", ".join(f"{count}: {spent:.2f} s" for count, spent in last["adapting_several_seconds"].items())
    (alone, both), (start, slope) = growth["ranks"], lines["adapt_seconds"]
    return [
        "## How the cost of pathways grows",
        "",
        f"Linear layers of a transformer of width 512, dynamic pathways at 70%, {growth['threads']} threads; made by "
        "`python -m benchmarks.growth --json results/growth.json`.",
        "",
        *head,
        *rows,
        "",
        f"- With weights: entering `use` as weights^{powers['use_seconds']:.2f}, an adaptation as "
        f"weights^{powers['adapt_seconds']:.2f}.",
        f"- With languages: an adaptation of one takes {start:.2f} s and {1000 * slope:.1f} ms for each that it is "
        "compared with; entering `use` does not heed how many there are.",
        f"- With adapted languages, of {last['languages']}: {several}.",
        f"- With ranks, on {alone['weights'] / 1e6:.0f}M weights and as many rows on each: a step takes "
        f"{alone['step_seconds']:.2f} s on one and {both['step_seconds']:.2f} s on two, an adaptation "
        f"{alone['adapt_seconds']:.2f} and {both['adapt_seconds']:.2f} s, one thread each.",
    ]


def main(*measured: str) -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    whole = {key(result): result for result in whole_figures()}
    for path in measured:
        new = json.loads(Path(path).read_text(encoding="utf-8"))
        if "model" in new:
            whole[key(new)] = new
        else:
            figures = merged(figures, new)
    write_json(FIGURES, figures)
    if whole:
        write_json(WHOLE, list(whole.values()))
    growth = json.loads(GROWTH.read_text(encoding="utf-8"))
    PAGE.write_text(page(figures, growth, list(whole.values())), encoding="utf-8")


def whole_figures() -> list[dict[str, Any]]:
    """What was measured of models that do not stream."""
    return json.loads(WHOLE.read_text(encoding="utf-8")) if WHOLE.is_file() else []


if __name__ == "__main__":
    main(*sys.argv[1:])
