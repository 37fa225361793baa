"""The Fisher information of posteriors against its formula."""

from __future__ import annotations

from pathlib import Path

import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.training.estimate import first
from asr_pathways.training.fisher import fisher_loss
from tests.conftest import make_model
from tests.models.hub.tiny import whisper


def test_squares_of_gradients_are_the_fisher_information_of_posteriors(tmp_path: Path, speech: Path) -> None:
    """Over many signs: E[g g'] of the classifier's outputs is diag(p) - p p' where there is text, and 0 at padding."""
    asr = load_model(whisper(tmp_path / "whisper"))
    model = asr.model.eval()
    model.train_on_short_windows()
    (batch,) = list(eval_batches(load_cuts(speech, "train", ["fr"]), asr.tokenizer, frontend=model.frontend))[:1]
    batch = first(batch, 3)
    assert len(set(batch.target_lengths.tolist())) > 1
    outputs: list[torch.Tensor] = []
    classifier = model.network.get_submodule(model.classifier)
    classifier.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    total, draws = torch.zeros(()), 8
    for seed in range(draws):
        outputs.clear()
        (gradient,) = torch.autograd.grad(fisher_loss(model, batch, seed), outputs)
        total = total + gradient.square() / draws
    lengths = model.prediction_lengths(batch)
    p = outputs[0].detach().softmax(dim=-1)
    for row, length in enumerate(lengths.tolist()):
        assert not total[row, length:].any()
        found, expected = total[row, :length].sum(), (p - p.square())[row, :length].sum()
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0)


def test_without_a_classifier_it_is_the_loss(speech: Path, tokenizer: Tokenizer) -> None:
    asr = make_model(tokenizer)
    batch = next(iter(eval_batches(load_cuts(speech, "train", ["fr"]), asr.tokenizer, frontend=asr.model.frontend)))
    asr.model.eval()
    assert torch.equal(fisher_loss(asr.model, batch, 0), asr.model.loss(batch))
