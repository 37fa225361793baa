"""What attaching costs: seconds to attach, with first masks, and to detach; bytes held beside the model.

The bound on bytes is one bit a prunable weight and language, one working copy of the weights, and one unpacked mask.
It is measured twice: as the tensors that are alive, and as growth of the process's peak resident memory, which has
the passing needs of choosing masks in it too. Where more threads than free cores run, times are many times longer.

python benchmarks/attach.py              240M weights, 24 layers as of a transformer encoder, five languages
python benchmarks/attach.py --width 64   small
"""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import typer
from torch import nn

from asr_pathways import PathwayConfig, Pathways

LANGUAGES = ("en", "es", "fr", "it", "ru")
ATTACH_SECONDS, DETACH_SECONDS = 10.0, 1.0  # the goals
SLACK = 0.02  # what an allocator and the like may add to resident memory


def encoder(layers: int, width: int) -> nn.Sequential:
    """The linear layers of a transformer encoder: 12 width^2 weights a layer."""
    shapes = [*[(width, width)] * 4, (width, 4 * width), (4 * width, width)] * layers
    return nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for inputs, outputs in shapes))


def resident(field: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, VmHWM at most so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, shared storage once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure_here(layers: int, width: int, score: str) -> dict[str, object]:
    """One measurement, in a process of its own: peak memory can not be set back."""
    torch.manual_seed(0)
    model = encoder(layers, width).eval()
    weights = sum(parameter.numel() for parameter in model.parameters())
    before, resident_before = tensor_bytes(), resident("VmRSS")

    started = time.perf_counter()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, score=score), LANGUAGES)
    attach_seconds = time.perf_counter() - started
    after_attach = resident("VmHWM") - resident_before
    for language in LANGUAGES:
        with pathways.use(language):
            pass
    held, peak = tensor_bytes() - before, resident("VmHWM") - resident_before
    sparsity = pathways.summary().sparsity["en"]
    started = time.perf_counter()
    pathways.detach()
    detach_seconds = time.perf_counter() - started

    bound = len(LANGUAGES) * weights // 8 + 4 * weights + weights
    return {
        "weights": weights,
        "languages": len(LANGUAGES),
        "score": score,
        "sparsity": round(sparsity, 4),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "attach_seconds": round(attach_seconds, 3),
        "detach_seconds": round(detach_seconds, 3),
        "bound_bytes": bound,
        "tensor_bytes": held,
        "tensor_bytes_to_bound": round(held / bound, 4),
        "peak_growth_attaching_bytes": after_attach,
        "peak_growth_bytes": peak,
        "peak_growth_to_bound": round(peak / bound, 4),
        "passes": {
            "attach_seconds": attach_seconds < ATTACH_SECONDS,
            "detach_seconds": detach_seconds < DETACH_SECONDS,
            "tensor_bytes": held <= bound,
            "peak_growth": peak <= (1 + SLACK) * bound,
        },
    }


def measure(layers: int, width: int, score: str) -> dict[str, object]:
    """`measure_here`, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_here, layers, width, score).result()


def run(layers: int = 24, width: int = 912, score: str = "magnitude") -> None:
    """Prints the measurements, the bounds and whether they hold, as JSON."""
    typer.echo(json.dumps(measure_here(layers, width, score), indent=2))


def main(argv: Sequence[str] | None = None) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(run)
    app(args=None if argv is None else list(argv), standalone_mode=argv is None)


if __name__ == "__main__":
    main()
