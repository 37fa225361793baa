"""Runs of several processes, started as torchrun starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import Interrupted
from asr_pathways.files import read_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.loop import LEFT_OUT, TrainingLoop
from asr_pathways.training.prune import prune as run
from tests.conftest import make_model

RECIPE = """
optimizer: {steps: 6, peak_lr: 5.0e-3, warmup_steps: 2}
data: {max_seconds: 1.5, speed_factors: [1.0, 1.1], prefetch: 2, language_each: %s}
evaluation: {every: 3, utterances: 1, choose: last}
checkpoint_every: 3
accumulate: %d
pathways: {adapt_every: 2}
refit_batches: 1
threads: 1
"""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    save_model(folder / "model", make_model(tokenizer))
    return folder / "model"


def prune(dense: Path, speech: Path, out: Path, ranks: int, batches: int, *options: str, each: str = "step") -> str:
    """Prunes in ``ranks`` processes; what was said."""
    recipe = out.parent / f"{out.name}.yaml"
    recipe.write_text(RECIPE % (each, batches // ranks))
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={ranks}"]
    command += ["-m", "asr_pathways", "prune", str(dense), "--data", str(speech), "--config", str(recipe)]
    command += ["--method", "dynamic", "--sparsity", "0.6", "--out", str(out), *options]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stderr


@pytest.mark.parametrize("each", ["step", "batch"])
def test_two_ranks_prune_as_one_does_on_the_same_batches(dense: Path, speech: Path, tmp_path: Path, each: str) -> None:
    alone, both, data = tmp_path / "alone", tmp_path / "both", tmp_path / "data"
    shutil.copytree(speech, data)
    broken = {"en-train-2", "fr-train-5"}  # are left out by the rank that draws them
    for name in broken:
        (data / "audio" / name[:2] / f"{name}.flac").write_bytes(b"")
    prune(dense, data, alone, 1, 2, each=each)
    said = prune(dense, data, both, 2, 2, each=each)
    assert read_json(alone / LEFT_OUT).keys() == read_json(both / LEFT_OUT).keys() == broken
    assert said.count("model written") == 1
    one, two = load_model(alone), load_model(both)
    assert one.pathways is not None and two.pathways is not None
    for language in one.languages:
        masks = two.pathways.mask(language)
        assert all(torch.equal(mask, masks[name]) for name, mask in one.pathways.mask(language).items())
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    first, second = (read_json(out / "history.json") for out in (alone, both))
    assert json.dumps(first) == json.dumps(second)


def test_a_run_goes_on_with_another_number_of_ranks(
    dense: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    prune(dense, speech, whole, 2, 2)
    (tmp_path / "alone.yaml").write_text(RECIPE % ("step", 2))

    def stops(loop: TrainingLoop) -> None:
        if loop.state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingLoop, "_stop_if_asked", stops)
    recipe = PruneRecipe.read(tmp_path / "alone.yaml")
    with pytest.raises(Interrupted, match="step 4 of 6"):
        run(dense, speech, out, method="dynamic", sparsity=0.6, recipe=recipe)
    last = out / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])  # as a disk does: the first rank puts it aside, for all
    said = prune(dense, speech, out, 2, 2, "--resume")
    assert said.count("it is now damaged-last.pt") == 1
    expected = load_model(whole).model.state_dict()
    for name, weight in load_model(out).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
