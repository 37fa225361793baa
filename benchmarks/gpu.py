"""Everything that is otherwise on a GPU, checked in less than five minutes: against the CPU, and by runs of its own.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu     # the same checks where there is no GPU

Checked are losses and gradients of every kind of model, the masks of every score, batches of several languages,
refitting, what ranks send one another (by NCCL, of one rank), torchrun, a pruning run in bfloat16 and its resumption,
recognition, and the refusal of what does not fit. Data and models are tiny: sines and random weights, as in tests/.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import typer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from asr_pathways import PathwayConfig, Pathways, ranks
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.paces import noise_batch
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.models.presets import Preset, preset
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import METHODS, matching
from asr_pathways.pruning.refit.refitting import Refitting
from asr_pathways.pruning.scores import SCORES
from asr_pathways.training.config import LoopConfig
from asr_pathways.training.estimate import measure
from asr_pathways.training.state import checkpoints
from benchmarks.training_step import batch_of_noise, step
from tests.conftest import make_speech
from tests.models.hub.tiny import MAKERS
from tests.pruning.conftest import Recogniser, tokens

NEAR = 2e-3
"""Relative difference that float32 sums in another order may make in a loss or a gradient, by its norm."""

LANGUAGES = ("en", "fr")
Check = Callable[[torch.device, Path], str]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Adds a check: of a device, in a folder of its own; it returns a figure, or raises."""
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


