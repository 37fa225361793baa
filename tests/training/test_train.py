from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.models.transducer import Transducer, TransducerConfig
from asr_pathways.training.config import TrainRecipe
from asr_pathways.training.inputs import feature_statistics
from asr_pathways.training.state import TrainingState, last_checkpoint
from asr_pathways.training.train import train as train_recipe
from tests.conftest import LANGUAGES, PIECES, tiny_config
from tests.training.helpers import on_loss, recognizer_for, same

RECIPE: dict[str, Any] = {
    "model": {"vocab_size": PIECES},
    "optimizer": {"steps": 4, "peak_lr": 5e-3},
    "data": {"max_seconds": 1.5, "prefetch": 0},
    "evaluation": {"every": 2, "utterances": 1},
    "checkpoint_every": 2,
}


def train(recipe: Path, data: Path, out: Path, **options: Any) -> TrainingState:
    """As the command line does it."""
    return train_recipe(TrainRecipe.read(recipe), data, out, **options)


def write(path: Path, **options: Any) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **options}))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write(tmp_path / "recipe.yaml")


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of two million weights take too long for a test."""

    def preset(name: str, vocab_size: int, features: int) -> TransducerConfig:
        return tiny_config(vocab_size=vocab_size)

    monkeypatch.setattr("asr_pathways.training.train.preset", preset)


def test_a_model_from_scratch(tmp_path: Path, recipe: Path, speech: Path) -> None:
    state = train(recipe, speech, tmp_path / "run")
    assert state.step == 4
    trained = load_model(tmp_path / "run")
    assert trained.languages == LANGUAGES
    assert trained.card.attribution == ("Sines by nobody",)
    assert trained.tokenizer.vocab_size == trained.card.model.vocab_size == PIECES
    mean, deviation = feature_statistics(load_cuts(speech, "train"), trained.card.features)
    torch.testing.assert_close(trained.model.feature_mean, mean)
    torch.testing.assert_close(trained.model.feature_scale, 1 / deviation)
    start = load_model(tmp_path / "run" / "checkpoints" / "start")
    assert not same(start.model.state_dict(), trained.model.state_dict())

    again = train(recipe, speech, tmp_path / "again")
    assert again.history == state.history
    assert same(load_model(tmp_path / "again").model.state_dict(), trained.model.state_dict())

    other = write(tmp_path / "other.yaml", seed=1)
    train(other, speech, tmp_path / "other")
    assert not same(load_model(tmp_path / "other").model.state_dict(), trained.model.state_dict())


def test_a_run_is_not_overwritten_but_resumed(
    tmp_path: Path, recipe: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(recipe, speech, run)
    written = (run / "model.safetensors").read_bytes()
    with pytest.raises(PathwaysError, match="run: holds a run already: go on with --resume, or choose another folder"):
        train(recipe, speech, run)
    assert (run / "model.safetensors").read_bytes() == written
    longer = write(tmp_path / "longer.yaml", optimizer={**RECIPE["optimizer"], "steps": 6})
    assert train(longer, speech, run, resume=True).step == 6


def test_a_run_that_died_before_its_first_checkpoint_resumes_from_its_start(
    tmp_path: Path, recipe: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, speech, tmp_path / "whole")

    def crash(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(1, crash))
        with pytest.raises(MemoryError):
            train(recipe, speech, tmp_path / "run")
    assert not last_checkpoint(tmp_path / "run").exists()
    train(recipe, speech, tmp_path / "run", resume=True)
    whole, resumed = load_model(tmp_path / "whole"), load_model(tmp_path / "run")
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_where_there_is_nothing_to_resume_a_run_begins(
    tmp_path: Path, recipe: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that whatever restarts a killed run needs to know nothing of it."""
    train(recipe, speech, tmp_path / "run", resume=True)
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'run'}: no run to resume there: it begins now\n")
    assert load_model(tmp_path / "run").pathways is None


