"""Pathways in the Trainer of Hugging Face transformers.

    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, adapt_every=100), ["en", "fr"])
    trainer = PathwaysTrainer(model, args, pathways=pathways, train_dataset=..., data_collator=...)

Each batch has the key ``language`` (see `LanguageBatches`), which does not reach the model. For another Trainer:
``class MyTrainer(PathwaysMixin, Seq2SeqTrainer): ...``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from asr_pathways.errors import PathwaysError, reason_of
from asr_pathways.files import atomic_path
from asr_pathways.integrations.batches import LANGUAGE, language_of, refuse_adapters, require_part
from asr_pathways.pruning import MaskEvent, Pathways

STATE = "pathways.pt"  # in each checkpoint: what `Pathways.state_dict` returns


class PathwaysCallback(TrainerCallback):  # type: ignore[misc]
    """Steps pathways after each optimizer step, and keeps their state in every checkpoint.

    Callbacks do not get batches, so this is half of it: `PathwaysMixin` makes one and adds it.

    Attributes:
        events: the masks that changed in this run, in order.

    Raises:
        PathwaysError: if the pathways would prune LoRA's matrices.
    """

    def __init__(self, pathways: Pathways) -> None:
        self.pathways = refuse_adapters(pathways)
        self.events: list[MaskEvent] = []
        self.mixed_in = False  # whether the Trainer puts the sub-networks in place

    def load(self, checkpoint: str | Path) -> None:
        """Goes back to the masks, clocks and statistics in a checkpoint folder of the Trainer.

        Raises:
            PathwaysError: if the folder has none, or has those of other pathways.
        """
        path = Path(checkpoint, STATE)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise PathwaysError(f"{path}: not there, so the checkpoint's masks are unknown: resume another") from None
        except Exception as error:  # whatever torch raises for a truncated or foreign file
            raise PathwaysError(f"{path}: not a readable state of pathways: {reason_of(error):.200}") from None
        self.pathways.load_state_dict(state)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.mixed_in:
            raise PathwaysError(
                "a plain Trainer trains the dense model: use PathwaysTrainer, or class Mine(PathwaysMixin, Trainer)"
            )
        require_part(self.pathways, kwargs["model"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        if not optimizer.step_was_skipped:  # as float16 does where gradients overflow
            self.events += self.pathways.step(optimizer)
        else:
            self.pathways.drop_step()
        optimizer.zero_grad()  # of an added language's parameters too, which are not in the model now

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            with atomic_path(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", STATE)) as temporary:
                torch.save(self.pathways.state_dict(), temporary)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint)  # the masks that belong to its weights


class PathwaysMixin:
    """Makes a Trainer train, evaluate and predict each batch in the sub-network of its language.

    Checkpoints contain the pathways, and ``train(resume_from_checkpoint=...)`` goes on from them. The output of
    ``save_model`` is dense: `Pathways.save` writes the masks beside it, `Pathways.extract` sets one language's zeros.
    """

    def __init__(self, *args: Any, pathways: Pathways, **kwargs: Any) -> None:
        """
        Args:
            pathways: of the model; all other arguments are the Trainer's.

        Raises:
            PathwaysError: under DeepSpeed or FSDP, or if the pathways would prune LoRA's matrices; while training or
                evaluating, if the collator returns one of several batches.
        """
        super().__init__(*args, **kwargs)
        trainer: Any = self
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise PathwaysError("pathways need whole parameters on every rank: train without DeepSpeed and FSDP")
        self.pathways_callback = PathwaysCallback(pathways)
        self.pathways_callback.mixed_in = True
        trainer.add_callback(self.pathways_callback)
        trainer.data_collator = _OneBatch(trainer.data_collator)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.Trainer.train`.

        Raises:
            PathwaysError: at a batch without a language, or if the checkpoint holds no pathways or other ones.
        """
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        if folder:
            self.pathways_callback.load(folder)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        model.train()  # now: what `use` does depends on it, and an evaluation may have come before
        with self.pathways_callback.pathways.use(_language_of(inputs)):
            return super().training_step(model, _without_language(inputs), *args, **kwargs)  # type: ignore[misc]

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with self.pathways_callback.pathways.use(_language_of(inputs)):
            return super().prediction_step(model, _without_language(inputs), *args, **kwargs)  # type: ignore[misc]


class PathwaysTrainer(PathwaysMixin, Trainer):  # type: ignore[misc]
    """transformers' Trainer, with pathways: see `PathwaysMixin`."""


class _OneBatch:
    """A collator that refuses to drop batches: the first of several is all that ``itemgetter(0)`` returns."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, items: list[Any]) -> Any:
        result = self._collate(items)
        if len(items) > 1 and any(result is item for item in items):
            raise PathwaysError(
                f"the collator returns one of {len(items)} batches, and the others would be dropped: set "
                "per_device_train_batch_size=1 and per_device_eval_batch_size=1 in TrainingArguments"
            )
        return result


def _language_of(inputs: dict[str, Any]) -> str:
    try:
        return language_of(inputs)
    except PathwaysError as error:
        hint = "" if LANGUAGE in inputs else ", and set remove_unused_columns=False in TrainingArguments"
        raise PathwaysError(f"{error}{hint}") from None


def _without_language(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != LANGUAGE}
