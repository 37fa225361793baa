"""What a run will cost, said before it begins: a training step, the memory it needs and decoding are measured first."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from asr_pathways import ranks
from asr_pathways.data.batches import Batch, FeatureCache
from asr_pathways.errors import PathwaysError
from asr_pathways.formats import duration, size
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.refit.refitting import RefitCost, Refitting
from asr_pathways.training.config import LoopConfig, PruneRecipe
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.memory import free_memory, release_memory, resident_memory
from asr_pathways.training.refitting import stages
from asr_pathways.training.run import Run

_FLOAT = 4  # bytes
_SAMPLE = 4
"""Utterances whose decoding is timed first, and the part of a batch whose memory is counted before all of it is."""

_SHORT = 8.0
"""Seconds up to which what is timed is done once more: the first time pays for what later ones find ready."""

_LARGE = 10**7
"""Weights of a model whose copy takes memory that is worth the time of a collection."""

_END = 5
"""Steps of decoding beside the text's tokens: prompt and end."""

_OTHERS = 1.15
"""Time of a step of training over that of the usual batch when it is timed: batches of many short utterances take
longer, and are drawn beside it. For whisper-base on the prompts 1.16 (processor time), 1.17 to 1.22 in whole runs.
"""

_SLACK = 1.2
"""Memory of temporary tensors over that of tensors that are counted."""

_HELD = 1.3
"""Memory of a process that trains over what is in use: batches differ, and their tensors leave holes. Whisper-base in
bfloat16 on the CPU: 2.5 GB counted, 3.0 after 45 steps, and growing ever slower.
"""


