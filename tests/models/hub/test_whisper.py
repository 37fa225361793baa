"""Whisper against transformers' own forward pass."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration

from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder import Recognizer, load_recognizer, save_recognizer
from asr_pathways.models.hub.whisper import Whisper
from tests.models.hub.test_hub import batches_of

Maker = Callable[[str], Path]


def whisper(folder: Path) -> tuple[Recognizer, Whisper]:
    recognizer = load_recognizer(folder)
    assert isinstance(recognizer.model, Whisper)
    return recognizer, recognizer.model


def padded(batch: Batch, frames: int) -> torch.Tensor:
    """Features as Whisper's extractor pads them: silence is each row's smallest value."""
    features = F.pad(batch.features, (0, 0, 0, frames - batch.features.shape[1]))
    for row, length in zip(features, batch.feature_lengths.tolist(), strict=True):
        row[length:] = row[:length].min()
    return features.transpose(1, 2)


def test_loss_is_that_of_transformers(hub_folder: Maker, speech: Path) -> None:
    recognizer, model = whisper(hub_folder("whisper"))
    batch = batches_of(recognizer, speech, "fr")[-1]
    prompt = model.prompt("fr")
    labels = torch.full((len(batch), len(prompt) + batch.targets.shape[1]), -100)
    for row, length in enumerate(batch.target_lengths.tolist()):
        labels[row, len(prompt) - 1 : len(prompt) - 1 + length] = batch.targets[row, :length]
        labels[row, len(prompt) - 1 + length] = model.hub.config.eos_token_id
    inputs = torch.cat((torch.tensor(prompt).expand(len(batch), -1), batch.targets), dim=1)
    hub = WhisperForConditionalGeneration.from_pretrained(hub_folder("whisper")).eval()
    found = hub(input_features=padded(batch, 120), decoder_input_ids=inputs, labels=labels)
    assert model.loss(batch).item() == pytest.approx(found.loss.item(), rel=1e-5)


def test_text_is_that_of_transformers(hub_folder: Maker, speech: Path) -> None:
    recognizer, model = whisper(hub_folder("whisper"))
    batch = batches_of(recognizer, speech, "fr")[-1]
    tokens = torch.tensor([model.prompt("fr")] * len(batch))
    features = padded(batch, 120)
    prompt = tokens.shape[1]
    with torch.no_grad():
        for _ in range(10):
            logits = model.hub(input_features=features, decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    found = model.decode(batch.features, batch.feature_lengths, "fr")
    for ours, theirs in zip(found, tokens[:, prompt:].tolist(), strict=True):
        assert ours[:10] == (theirs[: theirs.index(model._end)] if model._end in theirs else theirs)


def test_short_windows_only_after_training_began(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    recognizer, model = whisper(hub_folder("whisper"))
    batch = batches_of(recognizer, speech, "en")[0]
    assert model.encode(batch.features, batch.feature_lengths).shape[1] == 60
    model.train_on_short_windows()
    assert model.encode(batch.features, batch.feature_lengths).shape[1] == int(batch.feature_lengths.max() + 1) // 2
    save_recognizer(tmp_path, recognizer)
    assert whisper(tmp_path)[1].padding == "longest"


def test_what_does_not_fit_is_named(hub_folder: Maker, speech: Path) -> None:
    recognizer, model = whisper(hub_folder("whisper"))
    batch = batches_of(recognizer, speech, "en")[0]
    with pytest.raises(PathwaysError, match=r"1\.3 s of audio: Whisper hears at most 1\.2 s"):
        model.encode(torch.zeros(1, 130, 80), torch.tensor([130]))
    long = replace(batch, targets=torch.zeros(len(batch), 70, dtype=torch.long))
    with pytest.raises(PathwaysError, match=re.escape(f"utterance {batch.ids[-1]}: a text of 74 tokens")):
        model.loss(replace(long, target_lengths=torch.arange(len(batch))))
    with pytest.raises(PathwaysError, match="unknown language 'es'"):
        model.prompt("es")


def test_its_own_random_masks_are_off(hub_folder: Maker) -> None:
    assert not whisper(hub_folder("whisper"))[1].hub.config.apply_spec_augment


def test_a_folder_as_the_hub_holds_it(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    """Published checkpoints have older keys in both configs; suppressed tokens are heeded, the rest does no harm."""
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("whisper"), folder)
    recognizer, plain = whisper(folder)
    batch = batches_of(recognizer, speech, "fr")[-1]
    before = plain.decode(batch.features, batch.feature_lengths, "fr")
    silent = before[0][0]
    start, translate = plain.prompt("fr")[0], plain.prompt("fr")[2] - 1
    old = {
        "begin_suppress_tokens": [1, 2],
        "forced_decoder_ids": [[1, None], [2, start + 5]],
        "suppress_tokens": [silent],
    }
    new = {"is_multilingual": True, "return_timestamps": False, "alignment_heads": [[1, 0]], "task_to_id": {"t": 1}}
    new |= {"lang_to_id": {"<|fr|>": start + 2}, "no_timestamps_token_id": start + 6, "prev_sot_token_id": translate}
    for name, extra in (("config.json", old), ("generation_config.json", {**old, **new})):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **extra}))
    recognizer, model = whisper(folder)
    found = model.decode(batch.features, batch.feature_lengths, "fr")
    assert not any(silent in row for row in found)
    save_recognizer(tmp_path / "again", recognizer)
    assert whisper(tmp_path / "again")[1].decode(batch.features, batch.feature_lengths, "fr") == found
