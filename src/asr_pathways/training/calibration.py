"""First masks by what a language's speech excites in the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from asr_pathways.model_folder.model import AsrModel
from asr_pathways.training.inputs import Inputs


def choose_masks(asr: AsrModel, inputs: Inputs, languages: Sequence[str], batches: int, masked: bool = False) -> None:
    """Masks of ``languages`` by what ``batches`` of each excite in the model, where the score asks for that.

    The model is dense then, or with ``masked`` the sub-network of the mask that the language has. Of several ranks
    those with 0 ``batches`` choose by what the others have seen: all get the same masks.
    """
    pathways = asr.pathways
    assert pathways is not None
    if pathways.config.score != "activation" or pathways.sparsity == 0:
        return
    asr.model.eval()
    for language in languages:
        drawn = inputs.calibration(asr, language)
        network = asr.use(language) if masked else nullcontext()
        with network, pathways.calibrate(language), torch.no_grad():
            for _ in range(batches):
                asr.model.loss(next(drawn).to(asr.device))
    for language in languages[: 1 if pathways.config.shared else None]:
        pathways.adapt(language)