@dataclass(frozen=True)
class Pace:
    """What a model takes on this machine.

    Attributes:
        step: seconds of a training step, on average, optimizer and masks included, and the teacher if there is one.
        own: those without the teacher.
        forward: seconds of a forward pass on a usual batch without gradients, in float32.
        utterance: seconds to decode one.
        saved: bytes that a step on the largest batch keeps for its backward pass.
        weights: how many the model has.
        resident: bytes of memory that the process had before.
        chosen: seconds to choose the mask of a language once.
        refit: what refitting takes, a language.
        rows: of the batch: utterances, or several that share a window.
        second: bytes of a second of audio in the cache of features.
        calibration: seconds of a batch of calibration.
        calibrated: bytes that the largest one keeps for its backward pass, in float32; 0 if it has none.
    """

    step: float
    own: float
    forward: float
    utterance: float
    saved: int
    weights: int
    resident: int
    chosen: float = 0.0
    refit: RefitCost = field(default_factory=RefitCost)
    rows: int = 1
    second: float = 0.0
    calibration: float = 0.0
    calibrated: int = 0


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
    masks: PathwayConfig | None = None,
) -> Pace:
    """Times a copy of ``model`` on a batch as in training, with ``masks`` if it is pruned, and on those of ``dev``.

    Memory is counted on a part of the batch before all of it is tried. Of several ranks, one may measure alone.

    Raises:
        PathwaysError: if training needs more memory than there is; the option that makes it fit is named.
    """
    device = next(model.parameters()).device
    large = sum(parameter.numel() for parameter in model.parameters()) > _LARGE
    if large:
        release_memory()  # else what earlier work held counts as in use
    resident = resident_memory()
    with ranks.apart(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            return _Trial(copy.deepcopy(model), batch.to(device), config, autocast, masks, resident).pace(dev)
        finally:
            if large:
                release_memory()  # the copy's, of which training has its own


class _Trial:
    """A model that is tried out, and then thrown away."""

    def __init__(
        self,
        model: SpeechModel,
        batch: Batch,
        config: LoopConfig,
        autocast: Callable[[], AbstractContextManager[Any]],
        masks: PathwayConfig | None,
        resident: int,
    ) -> None:
        self._resident = resident
        self._model, self._batch, self._config, self._autocast = model, batch, config, autocast
        self._device = batch.features.device
        self._weights = sum(parameter.numel() for parameter in model.parameters())
        if config.optimizer.steps:
            model.train_on_short_windows()
        self._pathways = None if masks is None else Pathways.attach(model.network, masks, [batch.language])

    def pace(self, dev: Batch | None) -> Pace:
        """Everything that is timed; ``dev``: what is decoded."""
        saved = 0
        step = own = 0.0
        if self._config.optimizer.steps:
            saved, own, teacher = self._training()
            step = own + teacher
        self._model.eval()
        forward = self._timed(self._forward)
        calibration, calibrated = self._calibration()
        chosen, refit = self._pruning()
        utterance = 0.0 if dev is None else self._decoding(dev.to(self._device))
        rows, second = len(self._batch), FeatureCache.bytes_of_second(self._batch)
        return Pace(
            step,
            own,
            forward,
            utterance,
            saved,
            self._weights,
            self._resident,
            chosen,
            refit,
            rows,
            second,
            calibration,
            calibrated,
        )

    def _training(self) -> tuple[int, float, float]:
        """Bytes that the largest batch's step keeps; seconds of a step, and of the teacher's part in it."""
        model, batch, config = self._model.train(), self._batch, self._config
        kept, copies = self._kept(self._autocast)
        saved = kept + copies
        teacher, masks = _teaches(config), self._pathways.config if self._pathways is not None else None
        _check_memory(saved, copies, self._weights, config, masks, self._device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
        forward = math.inf

        def step() -> None:
            nonlocal forward
            with ExitStack() as masks:
                self._use(masks)
                began = time.monotonic()
                with self._autocast():
                    loss = model._loss(batch)
                _wait(self._device)
                forward = min(forward, time.monotonic() - began)  # which a teacher takes too
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if self._pathways is not None:
                self._pathways.step(optimizer)

        often = _OTHERS * config.accumulate
        return saved, often * self._timed(step), often * teacher * forward

    def _kept(self, autocast: Callable[[], AbstractContextManager[Any]]) -> tuple[int, int]:
        """Bytes that a forward pass of the largest batch keeps for the backward pass, by those of a part of it; and
        those of weights in the lower precision of ``autocast``, which are as many for any batch.
        """
        part = first(self._batch, max(1, len(self._batch) // _SAMPLE))
        largest = max(_padded(self._batch), self._config.data.max_seconds * self._batch.frame_rate)
        kept, copies = _saved(self._model, part, autocast)
        return int(largest / _padded(part) * kept), copies

    def _use(self, masks: ExitStack) -> None:
        if self._pathways is not None:
            masks.enter_context(self._pathways.use(self._batch.language))
            masks.enter_context(self._pathways.unpadded(self._model.positions(self._batch)))

    def _forward(self) -> None:
        with torch.no_grad():
            self._model._loss(self._batch)

    def _calibration(self) -> tuple[float, int]:
        """Seconds of a batch of calibration, in float32; bytes that the largest one keeps for a backward pass, if any.

        What it observes is what masks are then chosen by.
        """
        pathways, model, batch = self._pathways, self._model, self._batch
        if pathways is None or not pathways.config.score_needs:
            return 0.0, 0
        by_gradients = pathways.config.score_needs != {"inputs"}
        kept = sum(self._kept(nullcontext)) if _backward(pathways.config) else 0

        def run() -> None:
            with pathways.calibrate(batch.language), torch.set_grad_enabled(by_gradients):
                loss = model._loss(batch)
                if by_gradients:
                    loss.backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)

        return self._timed(run, 1 if by_gradients else 2), kept

    def _pruning(self) -> tuple[float, RefitCost]:
        """Seconds to choose a mask, and what refitting takes."""
        pathways, config, model, batch = self._pathways, self._config, self._model, self._batch
        if pathways is None:
            return 0.0, RefitCost()
        chosen = self._timed(lambda: pathways.adapt(batch.language, torch.optim.SGD(model.parameters())))
        if not (isinstance(config, PruneRecipe) and config.refit_batches):
            return chosen, RefitCost()
        refitting = Refitting(pathways, model.loss, model.network, model.loss, batch, model.input_positions)
        return chosen, refitting.cost

    def _decoding(self, batch: Batch) -> float:
        """Seconds to decode an utterance of a batch, were its texts as long as the references.

        A model that has not learnt its task yet may write endless ones.
        """
        model, wanted = self._model, int(batch.target_lengths.max()) + _END
        model.longest_text = min(model.longest_text, wanted)
        longest = 0

        def decode(rows: Batch) -> Callable[[], None]:
            def run() -> None:
                nonlocal longest
                found = model.decode(rows.features, rows.feature_lengths, rows.language)
                longest = max(longest, *map(len, found))

            return run

        some = spread(batch, _SAMPLE)
        seconds = self._timed(decode(some)) / len(some)
        if seconds * len(batch) < _SHORT:
            seconds = self._timed(decode(batch), 1) / len(batch)  # many at once take less
        return seconds * min(1.0, wanted / (longest + _END))

    def _timed(self, run: Callable[[], object], times: int = 2) -> float:
        """Seconds that it takes when it is run again and again."""
        found: list[float] = []
        while not found or (len(found) < times and found[0] < _SHORT):
            began = time.monotonic()
            run()
            _wait(self._device)
            found.append(time.monotonic() - began)
        return min(found)


def estimate(
    pace: Pace, config: LoopConfig, languages: int, dev: int, masks: PathwayConfig | None = None, audio: float = 0.0
) -> Estimate:
    """Of a run of ``config`` in so many languages, that scores ``dev`` utterances at a time, pruned by ``masks``.

    ``audio``: seconds of the train split, whose features stay in memory.
    """
    steps = config.optimizer.steps
    scorings = max(1, math.ceil(steps / config.evaluation.every))
    teacher = _teaches(config)
    step = pace.step if teacher else pace.own
    seconds, parts = steps * step, [f"{steps:,} steps of {step:.2g} s"] if steps else []
    if isinstance(config, PruneRecipe):
        scorings += 1  # the dense model is scored first
        again = len(stages(masks, config)) - 1 if masks is not None else 0
        if masks is not None and masks.calibrates:
            calibrating = (1 + again) * languages * config.calibration_batches * pace.calibration
            seconds += calibrating
            parts += [f"calibration {duration(calibrating)}"] if calibrating > 1 else []
        chosen = 0 if masks is None else choices(masks, languages, steps) + again * (1 if masks.shared else languages)
        if (choosing := chosen * pace.chosen) > 1:
            seconds += choosing
            parts.append(f"choosing masks {duration(choosing)}")
        if config.refit_batches:
            refitting = languages * pace.refit.seconds(config.refit_batches, config.refit_steps)
            refitting += again * languages * pace.refit.seconds(config.refit_batches, 0)
            seconds += refitting
            parts.append(f"refitting {duration(refitting)}")
    elif scorings > 1 and config.evaluation.average and config.evaluation.choose == "best":
        scorings += 1  # of the mean of the best ones
    if dev:
        seconds += scorings * dev * pace.utterance
        often = f"{scorings} times, {duration(dev * pace.utterance)} each" if scorings > 1 else ""
        parts.append(f"decoding dev {often or duration(dev * pace.utterance)}")
    model = _FLOAT * pace.weights
    kept = config.evaluation.keep_best if config.evaluation.choose == "best" else 0
    sums = model * languages if masks is not None and _backward(masks) else 0  # of what is observed
    stay = sums if masks is not None and (masks.adapt_every is not None or len(masks.stages) > 1) else 0
    checkpoints = config.keep_last * (3 * model + stay)  # weights and the optimizer's two moments
    needed = _needed(pace.saved, pace.weights, config, masks) + stay
    if masks is not None and isinstance(config, PruneRecipe):
        needed = max(needed, _needed_first(pace, config, masks, languages) + sums)
    memory = int((_HELD if steps else 1) * (pace.resident + needed)) + _cached(pace, config, audio)
    return Estimate(seconds, memory, checkpoints + (2 + kept) * model, model, tuple(parts))


def choices(masks: PathwayConfig, languages: int, steps: int) -> int:
    """How often a run of so many steps chooses the mask of a language, or the one that all share."""
    keys = 1 if masks.shared else languages
    first = 1 + keys * (masks.calibrates)  # by magnitude, then by what is observed
    stages = [step for step in range(1, steps + 1) if masks.stage_at(step) is not None]
    adapted = [step for step in range(1, steps // keys + 1) if masks.adapts_at(step) and keys * step not in stages]
    return first + keys * (len(stages) + len(adapted))


def report_cost(
    run: Run, label: str, asr: AsrModel, inputs: Inputs, dev: Sequence[Batch], masks: PathwayConfig | None = None
) -> None:
    """Measures on the first rank, and prints one line on stderr; ``masks``: how it is pruned.

    Raises:
        PathwaysError: as `measure` does.
    """
    if not run.fabric.is_global_zero:
        return
    print(f"{run.out}: timing a step and decoding on this machine", file=sys.stderr)
    asr.model.to(run.fabric.device)
    pace = measure(asr.model, inputs.sample(asr), run.config, middle(dev), run.fabric.autocast, masks)
    languages = len(asr.card.languages or asr.languages)
    found = estimate(pace, run.config, languages, sum(map(len, dev)), masks, inputs.seconds)
    print(found.line(label), file=sys.stderr)


def middle(batches: Sequence[Batch]) -> Batch | None:
    """The batch whose utterances are about as long as all are; None if there are none."""
    mean = sum(batch.seconds for batch in batches) / max(1, sum(map(len, batches)))
    return min(batches, key=lambda batch: abs(batch.seconds / len(batch) - mean), default=None)


def first(batch: Batch, rows: int) -> Batch:
    """The first ``rows`` utterances of a batch."""
    return _taken(batch, range(min(rows, len(batch))))


def spread(batch: Batch, rows: int) -> Batch:
    """About ``rows`` utterances, evenly out of a batch."""
    return _taken(batch, range(0, len(batch), max(1, len(batch) // rows)))


def _taken(batch: Batch, rows: Sequence[int]) -> Batch:
    indices = torch.tensor(rows, device=batch.features.device)
    frames, tokens = batch.feature_lengths[indices], batch.target_lengths[indices]
    return replace(
        batch,
        ids=[batch.ids[row] for row in rows],
        texts=[batch.texts[row] for row in rows],
        features=batch.features[indices, : int(frames.max())],
        feature_lengths=frames,
        targets=batch.targets[indices, : int(tokens.max())],
        target_lengths=tokens,
    )


def _backward(masks: PathwayConfig) -> bool:
    """Whether first masks need backward passes."""
    return "fisher" in masks.score_needs


def _teaches(config: LoopConfig) -> bool:
    return isinstance(config, PruneRecipe) and bool(config.distillation or config.soft_targets)


def _padded(batch: Batch) -> int:
    return len(batch) * batch.features.shape[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _saved(model: SpeechModel, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]) -> tuple[int, int]:
    """Bytes of the tensors that a forward pass keeps for the backward pass: of those that are no weights, and of the
    weights' copies in the precision of ``autocast``.
    """
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()  # else an output would keep alive the graph that it is kept in, for good
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        loss = model._loss(batch)
    del loss
    dtypes = {parameter.dtype for parameter in model.parameters()}
    shapes = {shape for one in model.parameters() if one.dim() > 1 for shape in (one.shape, one.shape[::-1])}
    found = [0, 0]
    for tensor in kept.values():
        found[tensor.dtype not in dtypes and tensor.shape in shapes] += tensor.untyped_storage().nbytes()
    return found[0], found[1]


def _needed(saved: int, weights: int, config: LoopConfig, masks: PathwayConfig | None) -> int:
    """Bytes of training beside the model: gradients, two moments, a teacher, dense values under masks, activations."""
    copies = 3 + _teaches(config) + (masks is not None)
    return int(_FLOAT * weights * copies + _SLACK * saved) if config.optimizer.steps else 0


def _needed_first(pace: Pace, config: PruneRecipe, masks: PathwayConfig, languages: int) -> int:
    """Bytes of first masks and refitting beside the model: what it was, a teacher; gradients, or what is solved for."""
    kept = _FLOAT * pace.weights * (bool(config.refit_batches) + _teaches(config))
    calibrating = _FLOAT * pace.weights + _SLACK * pace.calibrated if _backward(masks) else 0
    refitting = pace.refit.bytes(languages, config.refit_batches, config.refit_steps) if config.refit_batches else 0
    return int(kept + max(calibrating, refitting))


def _cached(pace: Pace, config: LoopConfig, audio: float) -> int:
    """Bytes of features that a run keeps from epoch to epoch: of each utterance at every speed, as far as it gets."""
    data = config.data
    drawn = config.optimizer.steps * config.accumulate * data.max_seconds
    return int(min(pace.second * min(audio * len(data.speed_factors), drawn), 1e9 * data.cache_gigabytes))


def _check_memory(
    saved: int, copies: int, weights: int, config: LoopConfig, masks: PathwayConfig | None, device: torch.device
) -> None:
    needed, free = _needed(saved, weights, config, masks), free_memory(device)
    if free is None or needed <= free:
        return
    fixed, most = _needed(copies, weights, config, masks), config.data.max_seconds
    fits = math.floor(most * (free - fixed) / max(1, needed - fixed))
    what = f"a training step on {most:g} s of audio needs about {size(needed)} of memory, and {size(free)} are free"
    if fits < 1:
        raise PathwaysError(f"{what}, less than {size(fixed)} for the weights alone: take a smaller model")
    accumulate = config.accumulate * math.ceil(most / fits)
    raise PathwaysError(f"recipe: data.max_seconds: {what}: set max_seconds to {fits} and accumulate to {accumulate}")
