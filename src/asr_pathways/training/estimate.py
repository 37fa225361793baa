"""What a run will cost, said before it begins: a training step, the memory it needs and decoding are measured first."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.formats import duration, size
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.pruning.prunable import matches
from asr_pathways.pruning.refit.refitting import solving_seconds
from asr_pathways.training.config import LoopConfig, PruneRecipe
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.memory import free_memory, resident_memory
from asr_pathways.training.run import Run

_FLOAT = 4  # bytes
_SAMPLE = 4
"""Utterances whose decoding is timed, at most, and the part of a batch whose memory is counted before all of it is."""

_END = 5
"""Steps of decoding beside the text's tokens: prompt and end."""

_SLACK = 1.2
"""Memory of temporary tensors, and what the allocator keeps, over that of tensors that are counted."""


@dataclass(frozen=True)
class Pace:
    """What a model takes on this machine.

    Attributes:
        step: seconds of a training step on a whole batch, optimizer included, and the teacher if there is one.
        own: those without the teacher.
        forward: seconds of a forward pass on it without gradients, in float32, as for calibration and refitting.
        utterance: seconds to decode one.
        saved: bytes that a step keeps for its backward pass.
        weights: how many the model has.
        resident: bytes of memory that the process had before.
        refitted: seconds to solve once for all linear layers, a language.
    """

    step: float
    own: float
    forward: float
    utterance: float
    saved: int
    weights: int
    resident: int
    refitted: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Of a run: seconds, bytes of memory at its peak, bytes on disk while it runs and afterwards.

    ``parts`` says what the seconds are made of.
    """

    seconds: float
    memory: int
    disk: int
    left: int
    parts: tuple[str, ...]

    def line(self, label: str) -> str:
        """``Pruning (dynamic): about 41 min 3 s (2,000 steps of 1.21 s, ...); memory 3.9 GB; disk 2.1 GB, ...``."""
        disk = f"disk {size(self.disk)}, {size(self.left)} of it in the end"
        return f"{label}: about {duration(self.seconds)} ({', '.join(self.parts)}); memory {size(self.memory)}; {disk}"


def measure(
    model: SpeechModel,
    batch: Batch,
    config: LoopConfig,
    dev: Batch | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Pace:
    """Times a copy of ``model`` on a batch as in training, and on some utterances of a ``dev`` batch.

    Memory is counted on a part of the batch before all of it is tried.

    Raises:
        PathwaysError: if training needs more memory than there is; the option that makes it fit is named.
    """
    device, resident = next(model.parameters()).device, resident_memory()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = copy.deepcopy(model)
        weights = sum(parameter.numel() for parameter in model.parameters())
        if config.optimizer.steps:
            model.train_on_short_windows()
        model.train()
        teacher = isinstance(config, PruneRecipe) and bool(config.distillation or config.soft_targets)
        saved = step = own = 0.0
        if config.optimizer.steps:
            part = first(batch, max(1, len(batch) // _SAMPLE))
            saved = _padded(batch) / _padded(part) * _saved(model, part.to(device), autocast)
            _check_memory(int(saved), weights, config, teacher, device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
            began = time.monotonic()
            with autocast():
                loss = model._loss(batch.to(device))
            _wait(device)
            forward = time.monotonic() - began  # which a teacher takes too
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
            optimizer.step()
            _wait(device)
            own = (time.monotonic() - began) * config.accumulate
            step = own + teacher * forward * config.accumulate
            del optimizer, loss
        model.eval()
        began = time.monotonic()
        with torch.no_grad():
            model._loss(batch.to(device))
        _wait(device)
        forward = time.monotonic() - began
        refits = isinstance(config, PruneRecipe) and config.refit_batches > 0
        utterance = 0.0 if dev is None else _decoding(model, first(dev, _SAMPLE).to(device))
        refitted = solving_seconds(_linear(model)) if refits else 0.0
        return Pace(step, own, forward, utterance, int(saved), weights, resident, refitted)


def estimate(pace: Pace, config: LoopConfig, languages: int, dev: int) -> Estimate:
    """Of a run of ``config`` in so many languages, that scores ``dev`` utterances at a time."""
    steps = config.optimizer.steps
    scorings = max(1, math.ceil(steps / config.evaluation.every))
    teacher = isinstance(config, PruneRecipe) and bool(config.distillation or config.soft_targets)
    step = pace.step if teacher else pace.own
    seconds, parts = steps * step, [f"{steps:,} steps of {step:.2g} s"] if steps else []
    if isinstance(config, PruneRecipe):
        scorings += 1  # the dense model is scored first
        seconds += languages * config.calibration_batches * pace.forward
        if config.refit_batches:
            refitting = languages * ((2 * config.refit_batches + 3 * config.refit_steps) * pace.forward + pace.refitted)
            seconds += refitting
            parts.append(f"refitting {duration(refitting)}")
    if dev:
        seconds += scorings * dev * pace.utterance
        parts.append(f"decoding dev {scorings} times {duration(scorings * dev * pace.utterance)}")
    model = _FLOAT * pace.weights
    kept = config.evaluation.keep_best if config.evaluation.choose == "best" else 0
    checkpoints = 3 * config.keep_last * model  # weights and the optimizer's two moments
    memory = pace.resident + _needed(pace.saved, pace.weights, config, teacher)
    return Estimate(seconds, memory, checkpoints + (2 + kept) * model, model, tuple(parts))


def report_cost(run: Run, label: str, asr: AsrModel, inputs: Inputs, dev: Sequence[Batch]) -> None:
    """Measures on the first rank, and prints one line on stderr.

    Raises:
        PathwaysError: as `measure` does.
    """
    if not run.fabric.is_global_zero:
        return
    print(f"{run.out}: timing a step and decoding on this machine", file=sys.stderr)
    asr.model.to(run.fabric.device)
    pace = measure(asr.model, inputs.sample(asr), run.config, next(iter(dev), None), run.fabric.autocast)
    languages = len(asr.card.languages or asr.languages)
    print(estimate(pace, run.config, languages, sum(map(len, dev))).line(label), file=sys.stderr)


def first(batch: Batch, rows: int) -> Batch:
    """The first ``rows`` utterances of a batch."""
    frames, tokens = batch.feature_lengths[:rows], batch.target_lengths[:rows]
    return replace(
        batch,
        ids=batch.ids[:rows],
        texts=batch.texts[:rows],
        features=batch.features[:rows, : int(frames.max())],
        feature_lengths=frames,
        targets=batch.targets[:rows, : int(tokens.max())],
        target_lengths=tokens,
    )


def _padded(batch: Batch) -> int:
    return len(batch) * batch.features.shape[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _saved(model: SpeechModel, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, weights not counted."""
    sizes: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        loss = model._loss(batch)
    del loss
    return sum(sizes.values())


