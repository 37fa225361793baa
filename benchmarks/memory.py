"""What a training step on the CPU gains where freed memory is kept (`asr_pathways.training.memory`).

python -m benchmarks.memory

Both run in separate processes, in turn, since settings of the C library are not undone.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics

import torch

from asr_pathways.models.presets import Preset, preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.memory import keep_freed_memory
from benchmarks.training_step import VOCABULARY, batch_of_noise, step

LENGTHS = (6.0, 3.0, 8.0, 5.0, 7.0, 4.0)  # seconds of the utterances in batches to come: memory is cut up


def measure(keep: bool, size: Preset = "base", batch: int = 3) -> dict[str, float]:
    """Seconds of all steps and the most memory, in this process."""
    torch.manual_seed(0)
    kept = keep and keep_freed_memory()
    assert kept == keep, "this C library ignores the setting"
    model = Transducer(preset(size, VOCABULARY)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    noise = [batch_of_noise(batch, seconds) for seconds in LENGTHS]
    for one in noise:  # not counted
        step(model, one, optimizer, None, 0)
    seconds = sum(step(model, one, optimizer, None, 0) for one in noise * 3)
    return {"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def compare(runs: int = 3) -> dict[str, object]:
    """Medians over ``runs`` processes of each kind."""
    runs_of: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(runs):
        for keep, results in runs_of.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results.append(pool.apply(measure, (keep,)))
    ratios = {
        name: statistics.median(b[name] / a[name] for a, b in zip(runs_of[False], runs_of[True], strict=True))
        for name in ("seconds", "peak_mib")
    }
    return {
        "threads": torch.get_num_threads(),
        "steps_seconds": round(statistics.median(one["seconds"] for one in runs_of[False]), 2),
        "kept_over_given_back": round(ratios["seconds"], 3),
        "peak_mib": round(statistics.median(one["peak_mib"] for one in runs_of[False])),
        "peak_ratio": round(ratios["peak_mib"], 3),
    }


if __name__ == "__main__":
    print(json.dumps(compare(), indent=1))
