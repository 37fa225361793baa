from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.training import estimate as module
from asr_pathways.training.config import LoopConfig, PruneRecipe
from asr_pathways.training.estimate import Pace, estimate, first, measure
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.run import Run, launch
from tests.conftest import make_model
from tests.models.hub.tiny import whisper
from tests.training.helpers import dev_batches, loop_config, same

PACE = Pace(step=3.0, own=2.0, forward=0.5, utterance=0.1, saved=10**9, weights=10**8, resident=10**9, refitted=30.0)


@pytest.fixture
def batch(speech: Path, tokenizer: object) -> Batch:
    config = loop_config(1)
    return Inputs(Run(Path(), config, launch(config)), speech).sample(make_model(tokenizer))  # type: ignore[arg-type]


def test_measuring_changes_nothing(batch: Batch, tokenizer: object, speech: Path) -> None:
    asr = make_model(tokenizer)  # type: ignore[arg-type]
    before, random = {name: value.clone() for name, value in asr.model.state_dict().items()}, torch.get_rng_state()
    pace = measure(asr.model, batch, loop_config(1), dev_batches(speech, asr, 1)[0])
    assert pace.step > pace.forward > 0 and pace.utterance > 0 and pace.saved > 1000
    assert pace.weights == sum(parameter.numel() for parameter in asr.model.parameters())
    assert same(before, asr.model.state_dict()) and torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in asr.model.parameters())


def test_what_a_step_keeps_grows_with_the_batch(batch: Batch, tokenizer: object) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]
    assert len(batch) >= 2
    part = measure(model, first(batch, 1), loop_config(1)).saved
    whole = measure(model, batch, loop_config(1)).saved
    assert whole == pytest.approx(part * len(batch) * batch.features.shape[1] / first(batch, 1).features.shape[1])


def test_more_memory_than_there_is_is_refused_with_what_fits(
    batch: Batch, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]
    saved = measure(model, batch, loop_config(1)).saved
    weights = sum(parameter.numel() for parameter in model.parameters())
    config = loop_config(1, data={"max_seconds": 24.0, "prefetch": 0})
    monkeypatch.setattr(module, "free_memory", lambda device: 12 * weights + int(0.61 * saved))
    with pytest.raises(
        PathwaysError, match=r"data.max_seconds: .* 24 s .*: set max_seconds to 12 and accumulate to 2$"
    ):
        measure(model, batch, config)
    monkeypatch.setattr(module, "free_memory", lambda device: 11 * weights)
    with pytest.raises(PathwaysError, match="for the weights alone: take a smaller model"):
        measure(model, batch, config)
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    assert measure(model, batch, config).saved == saved


def test_an_estimate_adds_up() -> None:
    config = LoopConfig.model_validate({"optimizer": {"steps": 100}, "evaluation": {"every": 40}})
    plain = estimate(PACE, config, 2, 20)
    assert plain.seconds == pytest.approx(100 * 2.0 + 3 * 20 * 0.1)
    assert plain.memory == 10**9 + 12 * 10**8 + int(1.2 * 10**9)
    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 100}, "evaluation": {"every": 40}, "refit_batches": 6})
    pruned = estimate(PACE, recipe, 2, 20)
    # Calibration on 4 batches, two passes over 6, the solutions, one more scoring.
    assert pruned.seconds == pytest.approx(plain.seconds + 2 * (4 + 12) * 0.5 + 2 * 30.0 + 20 * 0.1)
    assert "100 steps of 2 s" in pruned.line("Pruning") and "refitting 1 min 12 s" in pruned.line("Pruning")
    without = estimate(PACE, recipe.with_steps(0), 2, 0)
    assert without.seconds == pytest.approx(2 * (4 + 12) * 0.5 + 60.0) and without.memory == 10**9
    distilled = recipe.model_copy(update={"distillation": 1.0})
    assert estimate(PACE, distilled, 2, 20).memory == plain.memory + 4 * 10**8
    assert estimate(PACE, distilled, 2, 20).seconds == pytest.approx(pruned.seconds + 100 * 1.0)


def test_a_whisper_is_measured_as_it_trains(speech: Path, tmp_path: Path) -> None:
    asr = load_model(whisper(tmp_path / "whisper"))
    config = PruneRecipe.model_validate({"optimizer": {"steps": 1}, "data": {"max_seconds": 3}, "refit_batches": 1})
    inputs = Inputs(Run(Path(), config, launch(config)), speech)
    pace = measure(asr.model, inputs.sample(asr), config)
    assert pace.refitted > 0 and asr.model.pads_to_window  # only the copy has short windows
    untrained = config.with_steps(0)
    inputs = Inputs(Run(Path(), untrained, launch(untrained)), speech)
    sample = inputs.sample(asr)
    assert any("+" in name for name in sample.ids) and measure(asr.model, sample, untrained).step == 0
