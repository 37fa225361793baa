from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.tuner import Tuner
from torch import Tensor
from torch.utils.data import DataLoader

from asr_pathways import Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.lightning import PathwaysCallback
from tests.integrations.tiny import alternating, attach, batches, loss_of, recogniser, same

Batch = dict[str, Any]


class Module(LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.model = recogniser(seed)
        self.losses: list[float] = []

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        return loss_of(self.model, batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        self.losses.append(float(loss_of(self.model, batch)))

    test_step = validation_step

    def predict_step(self, batch: Batch, index: int) -> Tensor:
        return self.model(input_values=batch["input_values"]).logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(
    out: Path,
    epochs: int,
    seed: int = 0,
    resume: Path | None = None,
    data: Any = None,
    module: Module | None = None,
    masks: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Module, Pathways]:
    module = module or Module(seed)
    pathways = attach(module.model, **(masks or {}))
    callbacks = [PathwaysCallback(pathways), ModelCheckpoint(out, "{epoch}", save_top_k=-1)]
    trainer = quiet_trainer(out, max_epochs=epochs, callbacks=callbacks, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few workers and batches
        trainer.fit(module, loader(alternating() if data is None else data), ckpt_path=resume, weights_only=True)
    return module, pathways


def quiet_trainer(out: Path, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=out, **quiet, **options)


def loader(data: Any) -> DataLoader[Batch]:
    return DataLoader(data, batch_size=None)


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 2}
    module, masks = fit(tmp_path / "straight", 3, **options)
    again, masks_again = fit(tmp_path / "again", 3, seed=1, resume=tmp_path / "straight" / "epoch=0.ckpt", **options)
    assert masks.steps == masks_again.steps == 12
    assert same(masks.state_dict(), masks_again.state_dict())
    assert same(dict(module.state_dict()), dict(again.state_dict()))


@pytest.mark.parametrize("gradient", ["dense", "frozen"])
def test_micro_batches_of_different_languages(tmp_path: Path, gradient: str) -> None:
    module, masks = fit(tmp_path, 1, masks={"gradient": gradient}, accumulate_grad_batches=2)

    model = recogniser()
    own = attach(model, gradient=gradient)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = alternating()
    for pair in [data[index : index + 2] for index in range(0, 8, 2)]:
        optimizer.zero_grad()
        for batch in pair:
            with own.use(batch["language"]):
                (loss_of(model, batch) / 2).backward()
        optimizer.step()
        own.step(optimizer)
    assert same(own.state_dict(), masks.state_dict())
    assert same(dict(model.state_dict()), dict(module.model.state_dict()))


def test_evaluation_is_under_masks(tmp_path: Path) -> None:
    module = Module()
    pathways = attach(module.model)
    expected, logits = [], []
    module.eval()
    with torch.no_grad():
        for batch in batches(4):
            with pathways.use(batch["language"]):
                expected.append(float(loss_of(module.model, batch)))
                logits.append(module.predict_step(batch, 0))
            assert float(loss_of(module.model, batch)) != pytest.approx(expected[-1], rel=1e-3)
    trainer = quiet_trainer(tmp_path, callbacks=[PathwaysCallback(pathways)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(module, loader(batches(4)), verbose=False)
        trainer.test(module, loader(batches(4)), verbose=False)
        predicted = trainer.predict(module, loader(batches(4)))
    assert module.losses == pytest.approx(expected * 2)
    torch.testing.assert_close(predicted, logits)


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="the batch has no 'language'"):
        fit(tmp_path, 1, data=[{k: v for k, v in batches()[0].items() if k != "language"}])
    manual = Module()
    manual.automatic_optimization = False
    with pytest.raises(PathwaysError, match="manual optimization"):
        fit(tmp_path, 1, module=manual)
    asleep = Module()
    asleep.model.eval()
    with pytest.raises(PathwaysError, match=r"call its train\(\) before fit"):
        fit(tmp_path, 1, module=asleep)
    other = Module()
    callbacks = [PathwaysCallback(attach(recogniser()))]
    for run in ("fit", "validate", "test", "predict"):
        with pytest.raises(PathwaysError, match="of another model than the one that trains"):
            getattr(quiet_trainer(tmp_path, callbacks=callbacks), run)(other, loader(batches(4)))
    module = Module()
    sharded = SimpleNamespace(strategy=type("FSDPStrategy", (), {})())
    callback = PathwaysCallback(attach(module.model))
    with pytest.raises(PathwaysError, match="whole parameters on every rank"):
        callback.setup(sharded, module, "fit")
    with pytest.raises(PathwaysError, match="the checkpoint was saved without pathways"):
        callback._on_load_checkpoint(None, {"state_dict": {}})


@pytest.mark.parametrize("save_weights_only", [True, False])
@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_a_checkpoint_is_tested_under_the_masks_that_it_was_saved_with(
    tmp_path: Path, save_weights_only: bool, run: str
) -> None:
    module = Module()
    trained = attach(module.model)
    saved = ModelCheckpoint(tmp_path, "{epoch}", save_weights_only=save_weights_only, save_top_k=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=2, callbacks=[PathwaysCallback(trained), saved]).fit(
            module, loader(alternating())
        )
    other = Module(1)
    masks = attach(other.model)
    trainer = quiet_trainer(tmp_path, callbacks=[PathwaysCallback(masks)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {"ckpt_path": tmp_path / "epoch=1.ckpt", "weights_only": True}
        getattr(trainer, run)(other, loader(batches(4)), **arguments)
        if save_weights_only:
            return_to = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
            del return_to["pathways"]
            torch.save(return_to, tmp_path / "without.ckpt")
            with pytest.raises(PathwaysError, match="the checkpoint was saved without pathways"):
                getattr(trainer, run)(
                    other, loader(batches(4)), **{**arguments, "ckpt_path": tmp_path / "without.ckpt"}
                )
    assert same(masks.state_dict(), trained.state_dict())
    assert not same(masks.state_dict(), attach(Module().model).state_dict())


@pytest.mark.parametrize("as_callback", [True, False])
def test_a_search_for_the_learning_rate_is_in_the_sub_networks_and_leaves_no_trace(
    tmp_path: Path, as_callback: bool
) -> None:
    class Watching(Module):
        lr = 1e-3

        def training_step(self, batch: Batch, index: int) -> Tensor | None:
            zeros = sum(int((self.model.get_parameter(name) == 0).sum()) for name in pathways.names)
            shares.append(zeros / sum(self.model.get_parameter(name).numel() for name in pathways.names))
            return super().training_step(batch, index)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=self.lr)

    shares: list[float] = []
    module = Watching()
    pathways = attach(module.model)
    before = pathways.state_dict(), {name: value.clone() for name, value in module.state_dict().items()}
    callback = PathwaysCallback(pathways)
    finder = [LearningRateFinder(num_training_steps=6)] if as_callback else []
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[*finder, callback], enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if as_callback:
            trainer.fit(module, loader(alternating()))
            assert pathways.steps == 8 and len(shares) == 14
        else:
            Tuner(trainer).lr_find(module, loader(alternating()), num_training=6)
            assert len(shares) == 6 and callback.events == []
            assert same(before, (pathways.state_dict(), dict(module.state_dict())))
    assert min(shares) > 0.55


def test_hooks_of_the_module_are_called_too_and_are_its_own_afterwards(tmp_path: Path) -> None:
    class Hooked(Module):
        def on_train_batch_start(self, batch: Batch, index: int) -> int | None:
            seen.append(index)
            return -1 if index == 3 else None

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = 1

    seen: list[int] = []
    module = Hooked()
    for _ in range(2):  # the second time with other pathways
        pathways = attach(module.model)
        fit(tmp_path, 1, module=module)
        pathways.detach()
    assert seen == [0, 1, 2, 3] * 2
    checkpoint = torch.load(next(tmp_path.glob("*.ckpt")), weights_only=True)
    assert checkpoint["mine"] == 1 and "pathways" in checkpoint
    assert not {name for name in vars(module) if name.startswith("on_")}


class Failing(Module):
    """Gives no loss for the second batch, and fails in the backward pass of the fourth."""

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        loss = super().training_step(batch, index)
        if index == 3:
            loss.register_hook(self._fail)
        return None if index == 1 else loss

    def _fail(self, _: Tensor) -> None:
        raise ArithmeticError("on purpose")


def test_the_model_is_dense_again_after_a_step_without_loss_and_after_an_exception(tmp_path: Path) -> None:
    module = Failing()
    pathways = attach(module.model)
    with pytest.raises(ArithmeticError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[PathwaysCallback(pathways)], enable_checkpointing=False).fit(
            module, loader(alternating())
        )
    assert pathways.steps == 3
    assert all((module.model.get_parameter(name) != 0).all() for name in pathways.names)


def test_the_language_may_be_anywhere_in_a_batch(tmp_path: Path) -> None:
    class Pairs(Module):
        def training_step(self, batch: Any, index: int) -> Tensor | None:
            return super().training_step(batch[0], index)

    module = Pairs()
    pathways = attach(module.model)
    pairs = [({k: v for k, v in batch.items() if k != "language"}, batch["language"]) for batch in alternating()]
    callback = PathwaysCallback(pathways, language=lambda batch: batch[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[callback], enable_checkpointing=False).fit(
            module, loader(pairs)
        )
    assert pathways.steps == 8
    assert {event.language for event in callback.events} == {"en", "fr"}


def test_a_step_that_float16_skipped_is_none() -> None:
    class Scaler:
        scale = 2.0

        def get_scale(self) -> float:
            return self.scale

    module = Module(0)
    pathways = attach(module.model)
    callback, scaler = PathwaysCallback(pathways), Scaler()
    trainer: Any = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    optimizer = module.configure_optimizers()
    for language, factor, own_steps in (("en", 0.5, {"en": 0, "fr": 0}), ("fr", 1.0, {"en": 0, "fr": 1})):
        callback._on_train_batch_start(trainer, {"language": language}, 0)
        callback._on_before_optimizer_step(trainer, optimizer)
        scaler.scale *= factor
        callback._on_train_batch_end(trainer, None, None, 0)
        assert pathways.state_dict()["own_steps"] == own_steps


def test_averaged_weights_are_validated_under_masks(tmp_path: Path) -> None:
    """Lightning swaps its moving average into the module for validation."""

    class Watching(Module):
        def validation_step(self, batch: Batch, index: int) -> None:
            zeros.append(sum(int((self.model.get_parameter(name) == 0).sum()) for name in pathways.names))
            super().validation_step(batch, index)

    zeros: list[int] = []
    module = Watching()
    pathways = attach(module.model, adapt_every=None)
    kept = sum(int(mask.sum()) for mask in pathways.mask("en").values())
    count = sum(module.model.get_parameter(name).numel() for name in pathways.names)
    callbacks = [PathwaysCallback(pathways), EMAWeightAveraging(decay=0.5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=False).fit(
            module, loader(alternating()), loader(batches(4))
        )
    assert zeros and set(zeros) == {count - kept}
    assert pathways.steps == 8


def test_a_checkpoint_in_the_midst_of_an_epoch_is_of_a_finished_step(tmp_path: Path) -> None:
    module = Module()
    pathways = attach(module.model, gradient="frozen", adapt_every=None)
    frozen = {name: module.model.get_parameter(name)[~mask] for name, mask in pathways.mask("en").items()}
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[every, PathwaysCallback(pathways)]).fit(
            module, loader(batches())
        )
    for step in range(1, 5):  # of English alone
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        assert saved["pathways"]["step"] == step
        for name, values in frozen.items():
            assert torch.equal(saved["state_dict"][f"model.{name}"][~pathways.mask("en")[name]], values)
