from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, FeatureCache
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.paces import noise_batch
from asr_pathways.pruning import METHODS, Pathways, matching
from asr_pathways.pruning.refit.refitting import RefitCost
from asr_pathways.pruning.selection import MaskSelector
from asr_pathways.training import estimate as module
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe
from asr_pathways.training.estimate import Pace, choices, estimate, first, measure, middle, spread
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.run import Run, launch
from tests.conftest import LANGUAGES, make_model
from tests.models.hub.tiny import whisper
from tests.training.helpers import dev_batches, loop_config, same

REFIT = RefitCost(batch=1.0, step=1.5, solving=30.0)
PACE = Pace(3.0, 2.0, 0.5, 0.1, 10**9, 10**8, 10**9, chosen=0.2, refit=REFIT, calibration=0.7)


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


def test_nothing_of_the_copy_stays_in_memory(batch: Batch, tokenizer: object) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    measure(model, batch, loop_config(1))
    before = tensors()
    for _ in range(2):
        measure(model, batch, loop_config(1))
    assert tensors() <= before + 4


def test_what_a_step_keeps_is_that_of_the_largest_batch(batch: Batch, tokenizer: object) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]
    assert len(batch) >= 2
    saved = [measure(model, one, loop_config(1)).saved for one in (first(batch, 1), batch)]
    assert saved[0] == pytest.approx(saved[1], rel=0.05)
    larger = loop_config(1, data={"max_seconds": 3.0, "prefetch": 0})
    assert measure(model, batch, larger).saved == pytest.approx(2 * saved[1], rel=0.05)


def test_weights_in_a_lower_precision_do_not_grow_with_the_batch(batch: Batch, tokenizer: object) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]
    lower = partial(torch.autocast, "cpu", torch.bfloat16)
    configs = loop_config(1), loop_config(1, data={"max_seconds": 3.0, "prefetch": 0})
    once, twice = (measure(model, batch, config, autocast=lower).saved for config in configs)
    copies = 2 * sum(one.numel() for one in model.parameters() if one.dim() > 1)
    assert 2 * once - twice == pytest.approx(copies, rel=0.3)


def test_some_utterances_stand_for_all(batch: Batch, speech: Path, tokenizer: object) -> None:
    asr = make_model(tokenizer)  # type: ignore[arg-type]
    rows = spread(batch, 2)
    assert rows.ids == batch.ids[:: len(batch) // 2] and rows.features.shape[1] == int(rows.feature_lengths.max())
    batches = dev_batches(speech, asr, 0)
    found = middle(batches)
    assert found in batches and middle([]) is None


def test_more_memory_than_there_is_is_refused_with_what_fits(
    batch: Batch, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tokenizer).model  # type: ignore[arg-type]
    config = loop_config(1, data={"max_seconds": 24.0, "prefetch": 0})
    saved = measure(model, batch, config).saved
    weights = sum(parameter.numel() for parameter in model.parameters())
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
    config = LoopConfig.model_validate({"optimizer": {"steps": 100}, "evaluation": {"every": 40, "average": False}})
    plain = estimate(PACE, config, 2, 20)
    assert plain.seconds == pytest.approx(100 * 2.0 + 3 * 20 * 0.1)
    assert plain.memory == pytest.approx(1.3 * (10**9 + 12 * 10**8 + 1.2 * 10**9))
    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 100}, "evaluation": {"every": 40}, "refit_batches": 6})
    masks = METHODS["dynamic"].config(0.5, 100, ["en", "fr"], adapt_every=10)
    pruned = estimate(PACE, recipe, 2, 20, masks)
    # Calibration on 4 batches, first masks by magnitude and by inputs, five new ones each, refitting, one more scoring.
    expected = plain.seconds + 2 * 4 * 0.7 + (1 + 2 + 10) * 0.2 + 2 * (6 * 1.0 + 30.0) + 20 * 0.1
    assert pruned.seconds == pytest.approx(expected)
    assert "100 steps of 2 s, calibration 6 s, choosing masks 3 s, refitting 1 min 12 s" in pruned.line("Pruning")
    without = estimate(PACE, recipe.model_copy(update={"refit_steps": 4}).with_steps(0), 2, 0)
    # On each batch the dense block runs, too: a third of a step.
    assert without.seconds == pytest.approx(2 * (6 * 1.0 + (4 + 6 / 3) * 1.5 + 30.0)) and without.memory == 10**9
    fisher = masks.model_copy(update={"score": "fisher"})
    assert estimate(PACE, recipe, 2, 20, fisher).seconds == pytest.approx(pruned.seconds)
    sparser = estimate(PACE, recipe, 2, 20, fisher.model_copy(update={"sparsity": 0.6})).seconds
    assert sparser == pytest.approx(pruned.seconds + 2 * 4 * 0.7 + 2 * 0.2 + 2 * (6 * 1.0 + 30.0))
    distilled = recipe.model_copy(update={"distillation": 1.0})
    assert estimate(PACE, distilled, 2, 20, masks).memory == pytest.approx(plain.memory + 1.3 * 2 * 4 * 10**8)
    assert estimate(PACE, distilled, 2, 20, masks).seconds == pytest.approx(pruned.seconds + 100 * 1.0)
    averaged = TrainRecipe.model_validate({"optimizer": {"steps": 100}, "evaluation": {"every": 40}})
    assert estimate(PACE, averaged, 2, 20).seconds == pytest.approx(plain.seconds + 20 * 0.1)


