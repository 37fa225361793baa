"""The table of a block that helps to choose among its systems: errors beside seconds and sizes in several runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.findings import BlockFinding
from asr_pathways.experiment.report.markdown import cell, escape, table
from asr_pathways.files import read_json
from asr_pathways.formats import language_name, percent, percent_interval, size


def speeds(block: BlockFinding) -> Iterator[str]:
    """The section: a row for each system that is tested, or timed, or both; nothing if the block asks for none.

    Raises:
        PathwaysError: if the file of seconds is not as `benchmarks.neurons` writes it.
    """
    path = block.block.speeds
    if path is None:
        return
    yield f"### Which to choose: {escape(block.name)}"
    if not path.exists():
        yield escape(f"No speeds yet: {path} is not there.")
        return
    found = read_json(path)
    try:
        yield _table(block, found, path)
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise PathwaysError(f"{path}: not seconds by system and runtime: {error!r}") from None


def _table(block: BlockFinding, found: Mapping[str, Any], path: Path) -> str:
    timed: Mapping[str, Any] = found["rows"]
    runtimes = list(dict.fromkeys(runtime for row in timed.values() for runtime in row))
    lengths = list(dict.fromkeys(length for row in timed.values() for one in row.values() for length in one["seconds"]))
    base = timed.get(next((row.name for row in block.rows.values() if row is block.base), ""), {})
    columns = ["System", "Mean WER % (95% CI)"]
    columns += [f"{runtime}, {length} s" for runtime in runtimes for length in lengths]
    columns += [f"{runtime}, size" for runtime in runtimes]
    rows = []
    for row in block.rows.values():
        if row.name not in timed and row.pooled is None:
            continue
        one = timed.get(row.name, {})
        wer = cell(percent(row.pooled.wer), percent_interval(row.pooled.wer_ci)) if row.pooled else ""
        seconds = [_seconds(one, base, runtime, length) for runtime in runtimes for length in lengths]
        sizes = [size(one[runtime]["bytes"]) if runtime in one else "" for runtime in runtimes]
        rows.append([escape(row.name), wer, *seconds, *sizes])
    machine = found["machine"]
    about = (
        f"Seconds to recognise a clip in {language_name(found['language'])} of so many seconds, and how many times as "
        f"fast that is as the dense model in the same runtime; threads: {found['threads']}, medians of "
        f"{found['rounds']} rounds of all systems in turn, {machine['processor']} ({machine['instructions']}), torch "
        f"{machine['torch']}{''.join(f', {name} {version}' for name, version in found['versions'].items())}. Sizes are "
        "those of the model's files for this one language. A model that writes more words, or repeats itself to the "
        f"end of the window, takes longer: a ratio far below 1 is that. Made from {path}."
    )
    return table(columns, rows, numbers_from=1, caption=about)


def _seconds(row: Mapping[str, Any], base: Mapping[str, Any], runtime: str, length: str) -> str:
    if runtime not in row:
        return ""
    seconds = row[runtime]["seconds"][length]
    if row is base or runtime not in base:
        return f"{seconds:.3f}"
    return f"{seconds:.3f} ({base[runtime]['seconds'][length] / seconds:.2f}x)"
