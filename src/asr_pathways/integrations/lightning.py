"""Pathways in the Trainer of Lightning.

    pathways = Pathways.attach(module, PathwayConfig(sparsity=0.7, adapt_every=100), ["en", "fr"])
    trainer = pytorch_lightning.Trainer(callbacks=[PathwaysCallback(pathways)], ...)

Each batch has a ``language`` (see `LanguageBatches`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any

from pytorch_lightning import Callback

from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.batches import language_of, refuse_adapters, require_part
from asr_pathways.pruning import MaskEvent, Pathways

STATE = "pathways"  # in each checkpoint: what `Pathways.state_dict` returns
HOOKS = (
    "on_train_batch_start",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    *(f"on_{loop}_batch_{when}" for loop in ("validation", "test", "predict") for when in ("start", "end")),
    "on_save_checkpoint",
    "on_load_checkpoint",
)
SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy")


class PathwaysCallback(Callback):  # type: ignore[misc]
    """Trains, validates, tests and predicts each batch in the sub-network of its language.

    Pathways are stepped after each optimizer step; checkpoints hold them, also those of weights alone, and
    ``ckpt_path=`` loads them. The loop of a learning-rate finder is in the sub-networks as well.
    Optimization is automatic, with an optimizer that calls its closure once (all but LBFGS).

    Attributes:
        events: the masks that changed in this run, in order.
    """

    def __init__(self, pathways: Pathways, language: Callable[[Any], str] = language_of) -> None:
        """
        Args:
            pathways: of the LightningModule or of a model in it.
            language: returns the language of a batch, where it is not at its key or attribute ``language``.

        Raises:
            PathwaysError: if the pathways would prune LoRA's matrices.
        """
        self.pathways = refuse_adapters(pathways)
        self.events: list[MaskEvent] = []
        self._language = language
        self._block = ExitStack()  # the context of the pathway in use
        self._optimizer: Any = None  # that steps in this batch
        self._scale = 0.0  # of the loss before that step, where float16 scales it

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Puts hooks on the module: those of callbacks are not called for a learning-rate finder's loop, which has
        callbacks of its own, nor for checkpoints of weights alone.

        Raises:
            PathwaysError: if the pathways are of another model, or cannot work in this run.
        """
        require_part(self.pathways, pl_module)
        if stage == "fit" and not pl_module.automatic_optimization:
            raise PathwaysError(
                "manual optimization: call pathways.use() and pathways.step() in training_step, without the callback"
            )
        if type(trainer.strategy).__name__ in SHARDED:
            raise PathwaysError("pathways need whole parameters on every rank: use strategy ddp or a single device")
        for name in HOOKS:
            _put(pl_module, name, partial(getattr(self, f"_{name}", self._close), trainer))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Takes them off."""
        for name in HOOKS:
            vars(pl_module).pop(name, None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self._on_train_batch_end(trainer)  # the module's comes after callbacks that write checkpoints

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._block.close()  # so that a checkpoint made after it is of the dense weights

    def _on_train_batch_start(self, trainer: Any, batch: Any, *_: Any) -> None:
        if not self.pathways.model.training:  # Lightning leaves the models of from_pretrained in evaluation mode
            raise PathwaysError("the model of the pathways is in evaluation mode: call its train() before fit()")
        self._use(trainer, batch)

    def _on_before_optimizer_step(self, trainer: Any, optimizer: Any) -> None:
        self._block.close()  # after a training_step that returned None, and so had no backward pass
        self._optimizer, self._scale = optimizer, _scale_of(trainer)

    def _on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._block.close()
        if self._optimizer is not None:
            optimizer, self._optimizer = self._optimizer, None
            if _scale_of(trainer) < self._scale:  # gradients overflowed, and the optimizer made no step
                self.pathways.drop_step()
            else:
                self.events += self.pathways.step(optimizer)

    def _on_save_checkpoint(self, trainer: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[STATE] = self.pathways.state_dict()

    def _on_load_checkpoint(self, trainer: Any, checkpoint: dict[str, Any]) -> None:
        if STATE not in checkpoint:
            raise PathwaysError(
                "the checkpoint was saved without pathways: load its state_dict into the model, attach, and fit anew"
            )
        self.pathways.load_state_dict(checkpoint[STATE])
        self.events = [event for event in self.events if event.step <= self.pathways.steps]

    def _use(self, trainer: Any, batch: Any, *_: Any) -> None:
        self._block.enter_context(self.pathways.use(self._language(batch)))

    def _close(self, *_: Any) -> None:
        self._block.close()

    _on_validation_batch_start = _on_test_batch_start = _on_predict_batch_start = _use


def _put(module: Any, name: str, first: Callable[..., None]) -> None:
    """Makes the module's hook of that name call ``first`` before; in place of what another callback has put there."""
    theirs = getattr(vars(module).get(name), "__wrapped__", None) or getattr(module, name)

    @wraps(theirs)
    def both(*args: Any, **kwargs: Any) -> Any:
        first(*args)
        return theirs(*args, **kwargs)

    setattr(module, name, both)


def _scale_of(trainer: Any) -> float:
    """The present factor on float16's losses; 0 without float16."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 0.0 if scaler is None else float(scaler.get_scale())
