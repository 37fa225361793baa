from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.language_id import LanguageIdentifier
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.conftest import WORDS, make_model


def pruned_recognizer(tokenizer: Tokenizer) -> AsrModel:
    asr = make_model(tokenizer)
    config = PathwayConfig(sparsity=0.5, exclude=asr.model.unprunable)
    asr.pathways = Pathways.attach(asr.model, config, asr.languages)
    return asr


@pytest.mark.parametrize("make", [make_model, pruned_recognizer])
def test_a_recognizer_comes_back(tmp_path: Path, tokenizer: Tokenizer, make: Callable[..., AsrModel]) -> None:
    asr = make(tokenizer)
    save_model(tmp_path / "m", asr)
    again = load_model(tmp_path / "m")
    assert again.card == asr.card
    assert again.tokenizer.pieces() == tokenizer.pieces()
    assert not again.model.training
    state = asr.model.state_dict()
    assert again.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())
    features, lengths = torch.randn(2, 90, 80), torch.tensor([90, 55])
    for language in asr.languages:
        with asr.use(language), again.use(language):
            assert asr.model.decode(features, lengths) == again.model.decode(features, lengths)
        if asr.pathways is not None:
            assert again.pathways is not None
            theirs = again.pathways.mask(language)
            assert all(torch.equal(mask, theirs[name]) for name, mask in asr.pathways.mask(language).items())
    assert (again.pathways is None) == (asr.pathways is None)
    expected = ["config.json", "model.safetensors", *(["pathways"] if again.pathways else []), "tokenizer.model"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == expected


def test_an_identifier_of_other_weights_goes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A run that was interrupted leaves a MODEL, for which one may be fitted, and then goes on."""
    save_model(tmp_path, make_model(tokenizer))
    LanguageIdentifier.fit(torch.eye(2), ["en", "fr"]).save(tmp_path)
    save_model(tmp_path, make_model(tokenizer))
    with pytest.raises(PathwaysError, match="no language identifier yet"):
        LanguageIdentifier.load(tmp_path)


def test_saving_leaves_other_files_alone(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save_model(tmp_path, pruned_recognizer(tokenizer))
    save_model(tmp_path, pruned_recognizer(tokenizer))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load_model(tmp_path).pathways is not None


def test_a_dense_model_over_a_pruned_one_is_dense(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_model(tmp_path, pruned_recognizer(tokenizer))
    save_model(tmp_path, make_model(tokenizer))
    assert load_model(tmp_path).pathways is None


def truncate(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def pipe(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda m: (m / "config.json").unlink(), "not a model folder: it has no config.json"),
    "config not JSON": (lambda m: (m / "config.json").write_text("{"), "config.json: not valid JSON"),
    "config binary": (lambda m: (m / "config.json").write_bytes(b"\xff\x00"), "config.json: not UTF-8 text"),
    "config a list": (lambda m: (m / "config.json").write_text("[]"), "config.json: keys with values are wanted"),
    "config of another program": (
        lambda m: (m / "config.json").write_text('{"architectures": ["Wav2Vec2ForCTC"]}'),
        "config.json: neither of a model of this package nor of one of transformers",
    ),
    "config of another format": (
        lambda m: edit_json(m / "config.json", lambda c: c.update(format="other")),
        "config.json: format: Input should be 'asr-pathways-model'",
    ),
    "config of a later version": (
        lambda m: edit_json(m / "config.json", lambda c: c.update(version=2)),
        "config.json: version: Input should be 1",
    ),
    "unknown size": (
        lambda m: edit_json(m / "config.json", lambda c: c["model"].update(width=3)),
        "config.json: model.width: unknown key",
    ),
    "a billion layers": (
        lambda m: edit_json(m / "config.json", lambda c: c["model"]["encoder"].update(layers=10**9)),
        "config.json: .*: the model is larger than the tensors that there are",
    ),
    "a predictor of a billion layers": (
        lambda m: edit_json(m / "config.json", lambda c: c["model"].update(predictor_layers=10**9)),
        "config.json: .*: the model is larger than the tensors that there are",
    ),
    "layers a million wide": (
        lambda m: edit_json(m / "config.json", lambda c: c["model"].update(joiner_dim=10**6)),
        "config.json: .*: the model is larger than the tensors that there are",
    ),
    "a window of a million frames": (
        lambda m: edit_json(m / "config.json", lambda c: c["model"]["encoder"].update(segment=10**6)),
        "config.json: .*: the model is larger than the tensors that there are",
    ),
    **{
        f"a pipe for {name}": (pipe(name), rf"{name}: a pipe or a device, not a file")
        for name in ("model.safetensors", "tokenizer.model", "pathways/masks.safetensors")
    },
    "a pipe for the description of masks": (pipe("pathways/pathways.json"), "no pathways.json here"),
    "a pipe for its config": (pipe("config.json"), "not a model folder: it has no config.json"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "weights truncated": (lambda m: truncate(m / "model.safetensors"), "model.safetensors: cannot read weights"),
    "weights almost whole": (
        lambda m: truncate(m / "model.safetensors", 0.99999),
        "model.safetensors: cannot read weights",
    ),
    "weights empty": (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors: cannot read weights"),
    "weights foreign": (
        lambda m: (m / "model.safetensors").write_bytes(b"RIFF" * 100),
        "model.safetensors: cannot read weights",
    ),
    "weights a folder": (
        lambda m: ((m / "model.safetensors").unlink(), (m / "model.safetensors").mkdir()),
        "model.safetensors: cannot read weights",
    ),
    "a tensor missing": (
        lambda m: change_weights(m / "model.safetensors", lambda s: s.pop("encoder.norm.bias")),
        r"weights of another model: encoder.norm.bias is missing, the config asks for \(16,\)",
    ),
    "a tensor too many": (
        lambda m: change_weights(m / "model.safetensors", lambda s: s.update(more=torch.zeros(2))),
        r"weights of another model: more is \(2,\), the config asks for unknown",
    ),
    "a tensor of another shape": (
        lambda m: change_weights(m / "model.safetensors", lambda s: s.update({"encoder.norm.bias": torch.zeros(5)})),
        r"weights of another model: encoder.norm.bias is \(5,\), the config asks for \(16,\)",
    ),
    "a value that is not a number": (
        lambda m: change_weights(m / "model.safetensors", lambda s: s["encoder.norm.bias"][3:4].fill_(float("nan"))),
        "encoder.norm.bias has values that are not finite: the training of it diverged",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.model").unlink(), "tokenizer.model: cannot read tokenizer"),
    "tokenizer truncated": (lambda m: truncate(m / "tokenizer.model"), "tokenizer.model: not a SentencePiece model"),
    "tokenizer empty": (lambda m: (m / "tokenizer.model").write_bytes(b""), "tokenizer.model: not a SentencePiece"),
    "another tokenizer": (
        lambda m: Tokenizer.train([" ".join(WORDS["en"])] * 3, 16).save(m / "tokenizer.model"),
        "tokenizer has 16 pieces and the model 24: they do not belong together",
    ),
    "masks truncated": (lambda m: truncate(m / "pathways" / "masks.safetensors"), "masks.safetensors: truncated"),
    "no masks": (lambda m: (m / "pathways" / "masks.safetensors").unlink(), "masks.safetensors: cannot read"),
    "no description of masks": (lambda m: (m / "pathways" / "pathways.json").unlink(), "no pathways.json here"),
}


@pytest.fixture(scope="module")
def pruned_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "m"
    save_model(folder, pruned_recognizer(tokenizer))
    return folder


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_folder_is_told_in_one_line(tmp_path: Path, pruned_folder: Path, breakage: str) -> None:
    folder = tmp_path / "m"
    shutil.copytree(pruned_folder, folder)
    breaks, message = BREAKAGES[breakage]
    breaks(folder)
    with pytest.raises(PathwaysError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_masks_of_another_model_are_refused(tmp_path: Path, pruned_folder: Path, tokenizer: Tokenizer) -> None:
    other = make_model(tokenizer, predictor_dim=20)
    save_model(tmp_path, other)
    shutil.copytree(pruned_folder / "pathways", tmp_path / "pathways")
    with pytest.raises(PathwaysError, match=r"made for another model: predictor.lstm.weight_ih_l0 was"):
        load_model(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="nowhere: no such model folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(PathwaysError, match="file: no such model folder"):
        load_model(tmp_path / "file")


def test_a_full_disk_keeps_the_old_model(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asr = make_model(tokenizer)
    save_model(tmp_path, asr)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    torch.nn.init.zeros_(asr.model.encoder.norm.weight)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PathwaysError, match=r"model.safetensors: cannot write: No space left on device"):
        save_model(tmp_path, asr)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_languages_are_checked(tokenizer: Tokenizer) -> None:
    asr = make_model(tokenizer, languages=("en", "fr", "it"))
    assert asr.check_languages(None) == ("en", "fr", "it")
    assert asr.check_languages(["it", "en"]) == ("it", "en")
    with pytest.raises(PathwaysError, match="unknown language 'de': this model knows en fr it"):
        asr.check_languages(["en", "de"])
    config = PathwayConfig(sparsity=0.5, exclude=asr.model.unprunable)
    asr.pathways = Pathways.attach(asr.model, config, ["fr"])
    with pytest.raises(PathwaysError, match="unknown language 'en': this model knows fr"):
        asr.check_languages(["en"])
