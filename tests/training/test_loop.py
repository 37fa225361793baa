from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import EvaluationConfig
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.progress import TrainingProgress
from tests.training.helpers import loop_config, make_loop, on_loss, recognizer_for, same


def everything(loop: TrainingLoop) -> dict[str, object]:
    """All that a run leaves: its last checkpoint and the model that it chose."""
    checkpoint = torch.load(loop.checkpoint, weights_only=True)
    checkpoint["state"].pop("seconds")
    written = load_model(loop.out).model.state_dict()
    return {**checkpoint, "written": written, "history": json.loads((loop.out / "history.json").read_text())}


class Crash(Exception):
    """Stands for a power cut."""


def interrupt(number: int) -> Callable[[Transducer, Tensor], None]:
    return lambda model, loss: os.kill(os.getpid(), number)


def crash(model: Transducer, loss: Tensor) -> None:
    raise Crash


@pytest.mark.parametrize(
    ("method", "interrupted"),
    [("dynamic", 8), ("lth", 4), ("parp", 7), (None, None), ("adaptive", None)],
)
def test_a_resumed_run_is_bit_for_bit_the_same(
    tmp_path: Path,
    speech: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    method: str | None,
    interrupted: int | None,
) -> None:
    """Evaluations fall on steps 4, 8 and 11, checkpoints on 5 and 10, stages of ``lth`` on 1 to 6."""
    steps, config = 11, loop_config(11)
    whole = make_loop(speech, recognizer_for(tokenizer, method, steps), tmp_path / "whole", config)
    whole.run()

    first = make_loop(speech, recognizer_for(tokenizer, method, steps), tmp_path / "parts", config)
    with monkeypatch.context() as patch:
        if interrupted:  # in the middle of that step
            patch.setattr(Transducer, "loss", on_loss(interrupted - 1, interrupt(signal.SIGINT)))
            with pytest.raises(PathwaysError, match=f"interrupted at step {interrupted} of 11; go on with --resume"):
                first.run()
        else:
            patch.setattr(Transducer, "loss", on_loss(7, crash))
            with pytest.raises(Crash):
                first.run()
    torch.manual_seed(99)  # another process has other random numbers
    second = make_loop(speech, recognizer_for(tokenizer, method, steps), tmp_path / "parts", config)
    second.resume()
    assert second.state.step == (interrupted or 5)
    second.run()
    ours, theirs = everything(whole), everything(second)
    assert {"model", "optimizer", "rng", "batches", "state"} <= ours.keys() == theirs.keys()
    for part, value in ours.items():
        assert same(value, theirs[part]), part
    assert whole.state.step == 11
    assert [entry["step"] for entry in whole.state.history] == [4, 8, 11]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint_and_a_model(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    loop = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path, loop_config(9))
    monkeypatch.setattr(Transducer, "loss", on_loss(2, interrupt(number)))
    with pytest.raises(PathwaysError, match=r"interrupted at step 3 of 9; go on with --resume, or use .* as it is"):
        loop.run()
    assert loop.asr.pathways is not None
    assert loop.asr.pathways.steps == 3  # the step that was going on was finished, and its clocks too
    model = load_model(tmp_path)
    assert model.pathways is not None
    assert same(model.model.state_dict(), loop.asr.model.state_dict())
    assert same(model.pathways.mask("fr"), loop.asr.pathways.mask("fr"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_an_interrupt_is_heard_between_dev_batches_and_the_evaluation_is_made_up_for(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path, loop_config(9))
    before = Transducer.decode
    decoded = []

    def decode(self: Transducer, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        decoded.append(len(features))
        os.kill(os.getpid(), signal.SIGINT)
        return before(self, features, lengths, language)

    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "decode", decode)
        with pytest.raises(PathwaysError, match="interrupted at step 4 of 9"):
            loop.run()
    assert len(decoded) == 1  # of two batches
    assert loop.state.history == []
    again = make_loop(speech, recognizer_for(tokenizer, "dynamic", 9), tmp_path, loop_config(9))
    again.resume()
    again.run()
    assert [entry["step"] for entry in again.state.history] == [4, 8, 9]


def test_a_second_interrupt_stops_at_once_and_saves_nothing_half_done(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(speech, recognizer_for(tokenizer, None, 9), tmp_path, loop_config(9, checkpoint_every=2))

    def twice(model: Transducer, loss: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Transducer, "loss", on_loss(3, twice))
    with pytest.raises(PathwaysError, match="interrupted at step 3 of 9; go on from the last checkpoint"):
        loop.run()
    assert not (tmp_path / "config.json").exists()
    again = make_loop(speech, recognizer_for(tokenizer, None, 9), tmp_path, loop_config(9))
    again.resume()
    assert again.state.step == 2


def test_an_interrupt_while_the_best_model_is_chosen_loses_nothing(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loop_config(2, evaluation=EvaluationConfig(every=1, utterances=1))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, config)
    plain = Transducer.decode

    def decode(self: Transducer, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        if len(loop.state.history) == 2:  # both evaluations are done: this one is of the mean
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, features, lengths, language)

    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "decode", decode)
        with pytest.raises(PathwaysError, match="interrupted at step 2 of 2; go on from the last checkpoint"):
            loop.run()
    assert not (tmp_path / "config.json").exists()
    again = make_loop(speech, recognizer_for(tokenizer, None, 2), tmp_path, config)
    again.resume()
    trained = torch.load(loop.checkpoint, weights_only=True)["model"]
    assert same(again.asr.model.state_dict(), trained)
    assert not same(loop.asr.model.state_dict(), trained)  # but the mean
    again.run()
    assert load_model(tmp_path).pathways is None


def test_a_dense_run_learns_and_leaves_a_model(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    config = loop_config(30, evaluation=EvaluationConfig(every=15, utterances=2, keep_best=2))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 30), tmp_path, config)
    batch = loop.dev[0]
    before = float(loop.asr.model.loss(batch).detach())
    state = loop.run()
    assert float(loop.asr.model.eval().loss(batch).detach()) < 0.8 * before
    assert state.step == 30
    assert state.bad_losses == 0
    assert state.seconds > 0
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["step"] for entry in history] == [15, 30]
    assert set(history[0]) == {"step", "mean_wer", "mean_cer", "wer"}
    assert set(history[0]["wer"]) == {"en", "fr"}
    assert history[0]["mean_wer"] == pytest.approx(sum(history[0]["wer"].values()) / 2)
    assert same(load_model(tmp_path).model.state_dict(), loop.asr.model.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints",
        "config.json",
        "history.json",
        "model.safetensors",
        "tensorboard",
        "tokenizer.model",
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_masks_are_remembered_and_prunes_told(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    asr = recognizer_for(tokenizer, "dynamic", 12, schedule="linear", prune_stages=2, prune_every=4)
    state = make_loop(speech, asr, tmp_path, loop_config(12)).run()
    kinds = [(event["step"], event["kind"]) for event in state.masks]
    assert [step for step, kind in kinds if kind == "prune"] == [4, 4]  # the first stage fell on step 0
    assert [kind for step, kind in kinds if step > 4] == ["adapt"] * 8
    assert all(0 <= event["changed"] < 1 and event["mean_iou"] <= 1 for event in state.masks)
    told = capsys.readouterr().err
    assert told.count("prune ") == 2 and "adapt " not in told
    assert "; mean IoU 0." in told and "; union density " in told


def not_a_number(model: Transducer, loss: Tensor) -> Tensor:
    return loss * float("nan")


def infinite(model: Transducer, loss: Tensor) -> Tensor:
    return loss + float("inf")


def broken_gradient(model: Transducer, loss: Tensor) -> Tensor:
    return loss + (0 * model.joiner.output.bias).abs().sqrt().sum()  # 0 with a derivative of 0 * infinity


@pytest.mark.parametrize("method", [None, "dynamic", "pathways"])
@pytest.mark.parametrize("trouble", [not_a_number, infinite, broken_gradient])
def test_batches_with_a_broken_loss_are_skipped_and_counted(
    tmp_path: Path,
    speech: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str | None,
    trouble: Callable[[Transducer, Tensor], Tensor],
) -> None:
    monkeypatch.setattr(Transducer, "loss", on_loss(2, trouble))
    loop = make_loop(speech, recognizer_for(tokenizer, method, 5), tmp_path, loop_config(5))
    state = loop.run()
    assert (state.step, state.bad_losses) == (5, 1)
    assert loop.batches.state_dict()["step"] == 6
    assert all(torch.isfinite(value).all() for value in loop.asr.model.state_dict().values())
    line = next(line for line in capsys.readouterr().err.splitlines() if "skipped" in line)
    assert line.startswith("step 2: ")
    assert "-train-" in line  # the name of an utterance


@pytest.mark.parametrize("saved", [True, False])
def test_too_many_broken_losses_stop_the_run(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    config = loop_config(9, max_bad_losses=2, checkpoint_every=2 if saved else 100)
    loop = make_loop(speech, recognizer_for(tokenizer, None, 9), tmp_path, config)
    plain, calls = Transducer.loss, iter(range(100))
    monkeypatch.setattr(
        Transducer, "loss", lambda self, batch: plain(self, batch) * (1 if next(calls) < 3 else float("nan"))
    )
    with pytest.raises(PathwaysError) as caught:
        loop.run()
    message = str(caught.value)
    assert message.startswith("step 3: loss is nan on a batch of ")
    assert "-train-" in message
    assert "that is 3 such batches" in message
    assert (f"the last good checkpoint is {loop.checkpoint}" if saved else "nothing was saved") in message
    assert loop.checkpoint.exists() == saved
    if saved:
        monkeypatch.undo()
        again = make_loop(speech, recognizer_for(tokenizer, None, 9), tmp_path, config)
        again.resume()
        assert again.state.step == 2


def scored(loop: TrainingLoop, rates: list[float]) -> None:
    """Dev scores as scripted, one an evaluation."""
    values = iter(rates)

    def scores(progress: object, shared: bool = True) -> SimpleNamespace:
        return SimpleNamespace(mean_wer=next(values), mean_cer=0.5, languages=[])

    loop.scores = scores  # type: ignore[assignment, method-assign]


def best_folders(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))


def test_the_best_models_are_kept(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    config = loop_config(5, evaluation=EvaluationConfig(every=1, keep_best=2, average=False))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 5), tmp_path, config)
    scored(loop, [0.5, 0.7, 0.4, 0.4, 0.6])
    state = loop.run()
    # Of two that are as good the earlier one comes first.
    assert state.best == [{"step": 3, "wer": 0.4}, {"step": 4, "wer": 0.4}]
    assert best_folders(tmp_path) == ["step-0000003", "step-0000004"]
    chosen = load_model(tmp_path / "checkpoints" / "step-0000003").model.state_dict()
    assert same(load_model(tmp_path).model.state_dict(), chosen)
    assert same(loop.asr.model.state_dict(), chosen)


@pytest.mark.parametrize(("averaged", "taken"), [(0.3, True), (0.4, True), (0.41, False)])
def test_the_mean_of_the_best_models_is_taken_if_it_is_as_good(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, averaged: float, taken: bool
) -> None:
    config = loop_config(4, evaluation=EvaluationConfig(every=1, keep_best=3))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 4), tmp_path, config)
    scored(loop, [0.9, 0.6, 0.4, 0.5, averaged])
    loop.run()
    assert best_folders(tmp_path) == ["step-0000002", "step-0000003", "step-0000004"]
    kept = [load_model(tmp_path / "checkpoints" / name).model.state_dict() for name in best_folders(tmp_path)]
    found = load_model(tmp_path).model.state_dict()
    for name, value in found.items():
        mean = torch.stack([state[name] for state in kept]).mean(dim=0)
        if taken:
            torch.testing.assert_close(value, mean)
        else:
            assert torch.equal(value, kept[1][name])
    assert not same(kept[0], kept[1])


