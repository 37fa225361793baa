"""``bench``: how fast sparse models are on this machine."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_pathways.errors import PathwaysError

if TYPE_CHECKING:
    from rich.table import Table


def bench(
    preset: Annotated[str, typer.Option(help="Sizes of the model, with commas between.")] = "base",
    chunk: Annotated[str, typer.Option(help="Milliseconds of audio at a time, with commas between.")] = "320",
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas between.")] = "1",
    sparsity: Annotated[str, typer.Option(help="With commas between.")] = "0.7",
    json: Annotated[Path | None, typer.Option(help="Also write all figures here.")] = None,
) -> None:
    """Times streaming with sparse and dense models of random weights, side by side; minutes for each size.

    Example: asr-pathways bench --preset tiny,base --chunk 160,320 --threads 1,2
    """
    from asr_pathways.bench.run import machine, measure
    from asr_pathways.console import print_table
    from asr_pathways.files import write_json
    from asr_pathways.models.presets import PRESETS

    sizes = [name for name in PRESETS if name in preset.split(",")]
    if unknown := sorted({*preset.split(",")} - {*PRESETS}):
        raise PathwaysError(f"--preset {unknown[0]}: the presets are {', '.join(PRESETS)}")
    chunks, counts = _numbers("--chunk", chunk, 40, 2000), _numbers("--threads", threads, 1, 256)
    sparsities = _numbers("--sparsity", sparsity, 0, 0.99)
    results = []
    for size, milliseconds, count in itertools.product(sizes, chunks, counts):
        result = measure(size, milliseconds / 1000, int(count), sparsities, partial(typer.echo, err=True))
        results.append(result)
        print_table(_table(result))
        if json is not None:  # after each: a later failure loses nothing
            write_json(json, {"machine": machine(), "results": results})


def _numbers(option: str, text: str, least: float, most: float) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise PathwaysError(f"{option} {text}: numbers with commas between are wanted") from None
    for number in numbers:
        if not least <= number <= most:
            raise PathwaysError(f"{option} {number:g}: between {least:g} and {most:g}")
    return numbers


def _table(result: dict[str, Any]) -> Table:
    """A row for each system, and how many times faster it is than dense float32 of the same run."""
    from rich.table import Table

    switch, milliseconds = result["switch"], 1000 * result["chunk_s"]
    table = Table(
        title=f"{result['preset']}, {milliseconds:.0f} ms at a time, {result['threads']} threads",
        caption=f"Switch: {switch['loaded_ms']:.2f} ms, prepared on demand {switch['packed_on_demand_ms']:.0f} ms",
    )
    table.add_column("system")
    headings = "sparsity, RTF, speed, chunk p50 ms, p95, first token ms, load s, peak MiB, MB on disk"
    for heading in headings.split(", "):
        table.add_column(heading, justify="right")
    dense = next(row["rtf"] for row in result["rows"] if row["system"] == "torch float32")
    for row in result["rows"]:
        name = row["system"] if row["granularity"] is None else f"{row['system']}, {row['granularity']}"
        table.add_row(
            name,
            "" if row["sparsity"] is None else f"{100 * row['sparsity']:.0f}%",
            f"{row['rtf']:.3f}",
            f"{dense / row['rtf']:.2f}x",
            f"{row['chunk_p50_ms']:.1f}",
            f"{row['chunk_p95_ms']:.1f}",
            "" if row["first_token_ms"] is None else f"{row['first_token_ms']:.0f}",
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:,.0f}",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
        )
    return table
