"""Broken utterances cost a run those utterances: it tells of them, lists them, and goes on alike after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from asr_pathways.data.corpus import build_corpus
from asr_pathways.data.left_out import LeftOut, Unfit
from asr_pathways.errors import PathwaysError
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import EvaluationConfig, LoopConfig, PruneRecipe, TrainRecipe
from asr_pathways.training.loop import LEFT_OUT
from asr_pathways.training.prune import prune
from asr_pathways.training.train import train
from tests.conftest import LANGUAGES, PIECES, spoken
from tests.models.hub.tiny import whisper
from tests.training.helpers import loop_config, on_loss

BROKEN = {"en-train-3", "en-train-8", "fr-train-1", "fr-dev-1"}


def die(*_: object) -> None:
    raise MemoryError


@pytest.fixture
def broken(tmp_path: Path, speech: Path) -> Path:
    """A data folder with three files that cannot be read, and one that is too short."""
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    for name in BROKEN:
        path = data / "audio" / name[:2] / f"{name}.flac"
        path.write_bytes(path.read_bytes()[: 200 if name.startswith("en") else 0])
    return data


def recipe(**options: object) -> PruneRecipe:
    scored = EvaluationConfig(every=4, keep_best=2)
    values = loop_config(20, evaluation=scored).model_dump() | {"calibration_batches": 1, "max_bad_losses": 0}
    return PruneRecipe.model_validate(values | options)


def listed(out: Path) -> dict[str, str]:
    found = json.loads((out / LEFT_OUT).read_text())
    assert isinstance(found, dict)
    return found


def test_a_run_leaves_out_what_is_broken_and_lists_it(
    dense_model: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    prune(dense_model, broken, out, method="dynamic", sparsity=0.5, recipe=recipe())
    assert listed(out).keys() == BROKEN
    said = capsys.readouterr().err.splitlines()
    (place,) = [
        number for number, line in enumerate(said) if line.endswith(f"cannot be used: 4; {out / LEFT_OUT} lists them")
    ]
    assert sorted(said[place + 1 :]) == sorted(f"  {reason}" for reason in listed(out).values())
    assert sum(line.startswith("left out: utterance en-train-3: ") for line in said[:place]) == 1


def test_a_dense_run_does_too_and_gives_up_beyond_the_limit(broken: Path, tmp_path: Path) -> None:
    values = recipe().model_dump(include=set(LoopConfig.model_fields))
    config = TrainRecipe.model_validate(values | {"model": {"vocab_size": PIECES}})
    strict = config.model_copy(update={"data": config.data.model_copy(update={"max_left_out": 3})})
    with pytest.raises(PathwaysError, match=r"4 utterances cannot be used, giving up \(max_left_out: 3\)"):
        train(strict, broken, tmp_path / "strict")
    short = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"steps": 2})})
    train(short, broken, tmp_path / "run")
    assert listed(tmp_path / "run").keys() <= BROKEN


def test_a_run_that_goes_on_knows_what_was_left_out(
    dense_model: Path, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path, resume: bool = False) -> None:
        prune(dense_model, broken, out, method="dynamic", sparsity=0.5, recipe=recipe(), resume=resume)

    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(12, die))
        with pytest.raises(MemoryError):
            run(tmp_path / "run")
    assert listed(tmp_path / "run").keys() <= BROKEN
    run(tmp_path / "run", resume=True)
    for name in ("model.safetensors", "history.json", "pathways/masks.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert listed(tmp_path / "run").keys() == BROKEN
    strict = recipe().model_copy(update={"data": recipe().data.model_copy(update={"max_left_out": 3})})
    with pytest.raises(PathwaysError, match=r"4 utterances cannot be used, giving up \(max_left_out: 3\)"):
        prune(dense_model, broken, tmp_path / "run", method="dynamic", sparsity=0.5, recipe=strict, resume=True)
    (tmp_path / "run" / LEFT_OUT).write_text("[]")
    with pytest.raises(PathwaysError, match=r"left_out.json: not utterances with reasons: remove it"):
        run(tmp_path / "run", resume=True)


def data_with_long(out: Path, long: dict[str, tuple[str, ...]]) -> Path:
    """Of each language four utterances to train on and one in dev, and in the splits ``long`` names as many too long.

    `whisper` has a window of 1.2 s, and a long utterance has 1.5.
    """
    with build_corpus(out, [{"name": "sines", "licence": "none", "attribution": "none"}]) as corpus:
        for language in LANGUAGES:
            for split, count in (("train", 4), ("dev", 1)):
                for index in range(count):
                    words = ["one" if language == "en" else "un"] * (10 if split in long.get(language, ()) else 3)
                    corpus.add(split, f"{language}-{split}-{index}", language, "a", spoken(words, language, index))
        corpus.add("train", "long", "en", "a", spoken(["one"] * 10, "en", 1))
    return out


def test_what_does_not_fit_the_model_is_left_out_however_much_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = whisper(tmp_path / "whisper"), data_with_long(tmp_path / "data", {"fr": ("dev",)})
    config = {"max_left_out": 0, "max_seconds": 3, "speed_factors": [1.0], "prefetch": 0}
    values = recipe().with_steps(2).model_dump() | {"data": config, "refit_batches": 1}
    prune(model, data, tmp_path / "run", method="dynamic", sparsity=0.5, recipe=PruneRecipe.model_validate(values))
    assert listed(tmp_path / "run").keys() == {"long", "fr-dev-0"}
    said = capsys.readouterr().err
    assert f"{data}, train: left out: utterance long: 1.5 s of audio: Whisper's window is 1.2 s: cut it" in said
    assert f"{data}, dev: left out: utterance fr-dev-0: 1.5 s" in said
    assert f"{data}: no dev utterances of fr: the model is chosen by the others" in said
    (entry,) = json.loads((tmp_path / "run" / "history.json").read_text())
    assert entry["wer"].keys() == {"en"}


def test_a_language_of_which_nothing_fits_is_named_before_the_first_step(tmp_path: Path) -> None:
    model, data = whisper(tmp_path / "whisper"), data_with_long(tmp_path / "data", {"fr": ("train",)})
    for languages in (None, ["fr"]):
        with pytest.raises(PathwaysError, match=r"none of the .*utterances.* can be used: utterance .*: 1.5 s"):
            prune(model, data, tmp_path / "r", method="omp", sparsity=0.5, recipe=recipe(), languages=languages)
    assert not (tmp_path / "r" / "checkpoints").exists()


def test_what_other_ranks_found_counts_once_all_is_known() -> None:
    left_out = LeftOut(most=1)
    left_out.add("a", PathwaysError("broken"))
    left_out.note({"c": Unfit("long"), "d": Unfit("long")})  # is no sign of a broken disk
    assert left_out.new_reasons() == ["broken", "long", "long"] and len(left_out) == 3
    left_out.update({"a": "broken", "b": "empty"})  # does not end one rank alone
    with pytest.raises(PathwaysError, match=r"empty: 2 utterances cannot be used, giving up \(max_left_out: 1\)"):
        left_out.require_few()
