"""Whisper against transformers' own forward pass."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, DataConfig, TrainBatches
from asr_pathways.data.corpus import build_corpus, load_cuts
from asr_pathways.data.normalize import scoring_text
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.training.config import TrainRecipe
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.loop import LEFT_OUT
from asr_pathways.training.run import Run, launch
from asr_pathways.training.train import train
from tests.conftest import WORDS, spoken
from tests.models.hub.test_hub import batches_of, recipe

Maker = Callable[[str], Path]


def whisper(folder: Path) -> tuple[AsrModel, Whisper]:
    asr = load_model(folder)
    assert isinstance(asr.model, Whisper)
    return asr, asr.model


def padded(batch: Batch, frames: int) -> torch.Tensor:
    """Features as Whisper's extractor pads them: silence is 2 below each row's largest value."""
    features = F.pad(batch.features, (0, 0, 0, frames - batch.features.shape[1]))
    for row, length in zip(features, batch.feature_lengths.tolist(), strict=True):
        row[length:] = row[:length].max() - 2
    return features.transpose(1, 2)


def corpus(folder: Path) -> Path:
    """Utterances of 0.3 s, 1.2 s and, longer than the tiny model's window, 1.8 s."""
    with build_corpus(folder, [{"name": "sines", "licence": "none"}]) as made:
        for split, lengths in {"train": (2, 8, 12), "dev": (2, 12), "test": (2, 12)}.items():
            for length in lengths:
                words = [WORDS["en"][place % 5] for place in range(length)]
                made.add(split, f"{split}-{length}", "en", " ".join(words), spoken(words, "en", length))
    return folder


@pytest.mark.parametrize("level", [0.1, 1e-4])
def test_padding_is_what_the_extractor_makes_of_silence(hub_folder: Maker, level: float) -> None:
    """Of noise, too, whose smallest value is far above that of silence; and of faint recordings."""
    model = whisper(hub_folder("whisper"))[1]
    noise = level * torch.randn(16_000 * 8 // 10, generator=torch.Generator().manual_seed(0)).numpy()
    taken: list[torch.Tensor] = []
    model.hub.model.encoder.conv1.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    model.encode(model.frontend(noise)[None], torch.tensor([80]))
    expected = WhisperFeatureExtractor()(noise, sampling_rate=16_000, return_tensors="pt").input_features
    assert taken[0].shape == (1, 80, 120)
    edge = slice(76, 84)  # frames that hear both
    for part in (slice(0, edge.start), slice(edge.stop, 120)):
        torch.testing.assert_close(taken[0][..., part], expected[..., part], rtol=0, atol=2e-3)


def test_audio_beyond_the_window_is_not_dropped(hub_folder: Maker, tmp_path: Path) -> None:
    asr, model = whisper(hub_folder("whisper"))
    assert len(model.frontend(np.zeros(16_000 * 31, dtype=np.float32))) == 3100
    model.hub.config.padding = "longest"
    found = {utterance.id: utterance for utterance in decode_split(asr, corpus(tmp_path), "test", ["en"])}
    assert found.keys() == {"test-2", "test-12"}
    (path,) = (tmp_path / "audio" / "en").glob("test-12.*")
    words = Recognizer(asr, "en", precision="float32").transcribe(path).text
    assert found["test-12"].hypothesis == scoring_text(words, "en")
    assert found["test-12"].reference.split()[:2] == ["one", "two"]


def test_training_leaves_out_what_the_model_cannot_take(hub_folder: Maker, tmp_path: Path) -> None:
    values = {
        "optimizer": {"steps": 4, "peak_lr": 1e-4},
        "data": {"max_seconds": 2, "prefetch": 0, "speed_factors": [0.9], "spec_augment": None},
        "evaluation": {"every": 4, "utterances": 0},
        "checkpoint_every": 4,
    }
    train(TrainRecipe.model_validate(values), corpus(tmp_path / "data"), tmp_path / "run", init=hub_folder("whisper"))
    assert json.loads((tmp_path / "run" / LEFT_OUT).read_text()) == {
        f"{split}-12": f"utterance {split}-12: 1.8 s of audio: Whisper's window is 1.2 s: cut it"
        for split in ("train", "dev")
    }


def test_an_utterance_that_is_too_long_when_slowed_down_keeps_its_speed(hub_folder: Maker, tmp_path: Path) -> None:
    asr, model = whisper(hub_folder("whisper"))
    config = DataConfig(max_seconds=9, prefetch=0, speed_factors=(0.9,), spec_augment=None)
    cuts = load_cuts(corpus(tmp_path), "train")
    batches = TrainBatches(cuts, asr.tokenizer, config, model.frontend, length_error=model.length_error)
    batch = next(iter(batches))
    assert dict(zip(batch.ids, batch.feature_lengths.tolist(), strict=True)) == {"train-2": 33, "train-8": 120}
    assert (
        model.length_error(100, 56 * [0]) is None
        and model.length_error(100, 57 * [0]) == "a text of 61 tokens: Whisper's limit is 60"
    )


def test_english_only_models_are_told_no_language(hub_folder: Maker, tmp_path: Path) -> None:
    """Their vocabulary has the languages' tokens all the same."""
    folder = tmp_path / "en"
    shutil.copytree(hub_folder("whisper"), folder)
    values = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps({**values, "_from_model_config": False, "is_multilingual": False})
    )
    model = whisper(folder)[1]
    assert model.languages == ("en",) and len(model.prompt("en")) == 2 and not model.identifies_languages
    with pytest.raises(PathwaysError, match="tells no languages apart"):
        model.language_probabilities(torch.zeros(1, 100, 80), torch.tensor([100]))


