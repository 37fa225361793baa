"""Transducers from elsewhere: losses against brute force and transformers' own, search against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import ParakeetForTDT

from asr_pathways.bundle.load import load_model
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.models.speech_model import within_lengths
from tests.models.hub.test_hub import batches_of, one

Maker = Callable[[str], Path]


def test_tdt_loss_is_that_of_transformers(hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder("parakeet_tdt"))
    batch = batches_of(asr, speech, "en")[-1]
    hub = ParakeetForTDT.from_pretrained(hub_folder("parakeet_tdt")).eval()
    mask = within_lengths(batch.feature_lengths, batch.features.shape[1]).long()
    labels = batch.targets.masked_fill(~within_lengths(batch.target_lengths, batch.targets.shape[1]), 2)
    tokens = F.pad(batch.targets, (1, 0), value=hub.config.blank_token_id)
    found = hub(
        input_features=batch.features, attention_mask=mask, decoder_input_ids=tokens, labels=labels, reduction="sum"
    )
    assert asr.model.loss(batch).item() == pytest.approx(found.loss.item() / int(batch.target_lengths.sum()))


@pytest.mark.parametrize("kind", ["parakeet_rnnt", "nemotron"])
def test_rnnt_loss_sums_over_all_alignments(kind: str, hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder(kind))
    model = asr.model
    assert isinstance(model, HubTransducer)
    batch = one(batches_of(asr, speech, "en")[0], 0)
    encoded = model.hub.get_audio_features(
        input_features=batch.features, attention_mask=torch.ones(batch.features.shape[:2]).long(), **model._options
    )
    tokens = F.pad(batch.targets, (1, 0), value=model.blank)
    scores = model.hub(encoder_outputs=encoded, decoder_input_ids=tokens).logits[0].log_softmax(-1)
    frames, places = scores.shape[:2]
    total = torch.full((frames, places), -torch.inf)
    for t in range(frames):
        for u in range(places):
            ways = [torch.tensor(0.0)] if t == u == 0 else []
            if t:
                ways.append(total[t - 1, u] + scores[t - 1, u, model.blank])
            if u:
                ways.append(total[t, u - 1] + scores[t, u - 1, batch.targets[0, u - 1]])
            total[t, u] = torch.stack(ways).logsumexp(0)
    expected = -(total[-1, -1] + scores[-1, -1, model.blank]) / (places - 1)
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_search_is_the_plain_loop(hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder("parakeet_rnnt"))
    model = asr.model
    assert isinstance(model, HubTransducer)
    torch.manual_seed(3)
    with torch.no_grad():
        model.hub.joint.head.weight.normal_(std=2)
    batch = one(batches_of(asr, speech, "en")[-1], 0)
    mask = torch.ones(batch.features.shape[:2]).long()
    frames = model.hub.get_audio_features(input_features=batch.features, attention_mask=mask).pooler_output[0]
    expected: list[int] = []
    with torch.no_grad():
        for frame in frames:
            for _ in range(model.hub.max_symbols_per_step):
                predicted = model.hub.decoder(torch.tensor([[model.blank, *expected]]))[:, -1]
                best = int(model.hub.joint(predicted, frame[None]).argmax())
                if best == model.blank:
                    break
                expected.append(best)
    assert model.decode(batch.features, batch.feature_lengths, "en") == [expected]
    assert expected


def talkative(folder: Path) -> HubTransducer:
    model = load_model(folder).model.eval()
    assert isinstance(model, HubTransducer)
    torch.manual_seed(3)
    with torch.no_grad():
        model.hub.joint.head.weight.normal_(std=2)
    return model


@pytest.mark.parametrize("kind", ["parakeet_rnnt", "parakeet_tdt", "nemotron"])
def test_search_finds_what_transformers_does(kind: str, hub_folder: Maker) -> None:
    model = talkative(hub_folder(kind))
    features = torch.randn(1, 90, 80, generator=torch.Generator().manual_seed(1))
    size = int(model.hub.config.vocab_size)
    found = model.hub.generate(
        input_features=features,
        attention_mask=torch.ones(1, 90).long(),
        decoder_start_token_id=model.blank,
        suppress_tokens=list(range(size, size + len(model.durations))) or None,
        max_new_tokens=10 * 90,
        **model._options,
    )
    moves = found.durations[0]
    emitted = [
        (token, frame)
        for token, frame in zip(found.sequences[0].tolist(), (moves.cumsum(0) - moves).tolist(), strict=True)
        if token not in (model.blank, model.hub.config.pad_token_id)
    ]
    (path,) = model.aligned(features, torch.tensor([90]), "en")
    assert len(emitted) > 5
    assert list(zip(path.tokens, [start for start, _ in path.spans], strict=True)) == emitted
    assert all(start < end for start, end in path.spans) and all(0 < one <= 1 for one in path.probabilities)


@pytest.mark.parametrize("kind", ["parakeet_rnnt", "parakeet_tdt"])
def test_a_batch_is_decoded_as_its_utterances_are(kind: str, hub_folder: Maker) -> None:
    """What comes after the end of a shorter one is not decoded."""
    model = talkative(hub_folder(kind))
    features, lengths = torch.randn(3, 90, 80, generator=torch.Generator().manual_seed(1)), torch.tensor([40, 90, 60])
    together = model.aligned(features, lengths, "en")
    for row, length in enumerate(lengths.tolist()):
        (alone,) = model.aligned(features[row : row + 1, :length], lengths[row : row + 1], "en")
        assert together[row].tokens == alone.tokens and together[row].spans == alone.spans
        assert together[row].probabilities == pytest.approx(alone.probabilities, rel=1e-3)
