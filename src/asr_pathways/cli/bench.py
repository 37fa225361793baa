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
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="A MODEL that does not stream, to time on recordings of --data."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A data folder, whose test part MODEL recognises.")] = None,
    language: Annotated[
        str | None, typer.Option(help="The pathway of MODEL.", show_default="the first that the data have, too")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Runtimes to time beside MODEL, with commas between.", show_default="all")
    ] = None,
    clips: Annotated[
        str | None, typer.Option(help="Seconds of a recording, with commas between.", show_default="2-5,11,30,600")
    ] = None,
    utterances: Annotated[int | None, typer.Option(help="How many to score.", show_default="50")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Sizes of streaming models, with commas between.", show_default="base")
    ] = None,
    chunk: Annotated[
        str | None, typer.Option(help="Milliseconds of audio at a time, with commas between.", show_default="320")
    ] = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas between.")] = "1",
    sparsity: Annotated[str | None, typer.Option(help="With commas between.", show_default="0.7")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write all figures here.")] = None,
) -> None:
    """Times a MODEL beside what could be installed instead, or, without one, streaming with random weights.

    Each system runs in a process of its own, rounds of all in turn. With all systems and clips a MODEL takes an hour or
    two; with --against onnxruntime --clips 2-5,11 --utterances 20 some minutes.

    Example: asr-pathways bench whisper.asrp --data data/prompts --language fr --threads 1,2 --json bench.json

    Example: asr-pathways bench --preset tiny,base --chunk 160,320 --threads 1,2
    """
    offline: dict[str, object] = {"--data": data, "--language": language, "--against": against, "--clips": clips}
    offline["--utterances"] = utterances
    streaming: dict[str, object] = {"--preset": preset, "--chunk": chunk, "--sparsity": sparsity}
    for name, value in (offline if model is None else streaming).items():
        if value is not None:
            raise PathwaysError(f"{name} is {'of a MODEL: name one' if model is None else 'without a MODEL only'}")
    counts = _threads(threads)
    if json is not None:
        from asr_pathways.files import require_writable

        require_writable(json)
    if model is None:
        _streaming(preset or "base", chunk or "320", counts, sparsity or "0.7", json)
    elif data is None:
        raise PathwaysError("--data: a data folder is needed, for recordings to recognise")
    else:
        _offline(
            model,
            data,
            language,
            against,
            counts,
            clips or "2-5,11,30,600",
            50 if utterances is None else utterances,
            json,
        )


def _offline(
    model: Path,
    data: Path,
    language: str | None,
    against: str | None,
    threads: list[int],
    clips: str,
    utterances: int,
    json: Path | None,
) -> None:
    from asr_pathways.bench.clips import SHORT_LENGTH
    from asr_pathways.bench.offline import measure_offline
    from asr_pathways.bench.rivals import RIVALS
    from asr_pathways.console import print_table
    from asr_pathways.files import write_json

    names = list(RIVALS) if against is None else [name.strip() for name in against.split(",")]
    if unknown := sorted({*names} - {*RIVALS}):
        raise PathwaysError(f"--against {unknown[0]}: the runtimes are {', '.join(RIVALS)}")
    lengths = [length.strip() for length in clips.split(",")]
    for length in lengths:
        if length != SHORT_LENGTH:
            _numbers("--clips", length, 1, 36_000)
    if utterances < 1:
        raise PathwaysError(f"--utterances {utterances}: at least 1")
    report = partial(typer.echo, err=True)
    for result in measure_offline(model, data, language, names, threads, lengths, utterances, report):
        print_table(_offline_table(result, result["results"][-1]))
        if json is not None:  # after each count of threads: a later failure loses nothing
            write_json(json, result)


def _streaming(preset: str, chunk: str, threads: list[int], sparsity: str, json: Path | None) -> None:
    from asr_pathways.bench.run import machine, measure
    from asr_pathways.console import print_table
    from asr_pathways.files import write_json
    from asr_pathways.models.presets import PRESETS

    sizes = [name for name in PRESETS if name in preset.split(",")]
    if unknown := sorted({*preset.split(",")} - {*PRESETS}):
        raise PathwaysError(f"--preset {unknown[0]}: the presets are {', '.join(PRESETS)}")
    chunks, sparsities = _numbers("--chunk", chunk, 40, 2000), _numbers("--sparsity", sparsity, 0, 0.99)
    results = []
    for size, milliseconds, count in itertools.product(sizes, chunks, threads):
        result = measure(size, milliseconds / 1000, count, sparsities, partial(typer.echo, err=True))
        results.append(result)
        print_table(_table(result))
        if json is not None:  # after each: a later failure loses nothing
            write_json(json, {"machine": machine(), "results": results})


def _threads(text: str) -> list[int]:
    counts = _numbers("--threads", text, 1, 256)
    for count in counts:
        if count != int(count):
            raise PathwaysError(f"--threads {count:g}: whole numbers are wanted")
    return [int(count) for count in counts]


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
        caption="RTF: seconds a second of audio. Speed: over dense torch float32 of this run. Chunk: milliseconds for "
        f"{milliseconds:.0f} ms of audio, median and 95th percentile. Switch to another language: "
        f"{switch['loaded_ms']:.2f} ms, prepared on demand {switch['packed_on_demand_ms']:.0f} ms",
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


def _offline_table(result: dict[str, Any], measured: dict[str, Any]) -> Table:
    """A row for each system: seconds a clip by its length and RTF, and what it needs."""
    from rich.table import Table

    model, data, machine = result["model"], result["data"], result["machine"]
    rows = measured["rows"]
    lengths = list(rows[0]["clips"])
    table = Table(
        title=f"{model['name']} ({100 * model['sparsity']:.0f}% zeros, {model['language']}), threads: "
        f"{measured['threads']}; {machine['processor']}, {machine['instructions']}",
        caption="Clips: seconds to recognise one of so many seconds (and RTF: seconds a second of audio), median of "
        f"{result['rounds']} rounds. First: seconds to the first token of clips of {lengths[0]} s. Load: seconds from "
        f"the process's start. WER: of {data['utterances']} utterances of {data['name']}; the training side's decoder: "
        f"{100 * result['reference_wer']:.1f}%.",
    )
    table.add_column("system")
    for heading in ("window", *(f"{length} s" for length in lengths), "first s", "load s", "peak MiB", "MB", "WER %"):
        table.add_column(heading, justify="right")
    for row in rows:
        clips, first, wer = row["clips"], row["clips"][lengths[0]]["first_token_s"], row["wer"]
        table.add_row(
            row["system"],
            row["window"],
            *(f"{clips[length]['seconds']:.3f} ({clips[length]['rtf']:.3f})" for length in lengths),
            "" if first is None else f"{first:.3f}",
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:,.0f}",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
            "" if wer is None else f"{100 * wer:.1f}",
        )
    return table