def test_the_last_model_is_the_result_where_a_run_goes_on_so(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer
) -> None:
    """And not the best one of before."""
    often = {"every": 2, "utterances": 1}
    config = loop_config(4, evaluation=often)
    first = make_loop(speech, recognizer_for(tokenizer, None, 4), tmp_path, config)
    first.run()
    assert first.state.best
    config = loop_config(6, evaluation={**often, "choose": "last"})
    loop = make_loop(speech, recognizer_for(tokenizer, None, 6), tmp_path, config)
    loop.resume()
    loop.run()
    last = torch.load(loop.checkpoint, weights_only=True)["model"]
    assert same(load_model(tmp_path).model.state_dict(), last)


def test_models_that_are_not_sparse_yet_are_not_candidates(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    config = loop_config(12, evaluation=EvaluationConfig(every=2, keep_best=2))
    asr = recognizer_for(tokenizer, "imp", 12, prune_every=1)  # stages at steps 0 to 5
    loop = make_loop(speech, asr, tmp_path, config)
    scored(loop, [0.1, 0.2, 0.5, 0.4, 0.6, 0.7])
    state = loop.run()
    assert [entry["step"] for entry in state.best] == [8, 6]
    assert [round(entry["sparsity"], 3) for entry in state.history] == [0.488, 0.672, 0.7, 0.7, 0.7, 0.7]
    written = load_model(tmp_path)
    assert written.pathways is not None
    assert written.pathways.steps == 8  # weights and masks of the best step, clocks too
    best = load_model(tmp_path / "checkpoints" / "step-0000008")
    assert same(written.model.state_dict(), best.model.state_dict())


def test_training_stops_when_nothing_gets_better(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    config = loop_config(20, evaluation=EvaluationConfig(every=1, patience=3, average=False))
    loop = make_loop(speech, recognizer_for(tokenizer, None, 20), tmp_path, config)
    scored(loop, [0.5, 0.6, 0.4, 0.4, 0.5, 0.41])
    state = loop.run()
    assert (state.step, state.stale) == (6, 3)
    assert load_model(tmp_path).pathways is None
    again = make_loop(speech, recognizer_for(tokenizer, None, 20), tmp_path, config)
    again.resume()
    assert again.run().step == 6  # and stays stopped


def test_a_run_of_no_steps_writes_the_model_as_it_is(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    loop = make_loop(speech, recognizer_for(tokenizer, "pathways", 0), tmp_path, loop_config(0))
    before = {name: value.clone() for name, value in loop.asr.model.state_dict().items()}
    assert loop.run().step == 0
    assert same(load_model(tmp_path).model.state_dict(), before)


def test_half_precision_is_refused_where_it_gains_nothing(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("bfloat16 works here")
    monkeypatch.setattr("asr_pathways.training.run.multiplies_bfloat16", lambda: False)
    with pytest.raises(PathwaysError, match="bf16-mixed needs a GPU, or a CPU with AVX512-BF16 or AMX: use 32-true"):
        make_loop(speech, recognizer_for(tokenizer, None, 1), tmp_path, loop_config(1, precision="bf16-mixed"))


@pytest.mark.parametrize("method", [None, "dynamic"])
def test_half_precision_stays_near_and_resumes_bit_for_bit(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    monkeypatch.setattr("asr_pathways.training.run.multiplies_bfloat16", lambda: True)  # torch does it on any CPU
    losses: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    plain, plain_step = Transducer.loss, TrainingProgress.step
    for precision, of_run in losses.items():

        def step(progress: TrainingProgress, number: int, loss: float, *rest: Any, kept: list[float] = of_run) -> None:
            kept.append(loss)
            plain_step(progress, number, loss, *rest)

        monkeypatch.setattr(TrainingProgress, "step", step)
        config = loop_config(6, precision=precision, checkpoint_every=3)
        whole = make_loop(speech, recognizer_for(tokenizer, method, 6), tmp_path / precision, config)
        whole.run()
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]
    assert all(value.dtype != torch.bfloat16 for value in whole.asr.model.state_dict().values())
    monkeypatch.setattr(Transducer, "loss", on_loss(4, crash))
    with pytest.raises(Crash):
        make_loop(speech, recognizer_for(tokenizer, method, 6), tmp_path / "parts", config).run()
    monkeypatch.setattr(Transducer, "loss", plain)
    second = make_loop(speech, recognizer_for(tokenizer, method, 6), tmp_path / "parts", config)
    second.resume()
    assert second.state.step == 3
    second.run()
    assert same(everything(whole), everything(second))


def test_a_full_disk_stops_the_run_in_one_line(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(speech, recognizer_for(tokenizer, None, 4), tmp_path, loop_config(4, checkpoint_every=1))

    def full(*args: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nmore")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(PathwaysError, match=r"last.pt: cannot write checkpoint: \[enforce fail") as caught:
        loop.run()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())
