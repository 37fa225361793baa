"""The cost of attaching pathways to a model of 240M weights, first masks included, and of detaching them.

python -m benchmarks.attach

The bound on memory: a bit a weight and language, one working copy of the weights, one unpacked mask.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.pruning import METHODS, Pathways

LANGUAGES = ("en", "es", "fr", "it", "ru")
MIB = 2**20


def stack(layers: int, dim: int) -> nn.Module:
    """The linear layers of a transformer encoder: 12 ``dim`` squared weights a layer."""
    shapes = [(dim, dim)] * 4 + [(dim, 4 * dim), (4 * dim, dim)]
    return nn.ModuleList([nn.Linear(a, b, bias=False) for _ in range(layers) for a, b in shapes])


def measure(layers: int = 19, dim: int = 1024, sparsity: float = 0.7) -> dict[str, object]:
    """Seconds and bytes, in this process: its memory must not have been larger before."""
    model = stack(layers, dim)
    weights = sum(parameter.numel() for parameter in model.parameters())
    config = METHODS["dynamic"].config(sparsity, 10**6, LANGUAGES)
    of_model, before = {id(tensor) for tensor in model.parameters()}, _resident()
    started = time.perf_counter()
    pathways = Pathways.attach(model, config, LANGUAGES)
    attached = time.perf_counter() - started
    entering = []
    for mode in (False, True):
        model.train(mode)
        for language in LANGUAGES:
            started = time.perf_counter()
            with pathways.use(language):
                entering.append(time.perf_counter() - started)
            if mode:
                pathways.step()
    gc.collect()
    retained = sum(tensor.untyped_storage().nbytes() for tensor in _tensors(pathways, of_model))
    grown = _resident() - before
    bound = weights * len(LANGUAGES) // 8 + 4 * weights + weights
    running = sum(4 * (sum(p.shape[1] + 1 for p in model.parameters())) for _ in LANGUAGES)  # the score's means
    started = time.perf_counter()
    pathways.detach()
    detached = time.perf_counter() - started
    return {
        "weights": weights,
        "languages": len(LANGUAGES),
        "threads": torch.get_num_threads(),
        "attach_seconds": round(attached, 2),
        "enter_use_seconds": round(sorted(entering)[len(entering) // 2], 3),
        "detach_seconds": round(detached, 3),
        "held_mib": round(retained / MIB, 1),
        "bound_mib": round(bound / MIB, 1),
        "score_state_mib": round(running / MIB, 1),
        "within_bound": retained <= bound + running,
        "resident_growth_mib": round(grown / MIB, 1),
        "peak_growth_mib": round((_peak() - before) / MIB, 1),
    }


def in_a_fresh_process(**options: Any) -> dict[str, object]:
    """`measure` where no other memory was used before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, kwds=options)


def _tensors(root: object, without: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object, each storage once, but for some and for those of modules."""
    seen: set[int] = set()
    storages: set[int] = set()
    queue: list[object] = [root]
    while queue:
        value = queue.pop()
        if id(value) in seen or isinstance(value, nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            place = value.untyped_storage().data_ptr()
            if id(value) not in without and place not in storages:
                storages.add(place)
                yield value
        elif isinstance(value, Mapping):
            queue += [*value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            queue += [*value]
        elif type(value).__module__.startswith("asr_pathways"):
            queue += [*getattr(value, "__dict__", {}).values()]


def _resident() -> int:
    return int(_status("VmRSS"))


def _peak() -> int:
    return int(_status("VmHWM"))


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(in_a_fresh_process(), indent=1))
