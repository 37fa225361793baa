"""Distillation while pruning: what a pathway makes of speech stays near what the dense model made of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asr_pathways.data.batches import Batch
from asr_pathways.models.speech_model import SpeechModel


class Distillation:
    """A training loss that says how far a student is from a frozen teacher.

    Inside: compared are the outputs of the modules that the model names (`SpeechModel.matched`), as FitNets (Romero et
    al., arXiv 1412.6550) do with hidden layers: the mean square of their difference, over valid frames where the module
    returns lengths; elsewhere over all frames and in units of the teacher's variance. Of several modules (every
    layer's output, as in TinyBERT, Jiao et al., arXiv 1909.10351) the mean is taken.

    At the output: soft targets (Hinton et al., arXiv 1503.02531, at temperature 1), the Kullback-Leibler divergence of
    the student's posteriors from the teacher's, in nats a token (CTC: a frame).

    Args:
        teacher: the dense model; a copy is kept, without dropout and without gradients.
        weight: what the distance inside counts beside the training loss, in nats a token.
        soft_targets: the share of the training loss that soft targets take from the text, in [0, 1].
    """

    def __init__(self, teacher: SpeechModel, weight: float, soft_targets: float = 0.0) -> None:
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._teacher.train_on_short_windows()  # with the student's input
        self._weight, self._soft = weight, soft_targets
        self._watched = (*(teacher.matched if weight else ()), *([teacher.classifier] if soft_targets else ()))
        self._wanted: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self._watch(self._teacher, self._wanted)

    @contextmanager
    def watch(self, student: SpeechModel) -> Iterator[None]:
        """Inside the block, hooks keep the outputs of the modules of ``student`` in every forward pass."""
        handles = self._watch(student, self._seen)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def loss(self, batch: Batch, text: Tensor) -> Tensor:
        """The whole training loss of the student's last forward pass, on ``batch``, whose own loss was ``text``."""
        assert self._seen, "loss() before the student's forward pass"
        with torch.no_grad():
            self._teacher.to(batch.features.device).forward_matched(batch)
        total = text
        if self._soft:
            name = self._teacher.classifier
            valid = self._teacher.prediction_lengths(batch)
            total = torch.lerp(text, _divergence(self._seen.pop(name), self._wanted.pop(name), valid), self._soft)
        if self._weight:
            distances = [_distance(self._seen[name], wanted) for name, wanted in self._wanted.items()]
            total = total + self._weight * torch.stack(distances).mean()
        self._seen.clear()
        self._wanted.clear()
        return total

    def _watch(self, model: SpeechModel, outputs: dict[str, Any]) -> list[RemovableHandle]:
        def hook(name: str) -> Any:
            def take(module: nn.Module, arguments: Any, output: Any) -> None:
                outputs[name] = output

            return take

        return [model.network.get_submodule(name).register_forward_hook(hook(name)) for name in self._watched]


def _divergence(own: Tensor, wanted: Tensor, lengths: Tensor) -> Tensor:
    """KL(wanted || own) of logits (B, N, V), the mean over the first ``lengths`` (B,) of each row."""
    valid = torch.arange(own.shape[1], device=lengths.device) < lengths[:, None]
    own, wanted = (logits[valid].float().log_softmax(dim=-1) for logits in (own, wanted))
    return nn.functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


def _distance(own: Any, wanted: Any) -> Tensor:
    if isinstance(wanted, Tensor):
        return torch.nn.functional.mse_loss(own, wanted) / wanted.var()
    encodings, lengths = own
    valid = torch.arange(encodings.shape[1], device=lengths.device) < lengths[:, None]
    distance: Tensor = (encodings - wanted[0])[valid].square().mean()
    return distance