def test_memory_is_that_of_the_largest_part() -> None:
    weights, recipe = 4 * 10**8, PruneRecipe.model_validate({"refit_batches": 6, "refit_steps": 2, "soft_targets": 1.0})
    masks = METHODS["pathways"].config(0.5, 100, ["en", "fr"], score="fisher")
    pace = replace(PACE, saved=10**8, calibrated=5 * 10**8)
    trained = estimate(replace(pace, calibrated=10**8), recipe.with_steps(100), 2, 0, masks)
    # Gradients, moments, teacher and dense values: by the information no mask is chosen any more.
    assert trained.memory == pytest.approx(1.3 * (10**9 + 5 * weights + 1.2 * 10**8))
    assert trained.disk == 2 * 3 * weights + 5 * weights
    trained = estimate(pace, recipe.with_steps(100), 2, 0, masks.model_copy(update={"adapt_every": 10}))
    # Gradients, moments, teacher, dense values and the information of two languages.
    assert trained.memory == pytest.approx(1.3 * (10**9 + (5 + 2) * weights + 1.2 * 10**8))
    # Two checkpoints of weights, moments and that; the start, the result and three best models.
    assert trained.disk == 2 * (3 + 2) * weights + 5 * weights
    untrained = recipe.with_steps(0)
    calibrated = estimate(pace, untrained, 2, 0, masks).memory
    # The model as it was, a teacher, gradients and the information.
    assert calibrated == pytest.approx(10**9 + (3 + 2) * weights + 1.2 * 5 * 10**8)
    large = replace(REFIT, outputs=10**8, weights=10**9, sums=10**7)
    refitted = estimate(replace(pace, refit=large), untrained, 2, 0, masks).memory
    assert large.bytes(2, 6, 2) == (4 * 2 * 6 + 60) * 10**8 + 10**9 + 2 * 10**7
    assert refitted == pytest.approx(10**9 + (2 + 2) * weights + large.bytes(2, 6, 2))


