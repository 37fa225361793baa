"""What a kill, a damaged file, a full disk or a second process may do to a run: nothing that lasts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, TrainBatches
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import EvaluationConfig, PruneRecipe
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.progress import TrainingProgress
from asr_pathways.training.prune import prune
from asr_pathways.training.state import (
    TrainingState,
    checkpoints,
    last_checkpoint,
    read_last_checkpoint,
    write_checkpoint,
)
from tests.training.helpers import loop_config, make_loop, on_loss, recognizer_for, same


def write(out: Path, step: int, keep: int = 2) -> None:
    write_checkpoint(last_checkpoint(out), TrainingState(step), {"model": {"a": torch.zeros(3)}}, keep)


def kept(out: Path) -> list[tuple[str, int]]:
    return [(path.name, torch.load(path, weights_only=True)["state"]["step"]) for path in checkpoints(out)]


class Killed(BaseException):
    """Stands for kill -9: nothing after it is done."""


def killed(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize(("keep", "steps"), [(1, [4]), (2, [4, 3]), (3, [4, 3, 2])])
def test_the_last_checkpoints_are_kept(tmp_path: Path, keep: int, steps: list[int]) -> None:
    for step in range(1, 5):
        write(tmp_path, step, keep)
    assert [step for _, step in kept(tmp_path)] == steps
    assert kept(tmp_path)[0] == ("last.pt", 4)
    write(tmp_path, 5, keep=1)
    assert kept(tmp_path) == [("last.pt", 5)]


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_between_two_renames_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    replace, calls = Path.replace, iter(range(1, 9))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda path, to: killed() if next(calls) == call else replace(path, to))
        with pytest.raises(Killed):
            write(tmp_path, 3)
    assert kept(tmp_path) == ([("last.pt", 2), ("last-1.pt", 1)] if call == 1 else [("last-1.pt", 2)])
    assert read_last_checkpoint(tmp_path)[1].step == 2
    write(tmp_path, 3)
    assert kept(tmp_path) == [("last.pt", 3), ("last-1.pt", 2)]


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(PathwaysError, match=r"last.pt: cannot write checkpoint: No space left on device; none was"):
            write(tmp_path, 1)
    for step in (1, 2):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(PathwaysError, match=r"No space left on device; the one before stays: make room, then go"):
            write(tmp_path, 3)
    assert kept(tmp_path) == [("last.pt", 2), ("last-1.pt", 1)]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = loop_config(9, checkpoint_every=3, evaluation=EvaluationConfig(every=3, utterances=1, keep_best=1))
    whole = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path / "whole", config)
    whole.run()
    first = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path / "run", config)
    first.run()
    last = last_checkpoint(tmp_path / "run")
    last.write_bytes(last.read_bytes()[:-50])
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path / "run", config)
    capsys.readouterr()
    again.resume()
    told = capsys.readouterr().err
    assert told.startswith(f"{last}: not a readable checkpoint: ") and told.count("\n") == 1
    assert told.endswith("; it is now damaged-last.pt, and the run goes on from the checkpoint before\n")
    assert again.state.step == 6
    assert [entry["step"] for entry in json.loads((tmp_path / "run" / "history.json").read_text())] == [3, 6]
    again.run()
    assert [step for _, step in kept(tmp_path / "run")] == [9, 6]
    assert same(whole.asr.model.state_dict(), again.asr.model.state_dict())
    for path in checkpoints(tmp_path / "run"):
        path.write_bytes(b"")
    with pytest.raises(PathwaysError, match=r"last-1.pt: not a readable checkpoint"):
        make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path / "run", config).resume()


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loop_config(11)
    make_loop(speech, recognizer_for(tokenizer, "dynamic", 11), tmp_path / "whole", config).run()
    first = make_loop(speech, recognizer_for(tokenizer, "dynamic", 11), tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(8, killed))
        with pytest.raises(Killed):
            first.run()
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 11), tmp_path / "run", config)
    again.resume()
    again.run()
    expected = scalars(tmp_path / "whole")
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 12))
    assert scalars(tmp_path / "run") == expected


@pytest.mark.parametrize("hours", [-48.0, 0.0])
def test_tensorboard_shows_all_steps_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """Twice, or as fast as no clock shows."""
    clock = [2e9]
    monkeypatch.setattr("time.time", lambda: clock[0])
    for first in (0, 4, 8):
        with TrainingProgress(tmp_path / "tensorboard", "Testing", first, 12) as progress:
            for step in range(first + 1, first + 6):  # one more than the checkpoint has
                progress.step(step, float(first), 1.0, {})
        clock[0] += hours * 3600
    expected = [(step, 4.0 * ((step - 1) // 4)) for step in range(1, 13)]
    assert scalars(tmp_path)["train/loss"] == [*expected, (13, 8.0)]


def nan(model: Transducer, loss: Tensor) -> Tensor:
    return loss * float("nan")


@pytest.mark.parametrize("method", ["dynamic", "pathways"])
def test_a_skipped_batch_moves_no_clock(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(Transducer, "loss", on_loss(1, nan))
    trained: list[str] = []
    asr = recognizer_for(tokenizer, method, 4)
    assert asr.pathways is not None
    use = asr.pathways.use
    monkeypatch.setattr(asr.pathways, "use", lambda language: (trained.append(language), use(language))[1])
    loop = make_loop(speech, asr, tmp_path, loop_config(4, evaluation=EvaluationConfig(every=99)))
    monkeypatch.setattr(loop, "_evaluate_if_due", lambda progress: None)
    loop.run()
    assert len(trained) == 5 and len(set(trained)) == 2
    del trained[1]  # the skipped one
    assert asr.pathways.state_dict()["own_steps"] == {one: trained.count(one) for one in ("en", "fr")}


def test_a_run_stopped_after_a_skipped_batch_resumes_exactly(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even in step 0, where the random numbers have moved on already."""
    config = loop_config(5)
    plain, bad = Transducer.loss, [True]

    def loss(self: Transducer, batch: Batch) -> Tensor:
        value = plain(self, batch)
        if bad and self.training:
            bad.pop()
            torch.rand(1)
            return value * float("nan")
        return value * (1 + torch.rand(1))

    monkeypatch.setattr(Transducer, "loss", loss)
    whole = make_loop(speech, recognizer_for(tokenizer, "dynamic", 5), tmp_path / "whole", config)
    whole.run()
    bad.append(True)
    parts = make_loop(speech, recognizer_for(tokenizer, "dynamic", 5), tmp_path / "run", config)
    skip = TrainingLoop._skip

    def interrupted(self: TrainingLoop, *args: Any) -> None:
        skip(self, *args)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_skip", interrupted)
        with pytest.raises(PathwaysError, match="interrupted at step 0 of 5"):
            parts.run()
    torch.manual_seed(1234)
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 5), tmp_path / "run", config)
    again.resume()
    again.run()
    assert again.state.bad_losses == 1
    assert same(whole.asr.model.state_dict(), again.asr.model.state_dict())
    assert whole.asr.pathways is not None and again.asr.pathways is not None
    assert same(whole.asr.pathways.state_dict(), again.asr.pathways.state_dict())


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError(errno.EIO, "Input/output error"), SystemExit(3)])
def test_a_dead_data_thread_ends_the_run_and_it_goes_on_exactly(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    config = loop_config(8, checkpoint_every=2)
    assert config.data.prefetch > 0
    whole = make_loop(speech, recognizer_for(tokenizer, "dynamic", 8), tmp_path / "whole", config)
    whole.run()
    make, calls = TrainBatches._make, iter(range(99))

    def dying(self: TrainBatches, draw: Any) -> Batch:
        if next(calls) == 6:
            raise error
        return make(self, draw)

    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "_make", dying)
        with pytest.raises(type(error)):
            make_loop(speech, recognizer_for(tokenizer, "dynamic", 8), tmp_path / "run", config).run()
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 8), tmp_path / "run", config)
    again.resume()
    assert again.state.step == 6
    again.run()
    assert same(whole.asr.model.state_dict(), again.asr.model.state_dict())


