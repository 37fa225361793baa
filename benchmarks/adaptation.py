"""What choosing masks costs: one adaptation of a model the size of `base`, beside `torch.nn.utils.prune`.

python benchmarks/adaptation.py              about 80M weights
python benchmarks/adaptation.py --layers 2   small
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import typer
from torch import nn
from torch.nn.utils import prune

from asr_pathways import PathwayConfig, Pathways


def stack(layers: int) -> nn.Sequential:
    """Linear layers of the shapes of a transformer of width 512: 3.1M weights a layer."""
    shapes = [*[(512, 512)] * 4, (512, 2048), (2048, 512)] * layers
    return nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for inputs, outputs in shapes))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prune_by_torch(model: nn.Sequential, sparsity: float) -> float:
    """Seconds of `l1_unstructured` over all layers; the model is left as it was."""
    spent = 0.0
    for layer in model:
        twin = nn.Module()
        twin.weight = nn.Parameter(layer.weight.detach().clone())
        spent += seconds(lambda twin=twin: prune.l1_unstructured(twin, "weight", amount=sparsity))
    return spent


def measure(layers: int, sparsity: float, runs: int) -> dict[str, object]:
    """Medians over ``runs`` of adapting one language's masks by magnitude and activation, and of torch's pruning."""
    torch.manual_seed(0)
    model = stack(layers)
    by_score = {}
    for score in ("magnitude", "activation"):
        by_score[score] = Pathways.attach(model, PathwayConfig(sparsity=sparsity, score=score), ["en", "fr"])
    with by_score["activation"].calibrate("en"), torch.inference_mode():
        model(torch.randn(64, 512))
    times: dict[str, list[float]] = {"torch": [], **{score: [] for score in by_score}}
    for _ in range(runs):
        times["torch"].append(prune_by_torch(model, sparsity))
        for score, pathways in by_score.items():
            times[score].append(seconds(lambda pathways=pathways: pathways.adapt("en")))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "weights": by_score["magnitude"].summary().weights,
        "sparsity": sparsity,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch_prune_seconds": round(medians["torch"], 3),
        **{f"{score}_seconds": round(medians[score], 3) for score in by_score},
        **{f"{score}_ratio_to_torch_prune": round(medians[score] / medians["torch"], 3) for score in by_score},
    }


def run(layers: int = 25, sparsity: float = 0.7, runs: int = 5) -> None:
    """Prints the medians and their ratios as JSON."""
    typer.echo(json.dumps(measure(layers, sparsity, runs), indent=2))


if __name__ == "__main__":
    typer.run(run)
