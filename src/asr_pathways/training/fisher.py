"""The Fisher information of a model's own posteriors, from one backward pass a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from asr_pathways.data.batches import Batch
from asr_pathways.models.speech_model import SpeechModel, within_lengths


def fisher_loss(model: SpeechModel, batch: Batch, seed: int) -> Tensor:
    """A number whose gradient g has, over random signs, E[g g'] = the Fisher information of the batch's posteriors.

    For logits z with p = softmax(z) it is v'z with v = sqrt(p) * e - p * sum(sqrt(p) * e) and e of +-1, since then
    E[v v'] = diag(p) - p p'. Unlike gradients of labels, or of labels drawn from p, v does not vanish wherever the
    model is sure, so that few batches do. The seed is that of the signs. A model that has no
    `SpeechModel.classifier` gets the loss by its labels (the empirical Fisher information).
    """
    if not model.classifier:
        return model.loss(batch)
    outputs: list[Tensor] = []
    classifier = model.network.get_submodule(model.classifier)
    hook = classifier.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    try:
        model.loss(batch)
    finally:
        hook.remove()
    lengths = model.prediction_lengths(batch).to(outputs[0].device)
    logits = outputs[0][within_lengths(lengths, outputs[0].shape[1])].float()
    p = logits.detach().softmax(dim=-1)
    signs = torch.randint(0, 2, p.shape, generator=torch.Generator().manual_seed(seed)).to(p) * 2 - 1
    roots = p.sqrt() * signs
    return (logits * (roots - p * roots.sum(dim=-1, keepdim=True))).sum()