def test_languages_whose_codes_have_changed(hub_folder: Maker) -> None:
    model = whisper(hub_folder("whisper"))[1]
    model._languages = {"tl": 7, "jw": 8}
    assert [model.prompt(code)[1] for code in ("tl", "fil", "jw", "jv", "jav")] == [7, 7, 8, 8, 8]


def test_loss_is_that_of_transformers(hub_folder: Maker, speech: Path) -> None:
    asr, model = whisper(hub_folder("whisper"))
    batch = batches_of(asr, speech, "fr")[-1]
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
    asr, model = whisper(hub_folder("whisper"))
    batch = batches_of(asr, speech, "fr")[-1]
    tokens = torch.tensor([model.prompt("fr")] * len(batch))
    features = padded(batch, 120)
    prompt = tokens.shape[1]
    with torch.no_grad():
        for _ in range(10):
            logits = model.hub(input_features=features, decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
        found = model._search(model.encode(batch.features, batch.feature_lengths), model.prompt("fr"))
    for ours, theirs in zip([one.tokens for one in found], tokens[:, prompt:].tolist(), strict=True):
        assert len(ours) > 10 and ours[:10] == (theirs[: theirs.index(model._end)] if model._end in theirs else theirs)


class Script:
    """A decoder that writes what it is told to: logits of a token at each place of a transcript."""

    def __init__(self, model: Whisper, monkeypatch: pytest.MonkeyPatch, no_speech: float = 0.0) -> None:
        self.model, self.texts, self.calls = model, dict[tuple[int, ...], dict[int, float]](), 0
        self.no_speech = no_speech
        model._no_speech = 1
        monkeypatch.setattr(model, "_logits", self.logits)

    def write(self, before: list[int], tokens: list[int], margin: float = 9.0) -> None:
        """After the tokens ``before`` come ``tokens`` and the end."""
        for place, token in enumerate([*tokens, self.model._end]):
            self.texts.setdefault((*before, *tokens[:place]), {})[token] = margin

    def logits(self, ids: torch.Tensor, encodings: torch.Tensor, cache: object) -> tuple[torch.Tensor, object]:
        self.calls += 1
        so_far = [*cache, *ids[0].tolist()] if cache else ids[0].tolist()  # type: ignore[misc]
        row = torch.zeros(1, int(self.model.hub.config.vocab_size))
        text = tuple(so_far[len(self.model.prompt("fr")) :])
        for token, margin in self.texts.get(text, {}).items():
            row[0, token] = margin
        first = torch.zeros_like(row)
        first[0, 1] = 20.0 * self.no_speech
        return torch.stack((first, row), dim=1) if not cache else row[:, None], so_far


def test_a_loop_is_cut_and_search_goes_on_after_it(hub_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = whisper(hub_folder("whisper"))[1]
    features, lengths = torch.randn(1, 100, 80), torch.tensor([100])
    script = Script(model, monkeypatch)
    looping = [30, 31, *[40, 41, 42] * 15]
    script.write([], looping)
    script.texts[(30, 31, 40, 41, 42)] = {40: 9.0, 33: 8.0}
    script.write([30, 31, 40, 41, 42, 33], [34])
    assert model.decode(features, lengths, "fr") == [[30, 31, 40, 41, 42, 33, 34]]
    assert script.calls == 26 + 3  # the loop was not gone round to the limit

    script.write([30, 31, 40, 41, 42, 33], [34] * 30)  # it loops again
    script.texts[(30, 31, 40, 41, 42, 33, 34)] = {34: 9.0}
    assert model.decode(features, lengths, "fr") == [[30, 31, 40, 41, 42]]

    script.texts[(30, 31, 40, 41, 42, 33)] = {35: 0.1}  # or it is unsure of what it goes on with
    assert model.decode(features, lengths, "fr") == [[30, 31, 40, 41, 42]]


def test_no_speech_and_doubt_together_give_no_text(hub_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = whisper(hub_folder("whisper"))[1]
    features, lengths = torch.randn(1, 100, 80), torch.tensor([100])
    for no_speech, margin, text in ((1.0, 1.0, []), (1.0, 9.0, [50, 51, 52]), (0.0, 1.0, [50, 51, 52])):
        script = Script(model, monkeypatch, no_speech)
        script.write([], [50, 51, 52], margin)
        assert model.decode(features, lengths, "fr") == [text]


def test_a_long_text_is_written_to_the_models_own_limit(hub_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts with many tokens a letter need more than any rate of tokens a second allows."""
    model = whisper(hub_folder("whisper"))[1]
    script = Script(model, monkeypatch)
    script.write([], [*range(60, 60 + 90)])
    room = model.longest_text - len(model.prompt("fr"))
    assert model.decode(torch.randn(1, 10, 80), torch.tensor([10]), "fr") == [[*range(60, 60 + room)]]


@pytest.mark.parametrize("padding", ["window", "longest"])
def test_text_does_not_depend_on_the_batch(hub_folder: Maker, padding: str) -> None:
    model = whisper(hub_folder("whisper"))[1]
    model.hub.config.padding = padding
    generator = torch.Generator().manual_seed(1)
    lengths = [31, 110, 58, 7]
    features = torch.zeros(4, 110, 80)
    for row, length in zip(features, lengths, strict=True):
        row[:length] = torch.randn(length, 80, generator=generator)
    encodings, sizes = model._encode_each(features, torch.tensor(lengths))
    with model._attending(sizes, encodings.shape[1]), torch.no_grad():
        together = model._logits(torch.tensor([model.prompt("fr")] * 4), encodings, None)[0]
    probabilities = model.language_probabilities(features, torch.tensor(lengths))
    texts = model.decode(features, torch.tensor(lengths), "fr")
    for row, length in enumerate(lengths):
        one, size = features[row : row + 1, :length], torch.tensor([length])
        with torch.no_grad():
            alone = model._logits(torch.tensor([model.prompt("fr")]), model.encode(one, size), None)[0]
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(probabilities[row], model.language_probabilities(one, size)[0])
        assert model.decode(one, size, "fr") == [texts[row]]


def test_language_probabilities_are_those_of_its_language_tokens(hub_folder: Maker) -> None:
    model = whisper(hub_folder("whisper"))[1]
    features = torch.randn(1, 120, 80, generator=torch.Generator().manual_seed(1))
    hub = WhisperForConditionalGeneration.from_pretrained(hub_folder("whisper")).eval()
    with torch.no_grad():
        logits = hub(input_features=features.transpose(1, 2), decoder_input_ids=torch.tensor([[model._start]])).logits
    found = model.language_probabilities(features, torch.tensor([120]))
    torch.testing.assert_close(found[0], logits[0, 0, list(model._languages.values())].softmax(-1))
    assert model.identifies_languages and found.shape == (1, len(model.languages))


def test_short_windows_only_after_training_began(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    asr, model = whisper(hub_folder("whisper"))
    batch = batches_of(asr, speech, "en")[0]
    assert model.encode(batch.features, batch.feature_lengths).shape[1] == 60
    model.train_on_short_windows()
    assert model.encode(batch.features, batch.feature_lengths).shape[1] == int(batch.feature_lengths.max() + 1) // 2
    save_model(tmp_path, asr)
    assert whisper(tmp_path)[1].padding == "longest"


def test_silence_to_the_window_is_input_as_long_as_there_is_any(
    hub_folder: Maker, speech: Path, tmp_path: Path
) -> None:
    asr, model = whisper(hub_folder("whisper"))
    inputs = Inputs(Run(tmp_path, config := recipe(), launch(config)), speech)
    joined, drawn = (list(islice(inputs.calibration(asr, "fr", each), 6)) for each in (0, 2))
    for number, (before, batch) in enumerate(zip(joined, drawn, strict=True)):
        assert ("+" not in batch.ids[0]) if number % 2 == 0 else (batch.ids == before.ids)
    assert any("+" in batch.ids[0] for batch in joined[::2]) and any("+" in batch.ids[0] for batch in drawn)
    batch = drawn[0]
    assert set(model.positions(batch)) > set(model.input_positions(batch)) == {"model.decoder"}
    model.train_on_short_windows()
    positions, of_input = model.positions(batch), model.input_positions(batch)
    assert positions.keys() == of_input.keys()
    assert all(torch.equal(marked, of_input[name]) for name, marked in positions.items())


def test_what_does_not_fit_is_named(hub_folder: Maker, speech: Path) -> None:
    asr, model = whisper(hub_folder("whisper"))
    batch = batches_of(asr, speech, "en")[0]
    with pytest.raises(PathwaysError, match=r"1\.3 s of audio: Whisper's window is 1\.2 s"):
        model.encode(torch.zeros(1, 130, 80), torch.tensor([130]))
    long = replace(batch, targets=torch.zeros(len(batch), 70, dtype=torch.long))
    with pytest.raises(PathwaysError, match=re.escape(f"utterance {batch.ids[-1]}: a text of 74 tokens")):
        model.loss(replace(long, target_lengths=torch.tensor([1] * (len(batch) - 1) + [70])))
    lengths = torch.tensor([20, 130] + [20] * (len(batch) - 2))
    with pytest.raises(
        PathwaysError, match=re.escape(f"utterance {batch.ids[1]}: 1.3 s of audio: Whisper's window is")
    ):
        model.loss(replace(batch, features=torch.zeros(len(batch), 130, 80), feature_lengths=lengths))
    with pytest.raises(PathwaysError, match="unknown language 'es'"):
        model.prompt("es")


def test_an_input_without_frames_is_refused(hub_folder: Maker) -> None:
    """Its padding, silence below its largest value, would be NaN, and so its text whatever token comes first."""
    _, model = whisper(hub_folder("whisper"))
    with pytest.raises(PathwaysError, match="too short for one frame of the model"):
        model.decode(torch.randn(2, 60, model.hub.config.num_mel_bins), torch.tensor([60, 0]), "en")


def test_its_own_random_masks_are_off(hub_folder: Maker) -> None:
    assert not whisper(hub_folder("whisper"))[1].hub.config.apply_spec_augment


def test_a_folder_as_the_hub_holds_it(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    """Published checkpoints have older keys in both configs; suppressed tokens are heeded, the rest does no harm."""
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("whisper"), folder)
    asr, plain = whisper(folder)
    batch = batches_of(asr, speech, "fr")[-1]
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
    asr, model = whisper(folder)
    found = model.decode(batch.features, batch.feature_lengths, "fr")
    assert not any(silent in row for row in found)
    odd = {"num_return_sequences": 2, "num_beams": 3, "return_dict_in_generate": True, "stop_strings": ["a"]}
    odd |= {"max_length": 3, "max_new_tokens": 1, "do_sample": True, "no_repeat_ngram_size": 1}
    model.hub.generation_config.update(**odd)
    assert model.decode(batch.features, batch.feature_lengths, "fr") == found
    save_model(tmp_path / "again", asr)
    assert whisper(tmp_path / "again")[1].decode(batch.features, batch.feature_lengths, "fr") == found
