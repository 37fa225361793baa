from __future__ import annotations

import shutil
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from asr_pathways import Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.transformers import STATE, PathwaysCallback, PathwaysMixin, PathwaysTrainer
from tests.integrations.tiny import Noise, alternating, attach, batches, loss_of, recogniser, same


def arguments(out: Path, **options: Any) -> TrainingArguments:
    defaults = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 1e-2,
        "max_steps": 6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
    }
    return TrainingArguments(output_dir=str(out), **{**defaults, **options})


def trainer(
    out: Path,
    seed: int = 0,
    kind: type[Trainer] = PathwaysTrainer,
    data: Any = None,
    masks: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    pathways: Pathways | None = None,
    **options: Any,
) -> tuple[Trainer, Pathways]:
    model = recogniser(seed) if model is None else model
    pathways = attach(model, **(masks or {})) if pathways is None else pathways
    made = kind(
        model=model,
        args=arguments(out, **options),
        train_dataset=batches() if data is None else data,
        eval_dataset=batches(4),
        data_collator=itemgetter(0),
        **({"callbacks": [PathwaysCallback(pathways)]} if kind is Trainer else {"pathways": pathways}),
    )
    return made, pathways


def parts(run: Trainer, pathways: Pathways) -> dict[str, Any]:
    return {
        "model": run.model.state_dict(),
        "pathways": pathways.state_dict(),
        "optimizer": run.optimizer.state_dict()["state"],
    }


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, stop: int) -> None:
    options = {"save_steps": stop, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2}
    straight, masks = trainer(tmp_path / "straight", max_steps=10, gradient_accumulation_steps=2, **options)
    straight.train()
    assert {event.language for event in straight.pathways_callback.events} == {"en", "fr"}

    resumed, again = trainer(tmp_path / "resumed", seed=1, max_steps=10, gradient_accumulation_steps=2, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{stop}"))
    assert masks.steps == again.steps == 10
    assert same(parts(straight, masks), parts(resumed, again))


def test_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    first, masks = trainer(tmp_path, max_steps=6, save_strategy="steps", save_steps=4)
    first.train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    second, again = trainer(tmp_path, seed=1, max_steps=6)
    second.train(resume_from_checkpoint=True)
    assert again.steps == 6
    assert same(masks.state_dict(), again.state_dict())


@pytest.mark.parametrize("gradient", ["dense", "frozen"])
def test_micro_batches_of_different_languages(tmp_path: Path, gradient: str) -> None:
    data = alternating()
    options = {"train_sampling_strategy": "sequential", "gradient_accumulation_steps": 2, "max_steps": 4}
    run, masks = trainer(
        tmp_path, data=data, masks={"gradient": gradient}, max_grad_norm=0.0, weight_decay=0.1, **options
    )
    run.train()

    model = recogniser()
    own = attach(model, gradient=gradient)
    optimizer = torch.optim.AdamW(groups(run, model), lr=1e-2, fused=True)
    for step, pair in enumerate([data[index : index + 2] for index in range(0, 8, 2)]):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 4)
        for batch in pair:
            with own.use(batch["language"]):
                loss_of(model, batch).backward()  # the Trainer does not divide the loss of this model
        optimizer.step()
        optimizer.zero_grad()
        own.step(optimizer)
    assert same(own.state_dict(), masks.state_dict())
    assert same(dict(model.state_dict()), dict(run.model.state_dict()))


