"""The language identifier: fitted, kept, used by `transcribe --language auto`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import app
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import IDENTIFIER
from asr_pathways.model_folder.language_id import LanguageIdentifier, embed, fit_identifier, rank
from tests.models.hub.tiny import MAKERS


def test_fits_what_a_line_can_part() -> None:
    torch.manual_seed(0)
    labels = ["fr"] * 60 + ["en"] * 20 + ["it"] * 20
    centres = {"fr": 0.0, "en": 4.0, "it": -4.0}
    rows = torch.stack([torch.randn(6) + centres[label] * (torch.arange(6) == 2) for label in labels])
    identifier = LanguageIdentifier.fit(rows, labels)
    shares = identifier.probabilities(rows)
    assert identifier.languages == ("en", "fr", "it")
    torch.testing.assert_close(shares.sum(-1), torch.ones(100))
    identified = [identifier.languages[index] for index in shares.argmax(-1)]
    assert sum(a == b for a, b in zip(identified, labels, strict=True)) > 90


def test_one_language_is_refused() -> None:
    with pytest.raises(PathwaysError, match="needs two"):
        LanguageIdentifier.fit(torch.randn(3, 2), ["en"] * 3)


def test_languages_that_the_data_lack_are_not_asked_for(speech: Path, dense_model: Path, tmp_path: Path) -> None:
    asr = load_model(dense_model)
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr", "it")})
    broken = tmp_path / "data"
    shutil.copytree(speech, broken)
    next((broken / "audio" / "fr").glob("*train*")).write_bytes(b"")
    asr.model.train()
    identifier, _ = fit_identifier(asr, broken)
    assert identifier.languages == ("en", "fr") and asr.model.training
    asr.card = asr.card.model_copy(update={"languages": ("en", "it")})
    with pytest.raises(
        PathwaysError, match=r"language identification needs 2 of the model's languages in train: en there"
    ):
        fit_identifier(asr, speech)


def test_is_kept_exactly(tmp_path: Path) -> None:
    rows = torch.randn(20, 4)
    identifier = LanguageIdentifier.fit(rows, ["en", "fr"] * 10)
    identifier.save(tmp_path)
    assert torch.equal(LanguageIdentifier.load(tmp_path).probabilities(rows), identifier.probabilities(rows))


def test_missing_and_broken_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="fit one with `asr-pathways identify"):
        LanguageIdentifier.load(tmp_path)
    (tmp_path / IDENTIFIER).write_bytes(b"not safetensors")
    with pytest.raises(PathwaysError, match=f"{IDENTIFIER}: not a language identifier"):
        LanguageIdentifier.load(tmp_path)


@pytest.mark.parametrize(
    ("languages", "change", "message"),
    [
        ('["en", "fr"]', {"bias": torch.zeros(7)}, "its tensors do not fit each other"),
        ('["en", "fr"]', {"scale": torch.zeros(3, 1)}, "its tensors do not fit each other"),
        ('["en", "fr"]', {"weight": torch.full((3, 2), torch.nan)}, "not float32 ones of finite values"),
        ('["en", "fr"]', {"mean": torch.zeros(3).long()}, "not float32 ones of finite values"),
        ('"ab"', {}, "its languages are no list of codes"),
        ("[1, {}]", {}, "its languages are no list of codes"),
        ("[" * 100_000, {}, "nested too deeply"),
        ("[]", {"weight": torch.zeros(3, 0), "bias": torch.zeros(0)}, "its tensors do not fit each other"),
    ],
)
def test_one_that_makes_no_sense_is_one_line(
    languages: str, change: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    tensors = {"mean": torch.zeros(3), "scale": torch.ones(3), "weight": torch.ones(3, 2), "bias": torch.zeros(2)}
    save_file(tensors | change, tmp_path / IDENTIFIER, metadata={"languages": languages})
    with pytest.raises(PathwaysError, match=f"{IDENTIFIER}: not a language identifier: .*{message}"):
        LanguageIdentifier.load(tmp_path)


def test_one_of_another_model_is_refused() -> None:
    identifier = LanguageIdentifier.fit(torch.randn(20, 3), ["en", "fr"] * 10)
    with pytest.raises(PathwaysError, match="the language identifier is of another model"):
        identifier.probabilities(torch.randn(1, 4))


@pytest.mark.parametrize("kind", list(MAKERS))
def test_every_kind_of_model_has_encodings(kind: str, speech: Path, tmp_path: Path) -> None:
    asr = load_model(MAKERS[kind](tmp_path))
    samples = torch.randn(16_000).mul(0.1).numpy()
    features = asr.model.eval().frontend(samples)
    short = features[: len(features) * 2 // 3]
    batch = torch.nn.utils.rnn.pad_sequence([features, short], batch_first=True)
    both = embed(asr.model, batch, torch.tensor([len(features), len(short)]), "en")
    alone = embed(asr.model, features[None], torch.tensor([len(features)]), "en")
    assert both.shape[0] == 2 and torch.isfinite(both).all()
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both[0], both[1])


def test_commands(dense_model: Path, speech: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(dense_model, model)
    sounds = {language: next((speech / "audio" / language).glob("*test-0*.flac")) for language in ("en", "fr")}
    runner = CliRunner()
    before = runner.invoke(app, ["transcribe", str(model), "--language", "auto", str(sounds["fr"])])
    assert isinstance(before.exception, PathwaysError)
    taught = runner.invoke(app, ["identify", str(model), "--data", str(speech)], catch_exceptions=False)
    assert taught.exit_code == 0 and "mean" in taught.output
    for language, sound in sounds.items():
        found = runner.invoke(app, ["transcribe", str(model), "--language", "auto", "--format", "json", str(sound)])
        identified = json.loads(found.stdout)
        # the sines of the two languages have pitches of their own
        assert identified["language"] == language
        assert list(identified["languages"]) == [language, "fr" if language == "en" else "en"]
        assert sum(identified["languages"].values()) == pytest.approx(1)
    refused = runner.invoke(app, ["transcribe", str(model), "--language", "auto", "--stream", str(sounds["fr"])])
    assert isinstance(refused.exception, PathwaysError) and "leave --stream out" in str(refused.exception)


def test_is_taught_under_the_first_pathway(speech: Path, dense_model: Path, tmp_path: Path) -> None:
    asr = load_model(dense_model)
    identifier, right = fit_identifier(asr, speech)
    assert right.keys() == {"dev", "test"} and right["test"].keys() == {"en", "fr"}
    features = asr.model.frontend(torch.zeros(8000).numpy())
    ranked = rank(asr, identifier, features)
    assert [share for _, share in ranked] == sorted((share for _, share in ranked), reverse=True)
