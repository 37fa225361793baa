from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.training.state import (
    DamagedCheckpoint,
    TrainingState,
    last_checkpoint,
    read_checkpoint,
    read_last_checkpoint,
    write_checkpoint,
)
from tests.conftest import make_model
from tests.training.helpers import loop_config, make_loop, recognizer_for, same


def test_a_checkpoint_comes_back_with_the_random_numbers(tmp_path: Path) -> None:
    state = TrainingState(7, [{"step": 4, "wer": 0.5}], 1, 2, 3.5, [{"step": 4, "wer": {"en": 0.5}}])
    parts = {"model": {"a": torch.randn(3)}, "batches": {"step": 7}}
    torch.manual_seed(5)
    write_checkpoint(tmp_path / "new" / "last.pt", state, parts)
    expected = torch.randn(4)
    torch.manual_seed(6)
    found, again = read_checkpoint(tmp_path / "new" / "last.pt")
    assert found == state
    assert same(again, parts)
    assert torch.equal(torch.randn(4), expected)


def broken(path: Path, how: str) -> None:
    write_checkpoint(path, TrainingState(), {"model": {"a": torch.randn(300)}})
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "almost whole":
        path.write_bytes(content[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("no checkpoint\n" * 20)
    elif how == "tensor":
        torch.save(torch.zeros(3), path)
    elif how == "weights":
        torch.save({"a": torch.zeros(3)}, path)
    elif how == "code":
        torch.save({"version": 1, "state": TrainingState()}, path)  # needs code to be unpickled
    elif how == "field":
        torch.save({"version": 1, "state": {"epoch": 3}, "rng": torch.get_rng_state()}, path)
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how", ["truncated", "almost whole", "empty", "text", "tensor", "weights", "code", "field", "folder"]
)
def test_a_broken_or_foreign_checkpoint_is_told_in_one_line(tmp_path: Path, how: str) -> None:
    path = last_checkpoint(tmp_path)
    broken(path, how)
    with pytest.raises(PathwaysError, match=r"checkpoints/last.pt: not a readable checkpoint: .") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "trouble",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_what_ails_the_machine_is_not_laid_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def load(*_: object, **__: object) -> None:
        raise trouble

    write_checkpoint(tmp_path / "checkpoints" / "last.pt", TrainingState(step=1), {}, keep=2)
    write_checkpoint(tmp_path / "checkpoints" / "last.pt", TrainingState(step=2), {}, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", load)
        with pytest.raises(PathwaysError, match=r"last\.pt: cannot read checkpoint: ") as caught:
            read_last_checkpoint(tmp_path)
    assert not isinstance(caught.value, DamagedCheckpoint) and "\n" not in str(caught.value)
    assert read_last_checkpoint(tmp_path)[1].step == 2


def test_a_missing_checkpoint_and_one_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match=r"last.pt: no checkpoint to resume from"):
        read_checkpoint(tmp_path / "last.pt")
    torch.save({"version": 2}, tmp_path / "last.pt")
    with pytest.raises(PathwaysError, match=r"last.pt: a checkpoint of another version of asr-pathways"):
        read_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("written", "resumed", "message"),
    [
        ("dense", "wider", r"a checkpoint of another run: Error\(s\) in loading state_dict for Transducer"),
        ("dense", "dynamic", "a checkpoint of another run: it has no 'pathways'"),
        (
            "dynamic",
            "by blocks",
            "granularity was unstructured, is block:4x1: resume with the config",
        ),
        ("dense", "other data", "the data, the sampling config or the number of batches in a step changed"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, written: str, resumed: str, message: str
) -> None:
    method = "dynamic" if written == "dynamic" else None
    make_loop(speech, recognizer_for(tokenizer, method, 1), tmp_path, loop_config(1)).run()
    config = loop_config(1)
    if resumed == "wider":
        asr = make_model(tokenizer, joiner_dim=20)
    elif resumed == "other data":
        asr = recognizer_for(tokenizer, None, 1)
        config = loop_config(1, data=config.data.model_copy(update={"max_seconds": 1.0}))
    else:
        options = {"granularity": "block:4x1"} if resumed == "by blocks" else {}
        asr = recognizer_for(tokenizer, "dynamic", 1, **options)
    loop = make_loop(speech, asr, tmp_path, config)
    with pytest.raises(PathwaysError, match=message) as caught:
        loop.resume()
    assert "\n" not in str(caught.value)


def test_ranks_that_read_different_checkpoints_are_told(
    tmp_path: Path, speech: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_loop(speech, recognizer_for(tokenizer, None, 1), tmp_path, loop_config(1)).run()
    loop = make_loop(speech, recognizer_for(tokenizer, None, 1), tmp_path, loop_config(1))
    monkeypatch.setattr("asr_pathways.ranks.gather", lambda value, device: [value, value - 1])
    with pytest.raises(PathwaysError, match=r"ranks read checkpoints of different steps \(\[1, 0\]\)"):
        loop.resume()