def difference(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over the norm of ``other``."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def require(what: str, value: float, most: float = NEAR) -> float:
    if not value <= most:
        raise AssertionError(f"{what}: {value:.3g}, at most {most:.3g}")
    return value


def short_noise(model: SpeechModel, language: str) -> Batch:
    """Two utterances of noise, a second each: what fits into the window of the tiny Whisper."""
    batch = noise_batch(model, language, 5.0)
    frames = round(model.frontend.frame_rate)
    return dataclasses.replace(
        batch,
        features=batch.features[:, :frames].contiguous(),
        feature_lengths=batch.feature_lengths.clamp(max=frames),
        targets=batch.targets[:, :3].contiguous(),
        target_lengths=batch.target_lengths.clamp(max=3),
    )


@check
def losses_and_gradients(device: torch.device, folder: Path) -> str:
    worst = 0.0
    for path in (Path("models/tiny"), *(make(folder / kind) for kind, make in MAKERS.items())):
        asr = load_model(path)
        language = next(iter(asr.languages or ("en",)))
        asr.model.load_languages([language])
        asr.model.eval()  # no dropout
        batch = short_noise(asr.model, language)
        there = copy.deepcopy(asr.model).to(device)
        losses = asr.model._loss(batch), there._loss(batch.to(device))
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
        worst = max(worst, require(f"loss of {path.name}", difference(losses[1], losses[0])))
        gradients = [
            torch.cat([p.grad.cpu().flatten() for p in model.network.parameters() if p.grad is not None])
            for model in (there, asr.model)
        ]
        worst = max(worst, require(f"gradient of {path.name}", difference(*gradients), 0.02))
    return f"{len(MAKERS) + 1} kinds of model, largest relative difference {worst:.1e}"


def trained(device: torch.device, **options: object) -> tuple[nn.Module, Pathways]:
    """A small network of every kind of layer after ten steps in turns of two languages."""
    torch.manual_seed(0)
    model = Recogniser().to(device)
    pathways = Pathways.attach(model, PathwayConfig.model_validate({"sparsity": 0.6, **options}), LANGUAGES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for number in range(10):
        optimizer.zero_grad()
        with pathways.use(LANGUAGES[number // 2 % 2]):
            model(tokens(number).to(device)).square().mean().backward()
        optimizer.step()
        pathways.step(optimizer)
    return model, pathways


@check
def masks_of_every_score(device: torch.device, folder: Path) -> str:
    half: dict[str, object] = {"sparsity": 0.5, "score": "activation", "adapt_every": 3}
    options: list[dict[str, object]] = [
        *({"score": score, "adapt_every": 3, "adapt_until": 9} for score in SCORES if score != "fisher"),
        {"score": "fisher", "adapt_every": 3, "include": ("output",)},  # of linear layers alone
        *({"granularity": granularity, **half} for granularity in ("2:4", "block:4x1")),
        {"schedule": "iterative", "prune_every": 2},
        {"allocation": "global"},
    ]
    same, weights = 0, 0
    for one in options:
        (_, there), (_, here) = trained(device, **one), trained(torch.device("cpu"), **one)
        for language in LANGUAGES:
            for name, mask in here.mask(language).items():
                same += int((there.mask(language)[name].cpu() == mask).sum())
                weights += mask.numel()
        there.save(folder / "pathways")
    require("share of other masks", 1 - same / weights, 0.01)
    return f"{len(options)} configurations, {100 * same / weights:.2f}% of masks as on the CPU"


@check
def batches_of_two_languages(device: torch.device, folder: Path) -> str:
    results = []
    for where in (device, torch.device("cpu")):
        model, pathways = trained(where, score="activation")
        model.zero_grad()
        with pathways.use(["en", "fr", "en", "fr"]) as rows:
            out = rows(model, torch.cat([tokens(20), tokens(21)]).to(where))
            out.square().mean().backward()
        results.append(torch.cat([p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]))
    return f"relative difference of gradients {require('gradients', difference(*results), 0.02):.1e}"


@check
def refitting(device: torch.device, folder: Path) -> str:
    weights = []
    for where in (device, torch.device("cpu")):
        asr = load_model(MAKERS["whisper"](folder / str(where.type)))
        dense = copy.deepcopy(asr.model).to(where).eval()
        model = asr.model.to(where).eval()
        batches = {language: [short_noise(asr.model, language).to(where)] for language in LANGUAGES}
        exclude = matching(model.network, model.unprunable)
        pathways = Pathways.attach(model.network, PathwayConfig(sparsity=0.5, exclude=exclude), LANGUAGES)
        solving = Refitting(pathways, model.loss, dense.network, dense.loss, batches["en"][0], dense.input_positions)
        solving.run(batches, steps=0)
        weights.append(torch.cat([model.network.get_parameter(name).cpu().flatten() for name in pathways.names]))
    return f"relative difference of weights {require('weights', difference(*weights), 0.05):.1e}"


@contextmanager
def one_rank(device: torch.device, folder: Path) -> Iterator[None]:
    """A group of this process only, that sends all the same."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        with mock.patch.object(ranks, "alone", lambda: False):
            yield
    finally:
        distributed.destroy_process_group()


@check
def what_ranks_send(device: torch.device, folder: Path) -> str:
    with one_rank(device, folder):
        backend = distributed.get_backend()
        counts = torch.arange(5.0)  # on the CPU, as models are before training
        assert torch.equal(ranks.total(counts), counts) and ranks.total(counts).device == counts.device
        assert ranks.anywhere([True, False], device) == [True, False]
        assert ranks.gather({"a": [1, 2]}, device) == [{"a": [1, 2]}]
        ranks.from_first([counts])
        ranks.require_same("weights of", [("a", counts.to(device))], device)
        model = Recogniser().to(device)
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, adapt_every=2, score="activation"), LANGUAGES)
        parallel = DistributedDataParallel(model, broadcast_buffers=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        changed = 0.0
        for number in range(6):
            optimizer.zero_grad()
            with pathways.use(LANGUAGES[number % 2]):
                parallel(tokens(number).to(device)).square().mean().backward()
            optimizer.step()
            changed += sum(event.changed for event in pathways.step(optimizer))
        assert changed > 0
    return f"{backend}, {len(pathways.names)} tensors in DistributedDataParallel"


def command(device: torch.device, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    """stderr of a command of this package, that must succeed."""
    hidden = {} if device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    start = [sys.executable, *launcher, "-m", "asr_pathways", *arguments]
    done = subprocess.run(start, env={**os.environ, **hidden}, capture_output=True, text=True, timeout=200)
    if done.returncode:
        raise AssertionError(f"{' '.join(arguments)}: {done.stderr.strip()[-600:]}")
    return done.stderr


def recipe(path: Path, steps: int, **options: object) -> str:
    content = {
        "optimizer": {"steps": steps, "peak_lr": 1e-3, "warmup_steps": 1},
        "data": {"max_seconds": 4},
        "evaluation": {"every": 4, "utterances": 1},
        "checkpoint_every": 4,
        **options,
    }
    path.write_text(json.dumps(content))
    return str(path)


def prune(model: str, speech: str, config: str, out: Path) -> list[str]:
    """The arguments of a run of two languages."""
    given = ["prune", model, "--data", speech, "--languages", "en,fr", "--config", config, "--out", str(out)]
    return [*given, "--method", "dynamic", "--sparsity", "0.7"]


@check
def pruning_runs(device: torch.device, folder: Path) -> str:
    speech = str(make_speech(folder / "speech"))
    whisper, out = str(MAKERS["whisper"](folder / "whisper")), folder / "pruned"
    config = recipe(folder / "recipe.yaml", 12, precision="bf16-mixed", refit_batches=1, soft_targets=1.0)
    command(device, *prune(whisper, speech, config, out))
    asr = load_model(out, device)
    assert asr.device.type == device.type
    words = sum(len(one.reference.split()) for one in decode_split(asr, Path(speech), "test", None))
    return f"a Whisper pruned, refitted, distilled in bfloat16, and tested on {words} words"


@check
def an_interrupted_run(device: torch.device, folder: Path) -> str:
    speech, out = str(make_speech(folder / "speech")), folder / "run"
    arguments = prune("models/tiny", speech, recipe(folder / "recipe.yaml", 120), out)
    hidden = {} if device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    started = subprocess.Popen(
        [sys.executable, "-m", "asr_pathways", *arguments], env={**os.environ, **hidden}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not checkpoints(out) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    started.terminate()
    started.wait(60)
    if not checkpoints(out) or started.returncode == 0:
        raise AssertionError("the run was not interrupted between two checkpoints")
    command(device, *arguments, "--resume")
    assert load_model(out).pathways is not None
    return "goes on where it was ended"


@check
def torchrun(device: torch.device, folder: Path) -> str:
    speech = str(make_speech(folder / "speech"))
    arguments = prune("models/tiny", speech, recipe(folder / "recipe.yaml", 8), folder / "run")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=1")
    command(device, *arguments, launcher=launcher)
    return "one process"


@check
def what_does_not_fit(device: torch.device, folder: Path) -> str:
    model = Transducer(preset("tiny", 256)).to(device)
    large = batch_of_noise(1, 8.0)
    config = LoopConfig.model_validate({"optimizer": {"steps": 10, "peak_lr": 1e-3}, "data": {"max_seconds": 10**9}})
    try:
        measure(model, large, config)
    except PathwaysError as error:
        return str(error)
    raise AssertionError("a batch of 30 years was not refused")


@check
def a_training_step(device: torch.device, folder: Path) -> str:
    size: Preset = "base" if device.type == "cuda" else "micro"
    rows, runs = (32, 20) if device.type == "cuda" else (1, 2)
    torch.manual_seed(0)
    model = Transducer(preset(size, 256)).to(device).train()
    languages = ["en", "es", "fr", "it", "ru"]
    pathways = Pathways.attach(model, METHODS["dynamic"].config(0.7, 10**6, languages), languages)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = batch_of_noise(rows, 10.0).to(device)

    def seconds(masks: Pathways | None) -> float:
        for turn in range(runs // 2):
            step(model, batch, optimizer, masks, turn)
        wait(device)
        began = time.perf_counter()
        for turn in range(runs):
            step(model, batch, optimizer, masks, turn)
        wait(device)
        return (time.perf_counter() - began) / runs

    dense, pruned = seconds(None), seconds(pathways)
    return f"{size}: {pruned:.3f} s, {pruned / dense:.2f} of dense; {rows * 10 / pruned:,.0f} s of speech a second"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal")] = "cuda") -> None:
    """Runs all checks, says what each found, and fails if one of them does."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu rehearses the checks")
    where, failed, began = torch.device(device), [], time.monotonic()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    for label, function in CHECKS.items():
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = function(where, Path(folder))
            except Exception as error:  # one check's failure must not hide the others
                failed.append(label)
                traceback.print_exc()
                found = f"FAILED: {type(error).__name__}: {' '.join(str(error).split()):.300}"
        print(f"{label}: {found} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} checks passed in {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
