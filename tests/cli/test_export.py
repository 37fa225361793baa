"""The command ``export``, and bundles as MODEL of the other commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.folder import save_model
from tests.pruned import pruned


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("run") / "m"
    save_model(folder, pruned(tokenizer, ("en", "fr")))
    return folder


def test_a_bundle_is_a_model(
    run: Callable[..., int], model: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, bundle = tmp_path / "scores.json", tmp_path / "b.asrp"
    assert run("evaluate", model, "--data", speech, "--json", scores) == 0
    assert run("export", model, bundle, "--dtype", "float32", "--scores", scores) == 0
    assert "bits of masks a prunable weight" in capsys.readouterr().err
    again = tmp_path / "again.json"
    assert run("evaluate", bundle, "--data", speech, "--json", again) == 0
    assert json.loads(again.read_text()) == json.loads(scores.read_text())
    wer = json.loads(scores.read_text())["languages"]["fr"]["wer"]["rate"]
    assert Bundle.open(bundle).config.scores["fr"].wer == wer
    spoken = next((speech / "audio" / "fr").glob("*test-0*.flac"))
    texts = []
    for one in (model, bundle):
        capsys.readouterr()
        assert run("transcribe", one, "--language", "fr", spoken) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert run("inspect", bundle) == 0
    out = capsys.readouterr().out
    for word in (
        "mask fr",
        "bits a prunable weight",
        "fr French",
        f"{100 * wer:.1f}",
        "union density",
        "Sparsity",
        "IoU",
    ):
        assert word in out


def test_parts_and_other_forms(run: Callable[..., int], model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "fr.asrp"
    assert run("export", model, bundle, "--languages", "fr", "--dtype", "int8") == 0
    assert Bundle.open(bundle).languages == ("fr",)
    assert run("export", bundle, tmp_path / "plain", "--format", "hf") == 0
    plain = load_model(tmp_path / "plain")
    assert plain.pathways is None
    assert plain.languages == ("fr",)
    expected = Bundle.open(bundle).weights("fr")
    assert all((value == expected[name]).all() for name, value in plain.model.state_dict().items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "tflite"), "--format tflite: the formats are bundle, hf, onnx, sherpa"),
        (("--format", "hf"), "choose with --languages one of en fr"),
        (("--format", "hf", "--dtype", "int8"), "--dtype and --vocabulary are of bundles"),
        (("--format", "onnx", "--scores", "s.json"), "--scores has no place in --format onnx"),
        (("--dtype", "int4"), "--dtype int4: one of float32, float16, int8"),
        (("--languages", "de"), "unknown language 'de': this model knows en fr"),
        (("--scores", "nothing.json"), "nothing.json: cannot read"),
    ],
)
def test_misuse_is_one_line(
    words: tuple[str, ...],
    message: str,
    run: Callable[..., int],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("export", model, tmp_path / "b.asrp", *words) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_broken_bundle_is_one_line(
    run: Callable[..., int], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.asrp"
    assert run("export", model, path) == 0
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    transcribe = ("transcribe", path, "--language", "fr", "x.wav")
    for command in (("inspect", path), transcribe, (*transcribe, "--stream"), ("export", path, tmp_path / "out.asrp")):
        assert run(*command) == 1
        told = capsys.readouterr().err
        assert "b.asrp: has" in told
        assert told.count("\n") == 1


def test_nothing_is_taught_to_a_bundle(
    run: Callable[..., int], model: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "b.asrp"
    assert run("export", model, bundle) == 0
    assert run("identify", bundle, "--data", speech) == 1
    assert (
        "b.asrp: a bundle is not changed: fit the identifier of the model folder, then export it again"
        in capsys.readouterr().err
    )
    words = ("--language", "it", "--data", speech, "--out", tmp_path / "it")
    assert run("add-language", bundle, *words) == 1
    assert "b.asrp: a bundle lacks the weights that no pathway keeps" in capsys.readouterr().err
    Bundle.open(bundle).verify()


def test_what_tells_languages_apart_goes_with_them(
    run: Callable[..., int], model: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught, bundle = tmp_path / "taught", tmp_path / "b.asrp"
    shutil.copytree(model, taught)
    spoken = next((speech / "audio" / "fr").glob("*test-0*.flac"))
    assert run("export", taught, bundle) == 0
    assert run("transcribe", bundle, "--language", "auto", spoken) == 1
    assert "cannot tell languages apart: teach the model folder" in capsys.readouterr().err
    assert run("identify", taught, "--data", speech) == 0
    assert run("export", taught, bundle, "--dtype", "float32") == 0
    texts = []
    for one in (taught, bundle):
        capsys.readouterr()
        assert run("transcribe", one, "--language", "auto", "--format", "json", spoken) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert run("export", bundle, tmp_path / "fr.asrp", "--languages", "fr") == 0
    assert not Bundle.open(tmp_path / "fr.asrp").has("language_id.safetensors")
