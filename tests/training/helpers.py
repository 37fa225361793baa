"""A training loop over tiny speech, and ways to compare what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_pathways.data.batches import Batch, DataConfig
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import METHODS, PathwayConfig, Pathways, matching
from asr_pathways.pruning.state import State
from asr_pathways.training.config import EvaluationConfig, LoopConfig, OptimizerConfig
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.run import Run, launch
from tests.conftest import LANGUAGES, make_model
from tests.same import same as same

DATA = DataConfig(max_seconds=1.5, speed_factors=(1.0, 1.1), prefetch=2)


def loop_config(steps: int, **options: Any) -> LoopConfig:
    values: dict[str, Any] = {
        "optimizer": OptimizerConfig(steps=steps, peak_lr=5e-3, warmup_steps=2),
        "data": DATA,
        "evaluation": EvaluationConfig(every=4, utterances=1, keep_best=2),
        "checkpoint_every": 5,
    }
    return LoopConfig.model_validate({**values, **options})


def recognizer_for(tokenizer: Tokenizer, method: str | None, steps: int, **options: Any) -> AsrModel:
    """The same weights each time; with the pathways of a method, if one is named."""
    asr = make_model(tokenizer)
    if method is not None:
        options = {"exclude": asr.model.unprunable, **options}
        config = METHODS[method].config(0.7, steps, LANGUAGES, **options)
        asr.pathways = Pathways.attach(asr.model, config, LANGUAGES)
    return asr


def dev_batches(speech: Path, asr: AsrModel, utterances: int) -> list[Batch]:
    """So many of each language; 0: all."""
    config = loop_config(1, evaluation=EvaluationConfig(utterances=utterances))
    return Inputs(Run(Path(), config, launch(config)), speech).dev(asr)


def make_loop(speech: Path, asr: AsrModel, out: Path, config: LoopConfig) -> TrainingLoop:
    run = Run(out, config, launch(config))
    inputs = Inputs(run, speech)
    return TrainingLoop(run, asr, inputs.of(asr), "Testing")


@contextmanager
def stopped_before(step: int) -> Iterator[None]:
    """A run inside the block ends, as if it were killed, before its training step ``step`` (0, 1, ...)."""

    class Stop(Exception):
        pass

    plain = TrainingLoop._step

    def killed(self: TrainingLoop, *arguments: Any) -> None:
        if self.state.step == step:
            raise Stop
        plain(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(TrainingLoop, "_step", killed)
        yield


def on_loss(call: int, action: Callable[[Transducer, Tensor], Tensor | None]) -> Callable[[Transducer, Batch], Tensor]:
    """A `Transducer.loss` whose call number ``call`` (0, 1, ...) does ``action`` after it knows the loss."""
    plain, calls = Transducer.loss, iter(range(1_000_000))

    def loss(self: Transducer, batch: Batch) -> Tensor:
        value = plain(self, batch)
        changed = action(self, value) if next(calls) == call else None
        return value if changed is None else changed

    return loss


def rms_of_inputs(asr: AsrModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """{prunable tensor: (groups, columns)} over ``batches`` of one language, as masks are chosen by it."""
    dense = matching(asr.model.network, asr.model.unprunable)
    state = State(asr.model.network, PathwayConfig(sparsity=0.5, score="activation", exclude=dense), ["fr"])
    pathways = Pathways(asr.model.network, state)
    watched = replace(asr, pathways=pathways)
    asr.model.eval()
    with pathways.calibrate("fr"), torch.no_grad():
        for batch in batches:
            with watched.unpadded(batch):
                asr.model.loss(batch)
    evidence = state.observations.evidence("fr")
    found = {name: evidence(name).inputs for name in pathways.names}
    pathways.detach()
    return {name: inputs for name, inputs in found.items() if inputs is not None}


def one(batch: Batch, row: int) -> Batch:
    """The batch of one utterance."""
    frames, tokens = int(batch.feature_lengths[row]), int(batch.target_lengths[row])
    return Batch(
        batch.language,
        [batch.ids[row]],
        [batch.texts[row]],
        batch.features[row : row + 1, :frames],
        batch.feature_lengths[row : row + 1],
        batch.targets[row : row + 1, :tokens],
        batch.target_lengths[row : row + 1],
        batch.frame_rate,
    )
