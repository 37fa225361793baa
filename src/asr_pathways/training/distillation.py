"""Distillation while pruning: what a pathway makes of speech inside stays near what the dense model made of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.data.batches import Batch
from asr_pathways.models.face import SpeechModel


class Distillation:
    """Adds to a training loss how far a student is, inside, from a frozen teacher.

    Compared are the outputs of the modules that the model names (`SpeechModel.matched`), as FitNets (Romero et al.,
    arXiv 1412.6550) do with hidden layers: the mean square of their difference, over valid frames where the module
    tells lengths; where it does not, over all and in units of the teacher's variance. Of several modules (every
    layer's output, as in TinyBERT, Jiao et al., arXiv 1909.10351) the mean is taken.

    Args:
        teacher: the dense model; a copy is kept, without dropout and without gradients.
        weight: what the distance counts beside the training loss, in nats a token.
    """

    def __init__(self, teacher: SpeechModel, weight: float) -> None:
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._teacher.train_on_short_windows()  # it is to hear what the student hears
        self._weight = weight
        self._wanted: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        _watch(self._teacher, self._wanted)

    def watch(self, student: SpeechModel) -> None:
        """Takes what the modules of ``student`` give in every forward pass from now on."""
        _watch(student, self._seen)

    def loss(self, batch: Batch) -> Tensor:
        """The weighted distance of the student's last forward pass, which must have been of ``batch``."""
        assert self._seen, "loss() before the student's forward pass"
        with torch.no_grad():
            self._teacher.to(batch.features.device).match(batch)
        distances = [_distance(self._seen[name], wanted) for name, wanted in self._wanted.items()]
        self._seen.clear()
        self._wanted.clear()
        return self._weight * torch.stack(distances).mean()


def _watch(model: SpeechModel, outputs: dict[str, Any]) -> None:
    def hook(name: str) -> Any:
        def take(module: nn.Module, arguments: Any, output: Any) -> None:
            outputs[name] = output

        return take

    for name in model.matched:
        model.network.get_submodule(name).register_forward_hook(hook(name))


def _distance(own: Any, wanted: Any) -> Tensor:
    if isinstance(wanted, Tensor):
        return torch.nn.functional.mse_loss(own, wanted) / wanted.var()
    encodings, lengths = own
    valid = torch.arange(encodings.shape[1], device=lengths.device) < lengths[:, None]
    distance: Tensor = (encodings - wanted[0])[valid].square().mean()
    return distance
