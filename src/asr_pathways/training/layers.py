"""Layers that a model is left without before it is pruned: those whose absence raises the loss least."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.training.inputs import Inputs


def check_layers(model: SpeechModel, counts: Mapping[str, int]) -> None:
    """Raises PathwaysError if a part has no layers that can be left out, or not so many."""
    for part, count in counts.items():
        if part not in model.stacks:
            known = " and ".join(model.stacks) or "no part"
            raise PathwaysError(f"recipe: drop_layers: {part}: of this model, {known} may lose layers")
        if count >= (there := len(model.layers(part))):
            raise PathwaysError(f"recipe: drop_layers: {part}: {count} of {there} layers: at least one has to stay")


def drop_layers(asr: AsrModel, inputs: Inputs, counts: Mapping[str, int], batches: int) -> None:
    """Leaves layers out of a dense model one by one, each time the one without which the loss is lowest.

    Args:
        counts: {part of `SpeechModel.stacks`: how many}.
        batches: of each language, whose mean loss decides; not augmented.
    """
    asr.model.eval()
    drawn = [
        batch.to(asr.device)
        for language in asr.card.languages
        for batch in islice(inputs.calibration(asr, language), batches)
    ]
    for part, count in counts.items():
        numbers = list(range(len(asr.model.layers(part))))  # in the model as it came
        for _ in range(count):
            losses = []
            for index in range(len(numbers)):
                with _without(asr.model, part, index):
                    losses.append(_loss(asr.model, drawn))
            best = min(range(len(losses)), key=losses.__getitem__)
            asr.model.drop_layer(part, best)
            what = f"layer {numbers.pop(best) + 1} of the {part}"
            print(f"Left out {what}: loss {losses[best]:.3f} nats a token", file=sys.stderr)
    asr.note_sizes()


def _loss(model: SpeechModel, batches: Sequence[Batch]) -> float:
    with torch.no_grad():
        return sum(float(model.loss(batch)) for batch in batches) / len(batches)


@contextmanager
def _without(model: SpeechModel, part: str, index: int) -> Iterator[None]:
    """The model lacks the layer inside the block."""
    layers = list(model.layers(part))
    model.put_layers(part, layers[:index] + layers[index + 1 :])
    try:
        yield
    finally:
        model.put_layers(part, layers)
