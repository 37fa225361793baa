"""Distillation while pruning: the outputs of a pathway stay near those of the dense model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asr_pathways.data.batches import Batch
from asr_pathways.models.speech_model import SpeechModel, within_lengths


class Distillation:
    """A training loss that measures how far a student is from a frozen teacher.

    Inside: compared are the outputs of the modules that the model names (`SpeechModel.matched`), as FitNets (Romero et
    al., arXiv 1412.6550) do with hidden layers: the mean square of their difference, over valid frames where the module
    returns lengths; elsewhere over all frames and in units of the teacher's variance. Of several modules (every
    layer's output, as in TinyBERT, Jiao et al., arXiv 1909.10351) it is the mean.

    At the output: soft targets (Hinton et al., arXiv 1503.02531, at temperature 1), the Kullback-Leibler divergence of
    the student's posteriors from the teacher's, in nats a token (CTC: a frame).

    Args:
        teacher: the dense model; a copy is kept, without dropout and without gradients.
        weight: of the distance inside, in nats a token, which is added to the training loss.
        soft_targets: the share of the training loss that is of soft targets and not of the text, in [0, 1].
    """

    def __init__(self, teacher: SpeechModel, weight: float, soft_targets: float = 0.0) -> None:
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._teacher.train_on_short_windows()  # with the student's input
        self._weight, self._soft = weight, soft_targets
        self._modules = (*(teacher.matched if weight else ()), *([teacher.classifier] if soft_targets else ()))
        self._targets: dict[str, Any] = {}  # the teacher's outputs
        self._outputs: dict[str, Any] = {}  # the student's
        self._add_hooks(self._teacher, self._targets)

    @contextmanager
    def watch(self, student: SpeechModel) -> Iterator[None]:
        """Inside the block, hooks keep the outputs of the modules of ``student`` in every forward pass."""
        handles = self._add_hooks(student, self._outputs)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._outputs.clear()

    def loss(self, batch: Batch, text: Tensor) -> Tensor:
        """The whole training loss of the student's last forward pass, on ``batch``, whose loss by text is ``text``."""
        assert self._outputs, "loss() before the student's forward pass"
        with torch.no_grad():
            self._teacher.to(batch.features.device).forward_matched(batch)
        total = text
        if self._soft:
            name = self._teacher.classifier
            valid = self._teacher.prediction_lengths(batch)
            total = torch.lerp(text, _divergence(self._outputs.pop(name), self._targets.pop(name), valid), self._soft)
        if self._weight:
            distances = [_distance(self._outputs[name], target) for name, target in self._targets.items()]
            total = total + self._weight * torch.stack(distances).mean()
        self._outputs.clear()
        self._targets.clear()
        return total

    def _add_hooks(self, model: SpeechModel, outputs: dict[str, Any]) -> list[RemovableHandle]:
        def keep(module: nn.Module, arguments: Any, output: Any, *, name: str) -> None:
            outputs[name] = output

        modules = {name: model.network.get_submodule(name) for name in self._modules}
        return [module.register_forward_hook(partial(keep, name=name)) for name, module in modules.items()]


def _divergence(student: Tensor, teacher: Tensor, lengths: Tensor) -> Tensor:
    """KL(teacher || student) of logits (B, N, V), the mean over the first ``lengths`` (B,) of each row."""
    valid = within_lengths(lengths, student.shape[1])
    student, teacher = (logits[valid].float().log_softmax(dim=-1) for logits in (student, teacher))
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _distance(student: Any, teacher: Any) -> Tensor:
    if isinstance(teacher, Tensor):
        return torch.nn.functional.mse_loss(student, teacher) / teacher.var()
    encodings, lengths = student
    distance: Tensor = (encodings - teacher[0])[within_lengths(lengths, encodings.shape[1])].square().mean()
    return distance
