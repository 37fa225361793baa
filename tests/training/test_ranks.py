"""Runs of several processes, started by torchrun, or as it starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import app
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.files import read_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.loop import LEFT_OUT, TrainingLoop
from asr_pathways.training.prune import prune as run
from tests import warm
from tests.conftest import make_model
from tests.training.test_origin import reversed_audio

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


def prune(
    dense: Path, speech: Path, out: Path, ranks: int, batches: int, *options: str, each: str = "step"
) -> list[str]:
    """The command that prunes on so many batches a step, in so many processes."""
    recipe = out.parent / f"{out.name}.yaml"
    recipe.write_text(RECIPE % (each, batches // ranks))
    command = ["prune", str(dense), "--data", str(speech), "--config", str(recipe), "--out", str(out)]
    return [*command, "--method", "dynamic", "--sparsity", "0.6", *options]


def alone(command: list[str]) -> None:
    """Does the command here."""
    app(command, standalone_mode=False)


def torchrun(command: list[str]) -> str:
    """Does the command in two processes; what they said."""
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *start, "-m", "asr_pathways", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def warm_ranks(command: list[str]) -> str:
    """The same, in processes that have imported all; what they said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out = Path(command[command.index("--out") + 1])
    logs = [out.with_name(f"{out.name}-{rank}.log") for rank in range(2)]
    ranks = [
        warm.context().Process(target=as_rank, args=(rank, port, command, log), daemon=True)
        for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)  # the other one of a rank that failed waits for it
    said = "".join(log.read_text() for log in logs)
    assert [process.exitcode for process in ranks] == [0, 0], said[-3000:]
    return said


def nothing(rank: int) -> None:
    """What a rank does first."""


def as_rank(rank: int, port: int, command: list[str], log: Path, before: Callable[[int], None] = nothing) -> None:
    """What torchrun does, after ``before``; an error's message is the last line of the log."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    before(rank)
    with log.open("w") as stream, contextlib.redirect_stderr(stream):
        try:
            alone(command)
        except PathwaysError as error:
            stream.write(f"{error}\n")
            stream.flush()
            raise SystemExit(1) from None


@pytest.mark.parametrize(("each", "start"), [("step", torchrun), ("batch", warm_ranks)])
def test_two_ranks_prune_as_one_does_on_the_same_batches(
    dense: Path, speech: Path, tmp_path: Path, each: str, start: Callable[[list[str]], str]
) -> None:
    single, both, data = tmp_path / "single", tmp_path / "both", tmp_path / "data"
    shutil.copytree(speech, data)
    broken = {"en-train-2", "fr-train-5"}  # are left out by the rank that draws them
    for name in broken:
        (data / "audio" / name[:2] / f"{name}.flac").write_bytes(b"")
    alone(prune(dense, data, single, 1, 2, each=each))
    said = start(prune(dense, data, both, 2, 2, each=each))
    assert read_json(single / LEFT_OUT).keys() == read_json(both / LEFT_OUT).keys() == broken
    assert said.count("model written") == 1
    one, two = load_model(single), load_model(both)
    assert one.pathways is not None and two.pathways is not None
    for language in one.languages:
        masks = two.pathways.mask(language)
        assert all(torch.equal(mask, masks[name]) for name, mask in one.pathways.mask(language).items())
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    first, second = (read_json(out / "history.json") for out in (single, both))
    assert json.dumps(first) == json.dumps(second)


def test_a_run_goes_on_with_another_number_of_ranks(
    dense: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    warm_ranks(prune(dense, speech, whole, 2, 2))
    (tmp_path / "alone.yaml").write_text(RECIPE % ("step", 2))

    def stops(loop: TrainingLoop) -> None:
        if loop.state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingLoop, "_stop_if_interrupted", stops)
    recipe = PruneRecipe.read(tmp_path / "alone.yaml")
    with pytest.raises(Interrupted, match="step 4 of 6"):
        run(dense, speech, out, method="dynamic", sparsity=0.6, recipe=recipe)
    last = out / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])  # as a disk does: the first rank puts it aside, for all
    said = warm_ranks(prune(dense, speech, out, 2, 2, "--resume"))
    assert said.count("it is now damaged-last.pt") == 1
    expected = load_model(whole).model.state_dict()
    for name, weight in load_model(out).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def differently(
    commands: list[list[str]], out: Path, before: Callable[[int], None] = nothing
) -> list[tuple[int | None, str]]:
    """Two ranks that do not do the same: the status and the last line of each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    logs = [out.with_name(f"{out.name}-{rank}.log") for rank in range(2)]
    processes = [
        warm.context().Process(target=as_rank, args=(rank, port, command, log, before), daemon=True)
        for rank, (command, log) in enumerate(zip(commands, logs, strict=True))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [
        (process.exitcode, (log.read_text().splitlines() or [""])[-1])
        for process, log in zip(processes, logs, strict=True)
    ]


def dies_at_its_third_step(rank: int, mortal: int) -> None:
    plain = TrainingLoop._step

    def step(self: TrainingLoop, *arguments: Any) -> None:
        if rank == mortal and self.state.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, *arguments)

    TrainingLoop._step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("mortal", [0, 1])
def test_when_a_rank_is_killed_the_other_names_it_in_one_line(
    dense: Path, speech: Path, tmp_path: Path, mortal: int
) -> None:
    out = tmp_path / "out"
    command = prune(dense, speech, out, 2, 2)
    found = differently([command, command], out, partial(dies_at_its_third_step, mortal=mortal))
    assert found[mortal][0] == -signal.SIGKILL
    line = (
        f"rank {mortal} ended, and so does rank {1 - mortal}: messages before this one may say why; start all of them"
    )
    assert found[1 - mortal] == (1, f"{line} again with --resume")
    warm_ranks([*command, "--resume"])
    assert not list(out.glob(".lock*"))


def test_ranks_that_are_started_differently_are_refused(dense: Path, speech: Path, tmp_path: Path) -> None:
    command = prune(dense, speech, tmp_path / "out", 2, 2)
    other = prune(dense, speech, tmp_path / "other", 2, 2, "--out", str(tmp_path / "out"))
    recipe = tmp_path / "other.yaml"
    recipe.write_text(recipe.read_text() + "seed: 1\n")
    line = "rank 1 was started otherwise than rank 0: seed 1 (rank 0: 0)"
    assert differently([command, other], tmp_path / "out") == [(1, line)] * 2
    other = [*command[:-1], "0.5"]
    line = "rank 1 was started otherwise than rank 0: sparsity 0.5 (rank 0: 0.6)"
    assert differently([command, other], tmp_path / "out") == [(1, line)] * 2
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    reversed_audio(data, "en-train-3")
    other = prune(dense, data, tmp_path / "out", 2, 2)
    line = "rank 1 has other utterances in train than rank 0: all must have the same files"
    assert differently([command, other], tmp_path / "out") == [(1, line)] * 2