def test_a_run_goes_on_from_another_model(tmp_path: Path, speech: Path, dense_model: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", optimizer={"steps": 0}, model={"vocab_size": 999})
    train(recipe, speech, tmp_path / "run", init=dense_model)
    old, new = load_model(dense_model), load_model(tmp_path / "run")
    assert same(old.model.state_dict(), new.model.state_dict())
    assert new.tokenizer.pieces() == old.tokenizer.pieces()
    assert new.card.attribution == ("Sines by nobody",)


def test_a_pruned_model_is_no_start(tmp_path: Path, recipe: Path, speech: Path, tokenizer: Tokenizer) -> None:
    save_model(tmp_path / "pruned", recognizer_for(tokenizer, "dynamic", 1))
    with pytest.raises(PathwaysError, match="pruned: is pruned already; training starts from a dense model"):
        train(recipe, speech, tmp_path / "run", init=tmp_path / "pruned")
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path: Path, recipe: Path, speech: Path) -> None:
    run = tmp_path / "run"
    broken = shutil.copytree(speech, tmp_path / "broken")
    (broken / "cuts_train.jsonl.gz").write_bytes(b"\x1f\x8b")
    unknown = write(tmp_path / "unknown.yaml", epochs=3)
    large = write(tmp_path / "large.yaml", model={"vocab_size": 5000})
    for config, data, message in (
        (tmp_path / "none.yaml", speech, r"none.yaml: cannot read config"),
        (unknown, speech, r"unknown.yaml: epochs: unknown key"),
        (recipe, tmp_path / "nowhere", "nowhere: no such data folder"),
        (recipe, tmp_path, "not a data folder"),
        (recipe, broken, r"cuts_train.jsonl.gz: broken"),
        (large, speech, "tokenizer: vocab_size 5000 does not fit the texts"),
    ):
        with pytest.raises(PathwaysError, match=message) as caught:
            train(config, data, run)
        assert "\n" not in str(caught.value)
        assert not run.exists()


@pytest.mark.parametrize("left", [("en",), ()])
def test_what_has_no_dev_part_is_trained_all_the_same(
    tmp_path: Path, recipe: Path, speech: Path, capsys: pytest.CaptureFixture[str], left: tuple[str, ...]
) -> None:
    data, run = shutil.copytree(speech, tmp_path / "data"), tmp_path / "run"
    with gzip.open(speech / "cuts_dev.jsonl.gz", "rt") as lines, gzip.open(data / "cuts_dev.jsonl.gz", "wt") as kept:
        kept.writelines(line for line in lines if any(f'"language":"{language}"' in line for language in left))
    state = train(recipe, data, run)
    said = "fr: the model is chosen by the others" if left else "en, fr: the last model is the result, unscored"
    assert f"data: no dev utterances of {said}" in capsys.readouterr().err
    assert [set(entry["wer"]) for entry in state.history] == [set(left)] * len(state.history)
    assert bool(state.history) == bool(left) and load_model(run).languages == ("en", "fr")


def test_broken_audio_is_named(tmp_path: Path, recipe: Path, speech: Path) -> None:
    data = shutil.copytree(speech, tmp_path / "data")
    for path in (data / "audio" / "en").glob("en-train-*"):
        path.write_bytes(b"no flac")
    with pytest.raises(PathwaysError, match=r"utterance en-train-\d"):
        train(recipe, data, tmp_path / "run")


def test_some_of_the_languages(tmp_path: Path, recipe: Path, speech: Path, dense_model: Path) -> None:
    train(recipe, speech, tmp_path / "run", init=dense_model, languages=("fr",))
    assert load_model(tmp_path / "run").languages == ("fr",)
    with pytest.raises(PathwaysError, match="no 'de' in split 'train': it holds en, fr"):
        train(recipe, speech, tmp_path / "other", languages=("de",))


def test_the_last_model_is_the_result_where_that_is_asked_for(tmp_path: Path, speech: Path) -> None:
    choose = write(tmp_path / "last.yaml", evaluation={"every": 1, "utterances": 1, "choose": "last"})
    state = train(choose, speech, tmp_path / "run")
    assert state.best == [] and len(state.history) == 4
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    last = torch.load(last_checkpoint(tmp_path / "run"), weights_only=True)["model"]
    assert same(load_model(tmp_path / "run").model.state_dict(), last)
