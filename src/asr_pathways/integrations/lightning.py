"""Pathways in the Trainer of Lightning.

    pathways = Pathways.attach(module, PathwayConfig(sparsity=0.7, adapt_every=100), ["en", "fr"])
    trainer = pytorch_lightning.Trainer(callbacks=[PathwaysCallback(pathways)], ...)

Each batch has a ``language`` (see `LanguageBatches`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback

from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.batches import language_of, refuse_adapters, require_part
from asr_pathways.pruning import MaskEvent, Pathways

STATE = "pathways"  # in each checkpoint: what `Pathways.state_dict` returns
SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy")


class PathwaysCallback(Callback):  # type: ignore[misc]
    """Trains, validates, tests and predicts each batch in the sub-network of its language.

    Pathways are stepped after each optimizer step; checkpoints hold them, and ``ckpt_path=`` goes on from them.
    Optimization is automatic, with an optimizer that calls its closure once (all but LBFGS).

    Attributes:
        pathways: of the LightningModule or of a model in it.
        events: the masks that changed in this run, in order.
    """

    def __init__(self, pathways: Pathways, language: Callable[[Any], str] = language_of) -> None:
        """
        Args:
            language: returns the language of a batch, where it is not at its key or attribute ``language``.

        Raises:
            PathwaysError: if the pathways would prune LoRA's own matrices.
        """
        self.pathways = refuse_adapters(pathways)
        self.events: list[MaskEvent] = []
        self._language = language
        self._block = ExitStack()  # holds the pathway that is in use
        self._optimizer: Any = None  # that steps in the present batch
        self._scale = 0.0  # of the loss before it, where float16 scales it

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        require_part(self.pathways, pl_module)
        if not pl_module.automatic_optimization:
            raise PathwaysError(
                "manual optimization: call pathways.use() and pathways.step() in training_step, without the callback"
            )
        if type(trainer.strategy).__name__ in SHARDED:
            raise PathwaysError("pathways need whole parameters on every rank: use strategy ddp or a single device")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.pathways.model.training:  # Lightning leaves what from_pretrained returns in evaluation mode
            raise PathwaysError("the model of the pathways is in evaluation mode: call its train() before fit()")
        self._use(batch)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._block.close()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._block.close()  # where a training_step that gave None left no backward pass
        self._optimizer, self._scale = optimizer, _scale_of(trainer)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        self._block.close()
        if self._optimizer is not None:
            optimizer, self._optimizer = self._optimizer, None
            if _scale_of(trainer) < self._scale:  # gradients overflowed, and the optimizer made no step
                self.pathways.drop_step()
            else:
                self.events += self.pathways.step(optimizer)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any, **__: Any) -> None:
        self._use(batch)

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._block.close()

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    # After an exception, so that a checkpoint made of it is of the dense weights.
    on_test_batch_end = on_predict_batch_end = on_exception = on_validation_batch_end

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[STATE] = self.pathways.state_dict()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if STATE not in checkpoint:
            raise PathwaysError(
                "the checkpoint was saved without pathways: load its state_dict into the model, attach, and fit anew"
            )
        self.pathways.load_state_dict(checkpoint[STATE])

    def _use(self, batch: Any) -> None:
        self._block.enter_context(self.pathways.use(self._language(batch)))


def _scale_of(trainer: Any) -> float:
    """What float16's losses are multiplied by now; 0 without float16."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 0.0 if scaler is None else float(scaler.get_scale())
