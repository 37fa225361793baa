"""What pathways cost a training step: the same step with and without them, and one adaptation of all tensors.

python benchmarks/training_step.py tiny
python benchmarks/training_step.py base --batch 4 --seconds 10
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from typing import Annotated

import torch
import typer

from asr_pathways.data.batches import Batch
from asr_pathways.models.presets import Preset, preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import METHODS, Pathways, matching

LANGUAGES = ("en", "es", "fr", "it", "ru")
VOCABULARY = 256


def batch_of_noise(size: int, seconds: float) -> Batch:
    """Features (size, 100 seconds, 80) and four word pieces a second."""
    frames, pieces = int(100 * seconds), int(4 * seconds)
    return Batch(
        language="en",
        ids=[str(number) for number in range(size)],
        texts=[""] * size,
        features=torch.randn(size, frames, 80),
        feature_lengths=torch.full((size,), frames),
        targets=torch.randint(VOCABULARY, (size, pieces)),
        target_lengths=torch.full((size,), pieces),
    )


def step(
    model: Transducer, batch: Batch, optimizer: torch.optim.Optimizer, pathways: Pathways | None, turn: int
) -> float:
    """Seconds of one step, languages in turn."""
    started = time.perf_counter()
    optimizer.zero_grad()
    if pathways is None:
        model.loss(batch).backward()
        optimizer.step()
    else:
        with pathways.use(LANGUAGES[turn % len(LANGUAGES)]):
            model.loss(batch).backward()
        optimizer.step()
        pathways.step(optimizer)
    return time.perf_counter() - started


def measure(size: Preset, method: str, batch: int, seconds: float, runs: int) -> dict[str, object]:
    """Medians over ``runs`` interleaved steps, after one of each that is not counted.

    Of each language one step in four is watched for its activations: take 20 runs for a fair share of them.
    """
    torch.manual_seed(0)
    model = Transducer(preset(size, VOCABULARY)).train()
    config = METHODS[method].config(0.7, 10**6, LANGUAGES, exclude=matching(model, model.unprunable))
    pathways = Pathways.attach(model, config, LANGUAGES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    noise = batch_of_noise(batch, seconds)
    dense, sparse, ratios, adapt = [], [], [], []
    for turn in range(runs + 1):
        dense.append(step(model, noise, optimizer, None, turn))
        sparse.append(step(model, noise, optimizer, pathways, turn))
        ratios.append(sparse[-1] / dense[-1])
        started = time.perf_counter()
        pathways.adapt(LANGUAGES[turn % len(LANGUAGES)])
        adapt.append(time.perf_counter() - started)
    median = {"dense": statistics.median(dense[1:]), "pathways": statistics.median(sparse[1:])}
    return {
        "preset": size,
        "method": method,
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "prunable": pathways.summary().weights,
        "batch": batch,
        "seconds_of_audio": seconds,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "dense_step_seconds": round(median["dense"], 3),
        "pathways_step_seconds": round(median["pathways"], 3),
        "step_ratio": round(statistics.median(ratios[1:]), 3),
        "adaptation_seconds": round(statistics.median(adapt[1:]), 3),
        "adaptation_to_dense_step": round(statistics.median(adapt[1:]) / median["dense"], 3),
    }


def run(
    size: Annotated[str, typer.Argument()] = "tiny",
    method: str = "dynamic",
    batch: int = 8,
    seconds: float = 4.0,
    runs: int = 7,
) -> None:
    """Prints medians and ratios as JSON."""
    typer.echo(json.dumps(measure(size, method, batch, seconds, runs), indent=2))  # type: ignore[arg-type]


if __name__ == "__main__":
    typer.run(run)
