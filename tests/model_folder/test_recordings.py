"""Recordings that are longer than the model's window, have silence in them, or are in several languages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import app
from asr_pathways.data.audio import SAMPLE_RATE, Samples, resample
from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.data.corpus import build_corpus, load_cuts
from asr_pathways.data.normalize import scoring_text
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.decode import decode_cuts, recognized
from asr_pathways.model_folder.language_id import LanguageIdentifier, choices, rank
from asr_pathways.model_folder.model import AsrModel, HubCard
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.results import Segment
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import prune
from tests.models.hub.tiny import MAKERS

VOICES = {"en": "en-us+f2", "fr": "fr+m3", "it": "it+f4"}
TEXTS = {
    "en": "the train leaves at nine from the second platform",
    "fr": "le train part à neuf heures du deuxième quai",
    "it": "il treno parte alle nove dal secondo binario",
}


class Listener(nn.Module):
    """A model whose features are samples: it writes how many it got, and tells languages apart by loudness."""

    free_text, identifies_languages, languages = True, True, ("de", "en", "fr", "it")
    loudness = torch.tensor([9.0, 0.4, 0.2, 0.1])

    def __init__(self, window: float) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(torch.ones(1))
        self.got: list[tuple[int, str]] = []
        self.identified: list[int] = []

    def frontend(self, samples: Samples) -> Tensor:
        return torch.from_numpy(samples)

    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        assert not self.training
        self.got.append((int(lengths[0]), language))
        return [[int(lengths[0])]]

    def language_probabilities(self, features: Tensor, lengths: Tensor) -> Tensor:
        self.identified.append(int(lengths[0]))
        distance = (features.abs().max().log() - self.loudness.log()).abs()
        return (-8 * distance).softmax(-1)[None]


class Numbers:
    def decode(self, ids: Sequence[int], language: str) -> str:
        return " ".join(f"{language}{index}" for index in ids)


class PlainEngine:
    """Runs any model, as the training side decodes it."""

    free_text = True

    def __init__(self, asr: AsrModel, *_: object, **__: object) -> None:
        self.asr, self.languages, self.window = asr, asr.languages, asr.model.window

    def check_identification(self) -> None:
        assert self.asr.model.identifies_languages

    def load(self, language: str) -> None:
        pass

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        text = recognized(self.asr, samples, language)
        return Segment(text, 0.0, len(samples) / SAMPLE_RATE, language) if text else None

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        return dict(rank(self.asr, None, self.asr.model.frontend(samples), languages))


@pytest.fixture(autouse=True)
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.runtime.torch_engine.TorchEngine", PlainEngine)


def asr(window: float = 30.0) -> Any:
    return AsrModel(Listener(window), Numbers(), HubCard(languages=("en", "fr", "it")))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def said() -> dict[str, Samples]:
    """A sentence in each language, as loud as the listener knows the language by."""
    espeak = Espeak()
    found = {}
    for language, level in zip(VOICES, (0.4, 0.2, 0.1), strict=True):
        raw = espeak.say(TEXTS[language], VOICES[language]).astype(np.float32) / 32768
        samples = resample(raw, espeak.rate)
        found[language] = level * samples / np.abs(samples).max()
    return found


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def write(path: Path, *parts: Samples) -> Path:
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE, subtype="FLOAT")
    return path


def test_a_long_recording_is_cut_by_voice_activity_and_times_fit_the_file(
    said: dict[str, Samples], tmp_path: Path
) -> None:
    one = said["en"]
    path = write(tmp_path / "a.wav", silence(20), one, silence(15), one, one, silence(5))
    model = asr(window=8.0)
    found = Recognizer(model, "en").transcribe(path)
    begins = [20.0, 35.0 + len(one) / SAMPLE_RATE]
    assert [segment.start for segment in found.segments] == pytest.approx(begins, abs=0.4)
    assert found.segments[-1].end == pytest.approx(begins[1] + 2 * len(one) / SAMPLE_RATE, abs=0.6)
    assert found.text == " ".join(segment.text for segment in found.segments)
    assert sum(length for length, _ in model.model.got) < 4.5 * len(one)
    assert found.duration == pytest.approx((40 * SAMPLE_RATE + 3 * len(one)) / SAMPLE_RATE)
    short = Recognizer(model, "en").transcribe(write(tmp_path / "b.wav", silence(1), one))
    whole = SAMPLE_RATE + len(one)
    assert short.segments == (Segment(f"en{whole}", 0.0, whole / SAMPLE_RATE, "en"),)


def test_nothing_is_made_of_a_long_recording_without_speech(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32))
    model = asr()
    found = Recognizer(model, "fr").transcribe(path)
    assert (found.text, found.segments, model.model.got) == ("", (), [])


@pytest.mark.parametrize("seconds", [0.2, 1.0, 29.0])
def test_no_words_are_made_up_for_a_short_recording_without_speech(tmp_path: Path, seconds: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    with build_corpus(tmp_path / "data", [{"name": "noise", "licence": "none"}]) as made:
        for split in ("train", "dev", "test"):
            made.add(split, f"{split}-1", "en", "the train", noise)
    (utterance,) = decode_cuts(asr(), load_cuts(tmp_path / "data", "test"), progress=False)
    (path,) = (tmp_path / "data" / "audio" / "en").glob("test-1.*")
    assert utterance.hypothesis == Recognizer(asr(), "en").transcribe(path).text == ""


def test_evaluation_cuts_as_transcription_does(said: dict[str, Samples], tmp_path: Path) -> None:
    samples = np.concatenate([said["en"], silence(4), said["en"]])
    with build_corpus(tmp_path / "data", [{"name": "espeak", "licence": "none"}]) as made:
        for split in ("train", "dev", "test"):
            made.add(split, f"{split}-1", "en", "the train", samples)
    model = asr(window=4.0)
    (utterance,) = decode_cuts(model, load_cuts(tmp_path / "data", "test"), progress=False)
    (path,) = (tmp_path / "data" / "audio" / "en").glob("test-1.*")
    text = Recognizer(model, "en").transcribe(path).text
    assert utterance.hypothesis == scoring_text(text, "en") and len(text.split()) == 2


@pytest.mark.parametrize("lead", [0.0, 10.0, 29.0, 95.0])
def test_leading_silence_is_skipped_before_the_language_is_identified(
    said: dict[str, Samples], tmp_path: Path, lead: float
) -> None:
    model = asr()
    found = Recognizer(model, "auto").transcribe(write(tmp_path / "a.wav", silence(lead), said["fr"]))
    assert found.language == "fr"
    assert next(iter(found.languages.items()))[1] > 0.9 and sorted(found.languages) == ["en", "fr", "it"]
    (length,) = model.model.identified
    assert length < len(said["fr"]) + SAMPLE_RATE


def test_the_choice_can_be_restricted(said: dict[str, Samples], tmp_path: Path) -> None:
    model = asr()
    path = write(tmp_path / "a.wav", said["fr"])
    found = Recognizer(model, "auto", languages=["eng", "it"]).transcribe(path)
    assert found.language in ("en", "it") and set(found.languages) == {"en", "it"}
    assert sum(found.languages.values()) == pytest.approx(1)
    with pytest.raises(PathwaysError, match="unknown language 'ru': this model knows en fr it"):
        choices(model, None, ["ru"])
    identifier = LanguageIdentifier.fit(torch.randn(8, 3), ["en", "fr"] * 4)
    with pytest.raises(PathwaysError, match="the language identifier tells en fr apart, not it: fit it anew"):
        choices(model, identifier, ["it", "en"])
    assert choices(model, identifier) == ("en", "fr") and choices(model, None) == ("en", "fr", "it")


def test_a_language_that_changes_between_segments_is_followed(said: dict[str, Samples], tmp_path: Path) -> None:
    order = ["en", "fr", "fr", "it", "en"]
    path = write(tmp_path / "a.wav", *(part for language in order for part in (silence(3), said[language])))
    found = Recognizer(asr(), "auto").transcribe(path)
    assert [segment.language for segment in found.segments] == order
    assert [segment.text[:2] for segment in found.segments] == order
    assert all(before.end <= after.start for before, after in zip(found.segments, found.segments[1:], strict=False))
    seconds = {language: order.count(language) * len(said[language]) for language in VOICES}
    assert found.language == max(seconds, key=lambda language: seconds[language])


def test_one_language_with_pauses_is_recognised_as_if_it_were_named(said: dict[str, Samples], tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", said["fr"], silence(3), said["fr"])
    named, found = Recognizer(asr(), "fr").transcribe(path), Recognizer(asr(), "auto").transcribe(path)
    assert dataclasses.replace(found, languages={}) == named and len(named.segments) == 1


def test_commands_with_whispers_own_language_tokens(said: dict[str, Samples], tmp_path: Path) -> None:
    model = MAKERS["whisper"](tmp_path / "whisper")
    path = write(tmp_path / "a.wav", said["fr"][:SAMPLE_RATE])
    runner = CliRunner()
    words = ["transcribe", str(model), "--language", "auto", "--format", "json", str(path)]
    all_ = runner.invoke(app, words, catch_exceptions=False)
    assert sorted(json.loads(all_.stdout)["languages"]) == ["de", "en", "fr"]
    assert "a.wav: the language is uncertain (" in all_.stderr  # weights are random
    one = json.loads(runner.invoke(app, [*words, "--languages", "fr"], catch_exceptions=False).stdout)
    assert (one["language"], one["languages"]) == ("fr", {"fr": 1.0})
    both = runner.invoke(app, ["transcribe", str(model), "--language", "fr", "--languages", "fr,en", str(path)])
    assert isinstance(both.exception, PathwaysError) and "leave one of them out" in str(both.exception)


def test_a_pruned_whisper_and_its_bundle_tell_languages_by_all_pathways(
    said: dict[str, Samples], tmp_path: Path, speech: Path
) -> None:
    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 0}, "data": {"max_seconds": 2, "prefetch": 0}})
    run = tmp_path / "run"
    prune(MAKERS["whisper"](tmp_path / "whisper"), speech, run, method="dynamic", sparsity=0.8, recipe=recipe)
    pruned = load_model(run)
    features = pruned.model.frontend(said["fr"][:SAMPLE_RATE])
    each = []
    for language in ("en", "fr"):
        with pruned.inference(language):
            shares = pruned.model.language_probabilities(features[None], torch.tensor([len(features)]))[0]
        each.append([float(shares[pruned.model.languages.index(code)]) for code in ("en", "fr")])
    english, french = (sum(column) for column in zip(*each, strict=True))
    found = dict(rank(pruned, None, features))
    assert found == pytest.approx({"en": english / (english + french), "fr": french / (english + french)})
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    path = write(tmp_path / "a.wav", said["fr"][:SAMPLE_RATE])
    again = Recognizer(tmp_path / "two.asrp", "auto").transcribe(path)
    assert again.language == max(found, key=lambda language: found[language])
