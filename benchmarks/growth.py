"""How the cost of pathways grows: with weights, with languages, with ranks.

python -m benchmarks.growth --json results/growth.json    some minutes, 6 GB of memory

Growth is fitted: with weights as seconds = c * weights^e, with languages as seconds = a + b * languages.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from asr_pathways.files import write_json
from asr_pathways.pruning import METHODS, Pathways
from benchmarks.adaptation import seconds, stack

LAYERS = (1, 3, 10, 26, 96)
"""Of 3.1M weights each."""
LANGUAGES = (2, 4, 8, 16, 32, 64)
DIM = 512


def attached(layers: int, languages: int) -> tuple[nn.Sequential, Pathways]:
    """A stack under dynamic pathways that have seen what their score needs."""
    torch.manual_seed(0)
    model = stack(layers)
    names = [f"l{number}" for number in range(languages)]
    pathways = Pathways.attach(model, METHODS["dynamic"].config(0.7, 10**6, names), names)
    for name in names:
        with pathways.calibrate(name), torch.no_grad():
            model(torch.randn(64, DIM))
    return model, pathways


def measure(layers: int, languages: int, runs: int = 3) -> dict[str, Any]:
    """Medians over ``runs``, and the bytes of masks and scores."""
    model, pathways = attached(layers, languages)
    weights = pathways.summary().weights
    copies = [weight.detach().clone() for weight in model.parameters()]
    parameters = [weight.detach() for weight in model.parameters()]
    names = pathways.languages
    for name in names:
        pathways.adapt(name)  # so that masks differ, and every pair was compared

    def use(turn: int) -> float:
        began = time.perf_counter()
        with pathways.use(names[turn % languages]):
            return time.perf_counter() - began

    def adapt(count: int, start: int = 0) -> Callable[[], object]:
        return lambda: [pathways.adapt(names[turn % languages]) for turn in range(start, start + count)]

    use(0)
    statistics_of = pathways.state_dict()["statistics"].values()
    return {
        "weights": weights,
        "languages": languages,
        "copy_seconds": median_seconds(lambda turn: lambda: torch._foreach_copy_(copies, parameters), 2 * runs),
        "use_seconds": statistics.median(use(turn) for turn in range(1, 2 * runs + 1)),
        "adapt_seconds": median_seconds(lambda turn: adapt(1, turn), runs),
        "adapting_several_seconds": {str(count): seconds(adapt(count)) for count in (1, 2, 4) if count <= languages},
        "mask_bits_per_weight": 8 * pathways.summary().mask_bytes / weights,
        "score_bytes": sum(tensor.nbytes for of in statistics_of for tensor in of.values()),
    }


def median_seconds(work: Callable[[int], Callable[[], object]], runs: int) -> float:
    """Of ``runs`` turns of ``work(turn)()``."""
    return statistics.median(seconds(work(turn)) for turn in range(1, runs + 1))


def _rank(rank: int, count: int, folder: str, layers: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    model, pathways = attached(layers, 2)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    spent = []
    for turn in range(6):
        began = time.perf_counter()
        with pathways.use(f"l{turn % 2}"):
            parallel(torch.randn(256, DIM)).square().mean().backward()
        optimizer.step()
        pathways.step(optimizer)
        spent.append(time.perf_counter() - began)
        optimizer.zero_grad()
    began = time.perf_counter()
    pathways.adapt("l0")
    adapting = time.perf_counter() - began
    if rank == 0:
        result = {"ranks": count, "weights": pathways.summary().weights, "adapt_seconds": adapting}
        write_json(Path(folder) / "rank.json", result | {"step_seconds": statistics.median(spent[1:])})
    distributed.destroy_process_group()


def ranks(count: int, layers: int = 10) -> dict[str, Any]:
    """A step on 256 rows a rank and an adaptation, with one thread a rank."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, args=(count, folder, layers), nprocs=count)
        result: dict[str, Any] = json.loads((Path(folder) / "rank.json").read_text(encoding="utf-8"))
        return result


def exponent(results: Sequence[dict[str, Any]], what: str) -> float:
    """e of seconds = c * weights^e, by least squares of the logarithms."""
    x, y = (np.log([result[name] for result in results]) for name in ("weights", what))
    return float(np.polyfit(x, y, 1)[0])


def line(results: Sequence[dict[str, Any]], what: str) -> list[float]:
    """a and b of seconds = a + b * languages."""
    slope, start = np.polyfit([r["languages"] for r in results], [r[what] for r in results], 1)
    return [float(start), float(slope)]


def run(json_file: Annotated[Optional[Path], typer.Option("--json")] = None) -> None:  # noqa: UP045 - typer reads it
    """Prints what it measures as JSON."""
    by_weights = [measure(layers, 5) for layers in LAYERS]
    by_languages = [measure(26, languages) for languages in LANGUAGES]
    growth = {
        "threads": torch.get_num_threads(),
        "weights": by_weights,
        "languages": by_languages,
        "ranks": [ranks(count) for count in (1, 2)],
        "exponents": {what: exponent(by_weights, what) for what in ("use_seconds", "adapt_seconds")},
        "lines": {what: line(by_languages, what) for what in ("use_seconds", "adapt_seconds")},
    }
    typer.echo(json.dumps(growth, indent=1))
    if json_file is not None:
        write_json(json_file, growth)


if __name__ == "__main__":
    typer.run(run)