def _needed(saved: int, weights: int, config: LoopConfig, teacher: bool) -> int:
    """Bytes of training beside the model: gradients, two moments, a teacher, activations."""
    return int(_FLOAT * weights * (3 + teacher) + _SLACK * saved) if config.optimizer.steps else 0


def _check_memory(saved: int, weights: int, config: LoopConfig, teacher: bool, device: torch.device) -> None:
    needed, free = _needed(saved, weights, config, teacher), free_memory(device)
    if free is None or needed <= free:
        return
    fixed, most = _needed(0, weights, config, teacher), config.data.max_seconds
    fits = math.floor(most * (free - fixed) / max(1, needed - fixed))
    what = f"a training step on {most:g} s of audio needs about {size(needed)} of memory, and {size(free)} are free"
    if fits < 1:
        raise PathwaysError(f"{what}, less than {size(fixed)} for the weights alone: take a smaller model")
    accumulate = config.accumulate * math.ceil(most / fits)
    raise PathwaysError(f"recipe: data.max_seconds: {what}: set max_seconds to {fits} and accumulate to {accumulate}")


def _decoding(model: SpeechModel, batch: Batch) -> float:
    """Seconds to decode an utterance of a batch, were its texts as long as the references.

    A model that has not learnt its task yet may write endless ones.
    """
    began = time.monotonic()
    found = model.decode(batch.features, batch.feature_lengths, batch.language)
    seconds = time.monotonic() - began
    wanted = int(batch.target_lengths.max()) + _END
    return seconds / len(batch) * min(1.0, wanted / (max(map(len, found)) + _END))


def _linear(model: SpeechModel) -> Sequence[Tensor]:
    """The weights that refitting solves for."""
    linear = {name: one.weight for name, one in model.network.named_modules() if isinstance(one, nn.Linear)}
    return [weight for name, weight in linear.items() if not matches([f"{name}.weight"], model.unprunable)]
