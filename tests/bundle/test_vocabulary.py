"""Bundles whose pathways have the tokens of their languages alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_pathways import Recognizer
from asr_pathways.bits import pack
from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.bundle.vocabulary import read_texts, tokens_of
from asr_pathways.cli.main import app
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.pruning import PathwayConfig, Pathways
from benchmarks import bundle_mutations as mutations
from tests.models.hub.tiny import whisper
from tests.pruned import overlapping

pytest.importorskip("transformers")

MERGES = [("Ġ", "o"), ("n", "e"), ("Ġo", "ne"), ("Ġ", "d"), ("Ġd", "e"), ("Ġ", "O")]


def made(folder: Path, **options: object) -> AsrModel:
    asr = load_model(whisper(folder, MERGES))
    config = PathwayConfig.model_validate({"sparsity": 0.5, "exclude": asr.model.unprunable, **options})
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr")})
    asr.pathways = Pathways.attach(asr.model.network, config, ["en", "fr"])
    if not config.shared:
        overlapping(asr, 0.5)
    return asr


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> AsrModel:
    return made(tmp_path_factory.mktemp("model") / "whisper")


def pieces_of(asr: AsrModel, tokens: np.ndarray | None) -> set[str]:
    assert tokens is not None
    names = {index: piece for piece, index in asr.tokenizer.tokenizer.get_vocab().items()}  # type: ignore[attr-defined]
    return {names[index] for index in tokens.tolist()}


def test_tokens_are_those_of_the_texts_bytes_and_special_ones(asr: AsrModel) -> None:
    found = tokens_of(asr, {"en": ["One one", ""], "fr": ["de"]})
    vocabulary = asr.tokenizer.tokenizer.get_vocab()  # type: ignore[attr-defined]
    always = {piece for piece in vocabulary if len(piece) == 1 or piece.startswith("<|")}
    assert len(always) > 260
    assert pieces_of(asr, found["en"]) == always | {"ĠO", "Ġone", "ne"}  # " One" as it stands, and " one"
    assert pieces_of(asr, found["fr"]) == always | {"Ġde"}


def test_each_pathway_has_its_own_and_they_stay_with_it(asr: AsrModel, tmp_path: Path) -> None:
    tokens = tokens_of(asr, {"en": ["one"], "fr": ["de"]})
    path, one = tmp_path / "b.asrp", tmp_path / "fr.asrp"
    sizes = write_bundle(asr, path, "float32", vocabularies=tokens)
    bundle = Bundle.open(path)
    bundle.verify()
    for language in ("en", "fr"):
        assert np.array_equal(bundle.vocabulary(language), tokens[language])
    assert sizes.parts["vocabulary"] == 2 * -(-bundle.layout.tokens // 8)
    assert sum(sizes.parts.values()) == path.stat().st_size
    assert bundle.vocabulary_shares()["fr"] == len(tokens["fr"]) / bundle.layout.tokens < 1
    bundle.extract("fr", one)
    assert np.array_equal(Bundle.open(one).vocabulary("fr"), tokens["fr"])
    write_bundle(asr, path, "float32")
    assert Bundle.open(path).vocabulary("fr") is None


def test_a_shared_mask_has_the_tokens_of_all(tmp_path: Path) -> None:
    asr = made(tmp_path / "whisper", shared=True)
    tokens = tokens_of(asr, {"en": ["one"], "fr": ["de"]})
    write_bundle(asr, tmp_path / "b.asrp", vocabularies=tokens)
    both = np.union1d(tokens["en"], tokens["fr"])
    bundle = Bundle.open(tmp_path / "b.asrp")
    assert list(bundle.layout.under("vocabulary/")) == ["shared"]
    assert np.array_equal(bundle.vocabulary("en"), both) and np.array_equal(bundle.vocabulary("fr"), both)


def test_the_training_side_writes_no_other_tokens_either(asr: AsrModel, tmp_path: Path) -> None:
    write_bundle(asr, tmp_path / "b.asrp", "float32")
    model = load_model(tmp_path / "b.asrp").model
    assert isinstance(model, Whisper)
    features, lengths = torch.randn(1, 100, 80, generator=torch.Generator().manual_seed(1)), torch.tensor([100])
    (free,), english = model.decode(features, lengths, "fr"), model.decode(features, lengths, "en")
    model.restrict("fr", [5, 6])
    (found,) = model.decode(features, lengths, "fr")
    assert found and set(found) <= {5, 6} and not set(free) <= {5, 6}
    assert model.decode(features, lengths, "en") == english


Change = Callable[[mutations.Parts], object]


def flags(bundle: Bundle, *without: int) -> bytes:
    kept = np.ones(bundle.layout.tokens, dtype=np.bool_)
    kept[list(without)] = False
    return pack(kept).tobytes()


def test_broken_vocabularies_are_one_line(asr: AsrModel, tmp_path: Path) -> None:
    path = tmp_path / "b.asrp"
    write_bundle(asr, path, vocabularies=tokens_of(asr, {"en": ["one"], "fr": ["de"]}))
    sample, bundle = mutations.Sample(path), Bundle.open(path)
    end = bundle.layout.tokens - 1  # <|notimestamps|>
    whole = flags(bundle)
    attacks: dict[str, Change] = {
        f"vocabulary/fr: lacks the special token {end}": lambda parts: parts.update(
            {"vocabulary/fr": mutations.Part.of_bytes(flags(bundle, end))}
        ),
        f"vocabulary/fr: has tokens beyond the model's {end + 1}": lambda parts: parts.update(
            {"vocabulary/fr": mutations.Part.of_bytes(whole[:-1] + b"\xff")}
        ),
        "vocabulary/fr: is ('U8', (3,)), not": lambda parts: parts.update(
            {"vocabulary/fr": mutations.Part.of_bytes(whole[:3])}
        ),
        "vocabulary/fr: is None, not": lambda parts: parts.pop("vocabulary/fr"),
        "vocabulary/de: is not known": lambda parts: parts.update({"vocabulary/de": mutations.Part.of_bytes(whole)}),
        "vocabulary/en: no list of special tokens": lambda parts: parts.update(
            {"files/hub/tokenizer.json": mutations.Part.of_bytes(b'{"added_tokens": 3}')}
        ),
    }
    assert len(whole) * 8 > bundle.layout.tokens
    for message, change in attacks.items():
        header, parts = sample.copies()
        change(parts)
        path.write_bytes(mutations.sealed(header, parts))
        with pytest.raises(BundleError) as caught:
            Bundle.open(path).verify()
        assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
        for way in (load_model, lambda path: Recognizer(path, "fr").load("en")):
            with pytest.raises(PathwaysError):
                way(path)


def test_a_model_that_is_no_whisper_has_none(five_file: Path, tmp_path: Path) -> None:
    sample = mutations.Sample(five_file)
    header, parts = sample.copies()
    parts["vocabulary/fr"] = mutations.Part.of_bytes(b"\xff")
    (tmp_path / "b.asrp").write_bytes(mutations.sealed(header, parts))
    with pytest.raises(BundleError, match="vocabulary/fr: is not known"):
        Bundle.open(tmp_path / "b.asrp")
    with pytest.raises(PathwaysError, match="only the vocabulary of a Whisper can be restricted"):
        tokens_of(load_model(five_file), {"fr": ["un"]})


def test_texts_are_a_data_folder_or_a_file_a_language(speech: Path, tmp_path: Path) -> None:
    found = read_texts(speech, ("fr",))
    assert list(found) == ["fr"] and len(found["fr"]) > 3
    (tmp_path / "fr.txt").write_text("Un, deux.\n", encoding="utf-8")
    assert read_texts(tmp_path, ("fr",)) == {"fr": ["Un, deux."]}
    for folder, languages, line in (
        (tmp_path, ("en",), "en.txt: cannot read"),
        (tmp_path / "nowhere", ("fr",), "nowhere: no such folder"),
        (speech, ("ja",), "no 'ja' in split 'train'"),
    ):
        with pytest.raises(PathwaysError, match=line):
            read_texts(folder, languages)


def test_export_restricts_keeps_and_frees(asr: AsrModel, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    save_model(tmp_path / "run", asr)
    for language, text in (("en", "one\n"), ("fr", "\n")):
        (tmp_path / f"{language}.txt").write_text(text)
    some, again, free = (tmp_path / f"{name}.asrp" for name in ("some", "again", "free"))

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, ["export", *map(str, words)])
        if result.exception is not None:
            raise result.exception
        return result.output

    with pytest.raises(PathwaysError, match="no words in the texts in 'fr'"):
        run(tmp_path / "run", some, "--vocabulary", tmp_path)
    with pytest.raises(PathwaysError, match="--vocabulary are of bundles"):
        run(tmp_path / "run", some, "--format", "hf", "--vocabulary", tmp_path)
    (tmp_path / "fr.txt").write_text("de\n")
    assert "tokens of the vocabulary: en 9" in run(tmp_path / "run", some, "--vocabulary", tmp_path)
    run(some, again)
    assert np.array_equal(Bundle.open(again).vocabulary("fr"), tokens_of(asr, {"fr": ["de"]})["fr"])
    run(some, free, "--vocabulary", "all")
    assert Bundle.open(free).vocabulary("fr") is None
