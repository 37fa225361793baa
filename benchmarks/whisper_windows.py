"""What Whisper's training gains from windows of the batch's length instead of its own 30 seconds.

python -m benchmarks.whisper_windows openai/whisper-base data/prompts --steps 5 --train 40
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import DataConfig, TrainBatches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.evaluation.wer import Scores, score
from asr_pathways.model_folder.decode import decode_split

PEAK_LR = 2e-5


def measure(model: Path, data: Path, steps: int, seconds: float) -> dict[str, object]:
    """Medians over the same batches: each is trained on with long and with short windows in turn."""
    asr = load_model(model)
    whisper = asr.model.train()
    cuts = load_cuts(data, "train").to_eager()
    batches = TrainBatches(cuts, asr.tokenizer, DataConfig(max_seconds=seconds), whisper.frontend)
    optimizer = torch.optim.AdamW(whisper.parameters(), lr=0.0)
    taken: dict[str, list[float]] = {"window": [], "longest": []}
    audio = []
    for batch in islice(batches, steps + 1):
        audio.append(batch.seconds)
        for padding, times in taken.items():
            asr.model.network.config.padding = padding  # type: ignore[union-attr]
            started = time.perf_counter()
            whisper.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - started)
    ratios = [long / short for long, short in zip(taken["window"], taken["longest"], strict=True)]
    return {
        "model": model.name,
        "batches": steps,
        "seconds_of_audio": round(statistics.mean(audio[1:]), 1),
        "threads": torch.get_num_threads(),
        "window_step_seconds": round(statistics.median(taken["window"][1:]), 2),
        "longest_step_seconds": round(statistics.median(taken["longest"][1:]), 2),
        "ratio": round(statistics.median(ratios[1:]), 2),
    }


def trained(model: Path, data: Path, padding: str, steps: int, seconds: float) -> Scores:
    """WER on test after ``steps`` of training with windows of one kind, decoded with the same."""
    asr = load_model(model)
    whisper = asr.model.train()
    asr.model.network.config.padding = padding  # type: ignore[union-attr]
    cuts = load_cuts(data, "train").to_eager()
    batches = TrainBatches(cuts, asr.tokenizer, DataConfig(max_seconds=seconds), whisper.frontend)
    optimizer = torch.optim.AdamW(whisper.parameters(), lr=PEAK_LR)
    torch.manual_seed(0)
    for step, batch in enumerate(islice(batches, steps)):
        optimizer.param_groups[0]["lr"] = PEAK_LR * min(1.0, (step + 1) / 10, (steps - step) / (steps / 2))
        whisper.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(whisper.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    whisper.eval()
    return score(decode_split(asr, data, "test"))


def run(
    model: Annotated[Path, typer.Argument()],
    data: Annotated[Path, typer.Argument()],
    steps: int = 5,
    seconds: float = 24,
    train: Annotated[int, typer.Option(help="Also train so many steps with either, and compare WER.")] = 0,
) -> None:
    """Prints medians and their ratio, and WER after as much training with either kind of windows, as JSON."""
    result = measure(model, data, steps, seconds)
    if train:
        for padding in ("longest", "window"):
            result[f"{padding}_scores"] = trained(model, data, padding, train, seconds).to_dict()
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(run)
