"""A run goes on with the data and the model that it began with, or not at all; what else is different is reported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.left_out import LeftOut
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.loop import LEFT_OUT
from asr_pathways.training.prune import prune
from asr_pathways.training.train import train
from tests.conftest import make_model
from tests.data.test_identity import changed, other_text
from tests.training.helpers import loop_config, make_loop, recognizer_for, same, stopped_before

RECIPE: dict[str, Any] = {
    "optimizer": {"steps": 4, "peak_lr": 5e-3},
    "data": {"max_seconds": 1.5, "prefetch": 0},
    "evaluation": {"every": 4, "utterances": 1, "keep_best": 1},
    "checkpoint_every": 2,
    "threads": 1,
}


def reversed_audio(data: Path, name: str) -> None:
    path = data / "audio" / name[:2] / f"{name}.flac"
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[::-1], rate)


@pytest.mark.parametrize("command", ["train", "prune"])
def test_a_run_does_not_go_on_with_other_data(command: str, dense_model: Path, speech: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(speech, data)

    def run(where: Path, resume: bool) -> None:
        if command == "train":
            train(TrainRecipe.model_validate(RECIPE), where, out, init=dense_model, resume=resume)
        else:
            recipe = PruneRecipe.model_validate(RECIPE)
            prune(dense_model, where, out, method="dynamic", sparsity=0.5, recipe=recipe, resume=resume)

    with stopped_before(2):
        run(data, False)
    texts, audio, dev = (tmp_path / name for name in ("texts", "audio", "dev"))
    for copy in (texts, audio, dev):
        shutil.copytree(data, copy)
    changed(texts, other_text)
    reversed_audio(audio, "fr-train-3")
    reversed_audio(dev, "en-dev-0")
    for copy, split, name in ((texts, "train", "en-train-0"), (audio, "train", "fr-train-3"), (dev, "dev", "en-dev-0")):
        with pytest.raises(PathwaysError, match=f"run: {split}: utterance {name} is not what it was"):
            run(copy, True)
    run(data, True)  # all that was there is still there


def test_an_utterance_that_was_left_out_may_be_mended(dense_model: Path, speech: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(speech, data)
    whole = {path: path.read_bytes() for path in (data / "audio").glob("*/*-train-*")}
    for path in whole:
        if path.stem in ("en-train-2", "fr-train-5"):
            path.write_bytes(b"broken")
    recipe = TrainRecipe.model_validate({**RECIPE, "data": {"max_seconds": 30, "prefetch": 0}})
    with stopped_before(2):
        train(recipe, data, out, init=dense_model)
    assert (out / LEFT_OUT).exists()
    left = LeftOut(9)
    left.read(out / LEFT_OUT)
    for path, content in whole.items():
        if path.stem in left:
            path.write_bytes(content)
    (out / LEFT_OUT).unlink()
    train(recipe, data, out, init=dense_model, resume=True)


def test_training_does_not_go_on_from_another_model(
    dense_model: Path, speech: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    recipe, out = TrainRecipe.model_validate(RECIPE), tmp_path / "run"
    with stopped_before(2):
        train(recipe, speech, out, init=dense_model)
    other = make_model(tokenizer)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    save_model(tmp_path / "other", other)
    with pytest.raises(PathwaysError, match=r"run: the run there began with another model than .*other: resume with"):
        train(recipe, speech, out, init=tmp_path / "other", resume=True)
    train(recipe, speech, out, init=dense_model, resume=True)


def test_pruning_does_not_go_on_from_another_model(
    dense_model: Path, speech: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    recipe, out = PruneRecipe.model_validate({**RECIPE, "distillation": 0.1}), tmp_path / "run"
    with stopped_before(2):
        prune(dense_model, speech, out, method="dynamic", sparsity=0.5, recipe=recipe)
    other = make_model(tokenizer)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    save_model(tmp_path / "other", other)
    with pytest.raises(PathwaysError, match="run: the run there began with another model: resume with what it"):
        prune(tmp_path / "other", speech, out, method="dynamic", sparsity=0.5, recipe=recipe, resume=True)
    prune(dense_model, speech, out, method="dynamic", sparsity=0.5, recipe=recipe, resume=True)
    assert load_model(out).pathways is not None


def test_another_number_of_threads_and_another_recipe_are_reported(
    speech: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_loop(speech, recognizer_for(tokenizer, "dynamic", 2), tmp_path, loop_config(2))
    first.run()
    capsys.readouterr()
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 2), tmp_path, loop_config(2))
    again.resume()
    assert capsys.readouterr().err == ""
    torch.set_num_threads(2)
    try:
        config = loop_config(2, max_bad_losses=3, accumulate=1)
        other = make_loop(speech, recognizer_for(tokenizer, "dynamic", 2), tmp_path, config)
    finally:
        torch.set_num_threads(1)
    other.resume()
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: goes on with threads 2 (it was 1): the weights will not be the same to the last bit",
        f"{tmp_path}: goes on with another recipe, from here on: max_bad_losses 3 (it was 5)",
    ]


def test_another_decay_counts_from_there_on(speech: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The optimizer's state has the options of back then, too."""
    make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, loop_config(2)).run()
    options = {"steps": 2, "weight_decay": 0.5, "betas": (0.5, 0.6)}
    config = loop_config(2, optimizer=options)
    other = make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, config)
    other.resume()
    matrices, vectors = other.optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0.0)
    assert matrices["betas"] == vectors["betas"] == (0.5, 0.6)


def test_options_of_the_start_are_not_said_to_count_later(
    speech: Path, tokenizer: Tokenizer, dense_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"method": "dynamic", "sparsity": 0.5, "announced": False}
    prune(dense_model, speech, tmp_path, recipe=PruneRecipe.model_validate(RECIPE), **options)
    capsys.readouterr()
    changes = {"refit_batches": 2, "calibration_batches": 1, "keep_last": 1}
    prune(
        dense_model, speech, tmp_path, recipe=PruneRecipe.model_validate({**RECIPE, **changes}), resume=True, **options
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "goes on" in line]
    assert lines == [
        f"{tmp_path}: goes on with another recipe, from here on: keep_last 1 (it was 2)",
        f"{tmp_path}: has begun, so it goes on as it was: calibration_batches 1 (it was 4), "
        "refit_batches 2 (it was 0): for that start a new run",
    ]


def test_a_checkpoint_of_before_is_read_and_says_so(
    speech: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, loop_config(2))
    first.run()
    checkpoint = torch.load(first.checkpoint, weights_only=True)
    del checkpoint["origin"]
    torch.save(checkpoint, first.checkpoint)
    again = make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, loop_config(2))
    capsys.readouterr()
    again.resume()
    assert "the checkpoint is of an older release" in capsys.readouterr().err
    assert same(again.asr.model.state_dict(), checkpoint["model"])


def test_a_model_of_other_sizes_is_not_gone_on_with(speech: Path, tmp_path: Path) -> None:
    """The recipe's are for a run that begins: they would count for nothing."""
    values = {**RECIPE, "model": {"preset": "micro", "vocab_size": 24}}
    with stopped_before(2):
        train(TrainRecipe.model_validate(values), speech, tmp_path / "run")
    for model in ({"preset": "tiny", "vocab_size": 24}, {"preset": "micro", "vocab_size": 25}):
        with pytest.raises(PathwaysError, match="run: the run there is of a model of other sizes than the recipe's"):
            train(TrainRecipe.model_validate({**values, "model": model}), speech, tmp_path / "run", resume=True)
