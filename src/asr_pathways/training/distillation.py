"""Distillation while pruning: a pathway's encodings stay near those of the dense model that it came from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.data.batches import Batch
from asr_pathways.models.face import SpeechModel
from asr_pathways.models.transducer import Transducer


class Distillation:
    """Adds to a training loss how far the encoder's output is from that of a frozen teacher.

    The distance is the mean square over valid frames and dimensions of the normalised encodings (B, T, D): what
    FitNets (Romero et al., arXiv 1412.6550) do with hidden layers.

    Args:
        teacher: the dense model; a copy is kept, without dropout and without gradients.
        weight: what the distance counts beside the training loss, in nats a word piece.
    """

    def __init__(self, teacher: Transducer, weight: float) -> None:
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._weight = weight
        self._seen: tuple[Tensor, Tensor] | None = None

    def watch(self, student: SpeechModel) -> None:
        """Takes the encodings of every forward pass of ``student`` from now on."""
        assert isinstance(student, Transducer)
        student.encoder.register_forward_hook(self._take)

    def _take(self, module: nn.Module, arguments: Any, output: tuple[Tensor, Tensor]) -> None:
        self._seen = output

    def loss(self, batch: Batch) -> Tensor:
        """The weighted distance of the student's last forward pass, which must have been of ``batch``."""
        assert self._seen is not None, "loss() before the student's forward pass"
        encodings, lengths = self._seen
        self._seen = None
        teacher = self._teacher.to(encodings.device)
        with torch.no_grad():
            wanted, _ = teacher.encoder(teacher.normalize(batch.features, batch.language), batch.feature_lengths)
        valid = torch.arange(encodings.shape[1], device=lengths.device) < lengths[:, None]
        distance: Tensor = (encodings - wanted)[valid].square().mean()
        return self._weight * distance