def groups(run: Trainer, model: nn.Module) -> list[dict[str, Any]]:
    decayed = set(run.get_decay_parameter_names(model))
    return [
        {"params": [p for n, p in model.named_parameters() if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]


def test_evaluation_and_prediction_are_under_masks(tmp_path: Path) -> None:
    run, masks = trainer(tmp_path)
    run.train()
    expected, logits = [], []
    run.model.eval()
    with torch.no_grad():
        for batch in batches(4):
            with masks.use(batch["language"]):
                result = run.model(input_values=batch["input_values"], labels=batch["labels"])
            expected.append(float(result.loss))
            logits.append(result.logits)
            dense = run.model(input_values=batch["input_values"]).logits
            assert not torch.allclose(dense, result.logits, atol=1e-3)
    assert run.evaluate()["eval_loss"] == pytest.approx(sum(expected) / 2, rel=1e-5)
    predictions = torch.from_numpy(run.predict(batches(4)).predictions)
    torch.testing.assert_close(predictions, torch.cat(logits), rtol=1e-5, atol=1e-6)


def test_training_goes_on_after_an_evaluation(tmp_path: Path) -> None:
    """An evaluation leaves the model in evaluation mode, in which a pathway neither counts steps nor learns."""
    run, masks = trainer(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    run.train()
    assert sum(masks.state_dict()["own_steps"].values()) == 4


def test_the_best_model_gets_its_own_masks(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    run, masks = trainer(
        tmp_path, max_steps=6, load_best_model_at_end=True, metric_for_best_model="loss", learning_rate=0.3, **options
    )
    run.train()
    assert run.state.best_global_step < 6
    assert masks.steps == run.state.best_global_step


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path) -> None:
    plain, _ = trainer(tmp_path, kind=Trainer)
    with pytest.raises(PathwaysError, match="use PathwaysTrainer"):
        plain.train()
    other = PathwaysTrainer(
        model_init=lambda: recogniser(),
        args=arguments(tmp_path),
        train_dataset=batches(),
        pathways=attach(recogniser()),
    )
    with pytest.raises(PathwaysError, match="of another model than the one that trains"):
        other.train()
    with pytest.raises(PathwaysError, match="without DeepSpeed and FSDP"):
        Sharded(pathways=attach(recogniser()))


class Loop:
    is_deepspeed_enabled, is_fsdp_enabled = False, True


class Sharded(PathwaysMixin, Loop):
    pass


def test_a_batch_without_a_language_or_with_two(tmp_path: Path) -> None:
    run, _ = trainer(tmp_path, data=[{k: v for k, v in batches()[0].items() if k != "language"}] * 2)
    message = r"the batch has no 'language' \(only input_values, labels\).* remove_unused_columns=False"
    with pytest.raises(PathwaysError, match=message):
        run.train()
    with pytest.raises(PathwaysError, match=message):
        run.evaluate([{"input_values": 0, "labels": 0}])
    mixed, _ = trainer(tmp_path, data=[{**batches()[0], "language": ["en", "fr"]}] * 2)
    with pytest.raises(PathwaysError, match="the batch mixes en, fr: make batches of one language"):
        mixed.train()
    assert torch.equal(next(mixed.model.parameters()), next(recogniser().parameters()))


def test_a_checkpoint_without_masks_is_refused(tmp_path: Path) -> None:
    run, _ = trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    run.train()
    state = tmp_path / "checkpoint-2" / STATE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(PathwaysError, match="not a readable state of pathways"):
        run.train(resume_from_checkpoint=True)
    state.unlink()
    with pytest.raises(PathwaysError, match=f"{STATE}: not there"):
        run.train(resume_from_checkpoint=True)


def test_a_skipped_optimizer_step_is_none() -> None:
    pathways = attach(recogniser())
    callback = PathwaysCallback(pathways)
    for language, skipped, own_steps in (("en", True, {"en": 0, "fr": 0}), ("fr", False, {"en": 0, "fr": 1})):
        optimizer = SimpleNamespace(step_was_skipped=skipped, zero_grad=lambda: None)
        with pathways.use(language):
            pass
        callback.on_optimizer_step(None, None, None, optimizer=optimizer)
        assert pathways.state_dict()["own_steps"] == own_steps


def test_batches_are_of_one_language() -> None:
    made = batches()
    assert len(made) == 8 and {batch["language"] for batch in made} == {"en", "fr"}
    assert all(first["language"] <= second["language"] for first, second in pairwise(made))
    assert torch.equal(made[0]["labels"], torch.stack([Noise()[0]["labels"], Noise()[2]["labels"]]))


@pytest.mark.parametrize("option", ["per_device_train_batch_size", "per_device_eval_batch_size"])
def test_a_batch_size_that_would_drop_batches_is_refused(tmp_path: Path, option: str) -> None:
    """The Trainer's default is 8, of which one would be trained."""
    runner, _ = trainer(tmp_path, **{option: 8})
    with pytest.raises(PathwaysError, match="one of 8 batches, and the others would be dropped: set per_device_train"):
        if "train" in option:
            runner.train()
        else:
            runner.evaluate(batches())
