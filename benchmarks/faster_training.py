"""What fused AdamW and bfloat16 gain a training step on a CPU, and that losses stay the same.

python -m benchmarks.faster_training models/tiny
python -m benchmarks.faster_training models/tiny --data data/prompts --json results/training_step.json

Figures of results/training_step.json are of this and, with ``--lr 3e-5 --seconds 8`` and ``--sparsity 0`` or 0.7, of
whisper-base.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer

from asr_pathways.bench.run import machine
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, DataConfig, TrainBatches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.left_out import LeftOut
from asr_pathways.files import read_json, write_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import METHODS, Pathways, matching
from asr_pathways.training.memory import keep_freed_memory
from benchmarks.training_step import batch_of_noise

WAYS = {"as before": (False, False), "fused AdamW": (False, True), "fused AdamW, bfloat16": (True, True)}
"""{name: whether products are of bfloat16, whether AdamW is fused}."""

LANGUAGES = ("fr", "it")
WARMUP = 20


class Trainer:
    """A training of its own: dynamic pathways of two languages, in one of the ways."""

    def __init__(self, model: Path, way: str, rate: float, sparsity: float) -> None:
        (self.bfloat16, fused), self.rate = WAYS[way], rate
        self.asr = load_model(model)
        self.asr.model.train_on_short_windows()
        network = self.asr.model.train().network
        config = METHODS["dynamic"].config(
            sparsity, 400, LANGUAGES, exclude=matching(network, self.asr.model.unprunable)
        )
        self.pathways = Pathways.attach(network, config, LANGUAGES)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.98), fused=fused)

    def step(self, batch: Batch, number: int = 0) -> tuple[float, float]:
        """The step of that number: (its loss, its seconds of CPU). The rate rises over the first `WARMUP` steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (number + 1) / WARMUP)
        torch.manual_seed(number)  # of dropout
        started = time.process_time()
        with self.pathways.use(batch.language):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                loss = self.asr.model.loss(batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.asr.model.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pathways.step(self.optimizer)
        return float(loss.detach()), time.process_time() - started


def measure(model: Path, rounds: int, size: int = 4, seconds: float = 4.0) -> dict[str, object]:
    """Medians over ``rounds`` of all ways in turn, on noise, after one that is not counted; ratios are of a round."""
    noise = dataclasses.replace(batch_of_noise(size, seconds), language=LANGUAGES[0])
    trainers = {way: Trainer(model, way, 0.0, 0.7) for way in WAYS}
    spent = [{way: trainer.step(noise)[1] for way, trainer in trainers.items()} for _ in range(rounds + 1)][1:]
    first = next(iter(WAYS))
    return {
        "model": model.name,
        **machine(),
        "threads": torch.get_num_threads(),
        "seconds_of_audio": size * seconds,
        "rounds": rounds,
        "step_cpu_seconds": {way: round(statistics.median(one[way] for one in spent), 3) for way in WAYS},
        "times_as_fast": {way: round(statistics.median(one[first] / one[way] for one in spent), 2) for way in WAYS},
    }


def batches_of(asr: AsrModel, data: Path, seconds: float) -> Iterable[Batch]:
    """Endless batches of real speech, the same for every way."""
    left_out = LeftOut(100)
    config = DataConfig(max_seconds=seconds, prefetch=0, spec_augment=None, speed_factors=(1.0,))
    return TrainBatches(
        list(load_cuts(data, "train", LANGUAGES, left_out)),
        config=config,
        tokenizer=asr.tokenizer,
        frontend=asr.model.frontend,
        length_error=asr.model.length_error,
        left_out=left_out,
    )


def curves(model: Path, data: Path, steps: int, rate: float, seconds: float, sparsity: float) -> dict[str, object]:
    """The loss of every step in each way, from the same start on the same batches."""
    losses = {}
    for way in WAYS:
        trainer = Trainer(model, way, rate, sparsity)
        drawn = itertools.islice(batches_of(trainer.asr, data, seconds), steps)
        losses[way] = [round(trainer.step(batch, number)[0], 4) for number, batch in enumerate(drawn)]
    starts = range(0, steps, 10)
    means = {way: [round(statistics.fmean(one[n : n + 10]), 4) for n in starts] for way, one in losses.items()}
    return {"steps": steps, "learning_rate": rate, "sparsity": sparsity, "means_of_ten_steps": means, "losses": losses}


def run(
    model: Annotated[Path, typer.Argument()] = Path("models/tiny"),
    data: Path | None = None,
    rounds: int = 5,
    steps: int = 50,
    lr: float = 5e-4,
    seconds: float = 20.0,
    sparsity: float = 0.7,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Prints medians and ratios as JSON; with --data the losses on its speech as well, added to what --json has."""
    torch.set_num_threads(1)
    keep_freed_memory()
    result = measure(model, rounds)
    if data is not None:
        result |= curves(model, data, steps, lr, seconds, sparsity)
    typer.echo(json.dumps({key: value for key, value in result.items() if key != "losses"}, indent=1))
    if json_out is not None:
        before = read_json(json_out) if json_out.exists() else {}
        write_json(json_out, {**before, f"{model.name} at {100 * sparsity:.0f}%": result})


if __name__ == "__main__":
    typer.run(run)