def recipe(steps: int) -> PruneRecipe:
    values = {
        "optimizer": {"steps": steps, "peak_lr": 5e-3},
        "data": {"max_seconds": 1.5, "prefetch": 0},
        "evaluation": {"every": 2, "utterances": 1, "keep_best": 1},
        "checkpoint_every": 3,
        "calibration_batches": 1,
    }
    return PruneRecipe.model_validate(values)


def pruned(model: Path, data: Path, out: Path, steps: int = 4, **options: Any) -> TrainingState:
    return prune(model, data, out, method="dynamic", sparsity=0.7, recipe=recipe(steps), **options)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    with (tmp_path / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PathwaysError, match=f"^{tmp_path}: another run is training there: wait for it, or choose"):
            pruned(dense_model, speech, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    pruned(dense_model, speech, tmp_path)  # what a dead process has left keeps nobody out
    assert not (tmp_path / ".lock").exists()


def test_what_killed_writers_left_goes_and_other_files_stay(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    best = tmp_path / "checkpoints" / "step-0000002"
    left = [tmp_path / ".history.tmp-a1b2c3d4.json", tmp_path / "checkpoints" / ".last.tmp-a1b2c3d4.pt"]
    left += [best / ".model.tmp-a1b2c3d4.safetensors", tmp_path / ".pathways.tmp-a1b2c3d4" / "masks.safetensors"]
    others = [tmp_path / ".history.original.json", tmp_path / "notes.tmp-a1b2c3d4.txt", tmp_path / ".git" / "config"]
    for path in left + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    pruned(dense_model, speech, tmp_path)
    assert not any(path.exists() for path in left) and not (tmp_path / ".pathways.tmp-a1b2c3d4").exists()
    assert all(path.exists() for path in others)


def test_the_model_of_an_interrupt_does_not_pass_for_the_result(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(4, lambda *_: os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(PathwaysError, match="interrupted at step 3 of 6"):
            pruned(dense_model, speech, tmp_path, 6)
    load_model(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_finish", killed)
        with pytest.raises(Killed):
            pruned(dense_model, speech, tmp_path, 6, resume=True)
    assert [entry["step"] for entry in json.loads((tmp_path / "history.json").read_text())] == [2, 4, 6]
    with pytest.raises(PathwaysError, match=r"not a model folder: it has no config.json"):
        load_model(tmp_path)
    pruned(dense_model, speech, tmp_path, 6, resume=True)
    load_model(tmp_path)


def test_the_best_model_stays_until_no_checkpoint_names_it(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was removed when a better one came, and a run killed then had none to go back to."""
    config = loop_config(4, checkpoint_every=2, keep_last=1, evaluation=EvaluationConfig(every=1, keep_best=1))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 4), tmp_path, config)
    folders: list[list[str]] = []
    keep, rates = TrainingLoop._keep, iter([0.9, 0.8, 0.7, 0.6])

    def noted(self: TrainingLoop, step: int, wer: float) -> None:
        keep(self, step, next(rates))
        folders.append(sorted(folder.name[-1] for folder in (tmp_path / "checkpoints").glob("step-*")))

    monkeypatch.setattr(TrainingLoop, "_keep", noted)
    loop.run()
    assert folders == [["1"], ["1", "2"], ["2", "3"], ["2", "3", "4"]]
    assert [folder.name[-1] for folder in (tmp_path / "checkpoints").glob("step-*")] == ["4"]