def test_features_that_stay_in_memory_are_counted(batch: Batch, speech: Path, tokenizer: object) -> None:
    def more(**data: object) -> int:
        config = loop_config(100, data={"max_seconds": 30.0, "prefetch": 0, **data})
        pace = replace(PACE, second=FeatureCache.bytes_of_second(batch))
        return estimate(pace, config, 2, 0, audio=inputs.seconds).memory - estimate(pace, config, 2, 0).memory

    config = loop_config(100, data={"max_seconds": 30.0, "prefetch": 0, "speed_factors": [1.0]})
    inputs = Inputs(Run(Path(), config, launch(config)), speech)
    batches = inputs.training(make_model(tokenizer))  # type: ignore[arg-type]
    for _ in islice(batches, 100):
        pass
    kept = 3e9 - batches._cache._free
    assert kept > 10_000 and more(speed_factors=[1.0]) == pytest.approx(kept, rel=0.05)
    assert more(speed_factors=[0.9, 1.0, 1.1]) == pytest.approx(3 * more(speed_factors=[1.0]), abs=3)
    assert more(cache_gigabytes=1e-5) == 10_000
    assert more(max_seconds=0.01) == pytest.approx(FeatureCache.bytes_of_second(batch), abs=1)  # of 100 steps, no more


@pytest.mark.parametrize("method", ["imp", "dynamic", "adaptive", "pathways"])
def test_so_often_masks_are_chosen(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for name in ("prune", "adapt"):
        plain = getattr(MaskSelector, name)
        monkeypatch.setattr(MaskSelector, name, lambda *args, plain=plain: (chosen.append(args), plain(*args))[1])
    options = {} if method == "pathways" else {"adapt_every": 2}
    masks = METHODS[method].config(0.5, 12, LANGUAGES, **options)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    pathways = Pathways.attach(model, masks, LANGUAGES)
    for language in LANGUAGES if masks.score_needs else ():
        with pathways.calibrate(language):
            model(torch.ones(2, 4))
        pathways.adapt(language)
    for step in range(12):
        with pathways.use(LANGUAGES[step % 2]):
            model(torch.ones(2, 4)).sum().backward()
        pathways.step(torch.optim.SGD(model.parameters()))
    assert choices(masks, 2, 12) == len(chosen)


def test_a_whisper_is_measured_as_it_trains(speech: Path, tmp_path: Path) -> None:
    asr = load_model(whisper(tmp_path / "whisper"))
    config = PruneRecipe.model_validate({"optimizer": {"steps": 1}, "data": {"max_seconds": 3}, "refit_batches": 1})
    inputs = Inputs(Run(Path(), config, launch(config)), speech)
    pace = measure(asr.model, inputs.sample(asr), config)
    assert pace.refit == RefitCost() and asr.model.pads_to_window  # only the copy has short windows
    masks = METHODS["dynamic"].config(0.5, 1, asr.languages[:1], exclude=matching(asr.model.network, ["proj_out"]))
    before = {name: value.clone() for name, value in asr.model.state_dict().items()}
    pruned = measure(asr.model, inputs.sample(asr), config, masks=masks)
    assert min(pruned.chosen, pruned.refit.batch, pruned.refit.step, pruned.refit.solving) > 0
    assert same(before, asr.model.state_dict())
    untrained = config.with_steps(0)
    inputs = Inputs(Run(Path(), untrained, launch(untrained)), speech)
    sample = inputs.sample(asr)
    assert any("+" in name for name in sample.ids) and measure(asr.model, sample, untrained).step == 0


def test_masks_by_gradients_take_memory_though_nothing_is_trained(tmp_path: Path) -> None:
    asr = load_model(whisper(tmp_path / "w"))
    config = PruneRecipe().with_steps(0)
    batch, memory = noise_batch(asr.model, "en", 2.5), {}
    batch = replace(batch, features=batch.features[:, :100], feature_lengths=torch.tensor([100]))
    for score in ("activation", "fisher"):
        masks = METHODS["dynamic"].config(
            0.5, 0, ["en"], score=score, exclude=matching(asr.model.network, ["*conv*", "proj_out"])
        )
        pace = measure(asr.model, batch, config, masks=masks)
        assert (pace.calibrated > 0) == (score == "fisher")
        memory[score] = estimate(replace(pace, resident=0), config, 2, 0, masks).memory
    assert memory == {"activation": 0, "fisher": pytest.approx(12 * pace.weights + 1.2 * pace.calibrated)}
