from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.files import read_json
from asr_pathways.shrink import plans
from asr_pathways.shrink.command import _more, shrink
from asr_pathways.shrink.planning import Chosen
from tests.models.hub.tiny import whisper

SHORT = plans.Plan(2, 3, 1, (0.5, 0.7), (0.8, 1.2), "nowhere")
NONE = plans.Plan(0, 0, 1, (0.5, 0.5), (1.3, 2.5), "nowhere")


@pytest.fixture(autouse=True)
def short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.shrink.planning.HUB", (SHORT, NONE))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper of random weights."""
    return whisper(tmp_path_factory.mktemp("whisper") / "tiny")


def test_without_time_nothing_is_trained_and_a_bundle_is_there(
    tmp_path: Path, dense: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "so small"
    shrink(dense, speech, out, ["fr", "en"])
    printed = capsys.readouterr()
    assert "plan: 50% sparse in fr, en: refitting on 1 batches a language, no training" in printed.err
    assert "with a budget it is trained, too: about " in printed.err
    assert "time: about" in printed.err and "nan" not in printed.err
    for line in ("dense", "pruned, 50%", "asr-pathways transcribe", "asr-pathways serve", "'so small-fr' --format hf"):
        assert line in printed.out
    recording = re.search(r"transcribe '.+' --language fr (\S+)", printed.out)
    assert recording and Path(recording[1]).is_file()
    bundle = Bundle.open(out / "so small.asrp")
    assert bundle.languages == ("fr", "en")
    assert bundle.config.card.quality.startswith("WER on test: ")
    assert set(bundle.config.scores) == {"fr", "en"}
    state, started = load_model(out / "pruned"), load_model(dense).model.state_dict()
    assert state.pathways is not None and state.pathways.at_target
    assert not (out / "pruned" / "checkpoints").exists()
    assert any((value != started[name]).any() for name, value in state.model.state_dict().items())  # refitted
    with pytest.raises(PathwaysError, match="small: holds a run already: go on with --resume"):
        shrink(dense, speech, out, ["fr", "en"])
    with pytest.raises(PathwaysError, match=r"asked for otherwise: budget 60.0 \(it was 0.0\): cannot resume it"):
        shrink(dense, speech, out, ["en", "fr"], budget=60, resume=True)
    changed = Path(shutil.copytree(speech, tmp_path / "speech"))
    with pytest.raises(PathwaysError, match=r"asked for otherwise: data \S+ \(\w{12}\) \(it was \S+ \(\w{12}\)\)"):
        shrink(dense, changed, out, ["en", "fr"], resume=True)


def test_what_is_done_is_not_done_again(
    tmp_path: Path, dense: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"^{tmp_path}: stopped; go on with --resume"):
        patch.setattr("asr_pathways.shrink.command.prune", _killed)
        shrink(dense, speech, tmp_path, ["fr"], target="size", budget=3600)
    finetuned = (tmp_path / "dense" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    shrink(dense, speech, tmp_path, ["fr"], target="size", budget=3600, resume=True)
    printed = capsys.readouterr()
    assert "plan:" not in printed.err and "finetuned, dense" in printed.out and "pruned, 70%" in printed.out
    assert re.search(r"WER on test: [\d.]+%, dense [\d.]+% \(.* points\), finetuned [\d.]+% \(", printed.out)
    assert (tmp_path / "dense" / "model.safetensors").stat().st_mtime_ns == finetuned
    steps = read_json(tmp_path / "plan.json")["steps"]  # fewer than planned if the machine was slow just now
    assert read_json(tmp_path / "pruned" / "history.json")[-1]["step"] == steps <= 3
    assert Bundle.open(tmp_path / f"{tmp_path.name}.asrp").config.dtype == "int8"


@pytest.mark.parametrize(
    ("steps", "budget", "sparsity", "advice"),
    [
        (0, 0, 0.5, "give it more time (--budget 30m), or give it more speech"),
        (0, 2400, 0.5, "give it more time (--budget 2h), or give it more speech"),
        (600, 1800, 0.7, "give it more time (--budget 2h), or prune less (--target accuracy)"),
        (1000, 8 * 3600, 0.5, "give it more time (--budget 16h), or give it more speech"),
        (2000, 8 * 3600, 0.7, "prune less (--target accuracy)"),
    ],
)
def test_advice_is_what_was_not_done_yet(steps: int, budget: float, sparsity: float, advice: str) -> None:
    asked = {"model": "m", "data": "d", "named": ("fr",), "languages": ("fr",), "target": "size", "budget": budget}
    chosen = {"finetune": 0, "steps": steps, "refit": 8, "sparsity": sparsity, "dtype": "int8", "precision": "32-true"}
    assert _more(Chosen.model_validate({**asked, **chosen})) == advice


def _killed(_: Path, __: Path, out: Path, **___: object) -> None:
    raise Interrupted(f"{out}: stopped; go on with --resume")


def test_a_manifest_is_imported_and_a_pruned_model_refused(tmp_path: Path, dense: Path, speech: Path) -> None:
    rows = tmp_path / "own.tsv"
    audio = sorted((speech / "audio" / "fr").glob("*.flac"))
    splits = ["train"] * (len(audio) - 3) + ["dev", "test", "test"]
    lines = [f"{path}\tun deux\tfr\t{split}" for path, split in zip(audio, splits, strict=True)]
    rows.write_text("\n".join(["audio_filepath\ttext\tlang\tsplit", lines[0]]))
    with pytest.raises(PathwaysError, match="no test utterances of fr, and none in dev"):
        shrink(dense, rows, tmp_path / "out", ["fr"])
    rows.write_text("\n".join(["audio_filepath\ttext\tlang\tsplit", *lines]))
    shrink(dense, rows, tmp_path / "out", ["fr"])  # not on what was imported from the rows before
    assert (tmp_path / "out" / "data" / "corpus.json").exists()
    with pytest.raises(PathwaysError, match="pruned: is pruned already: start from the dense model"):
        shrink(tmp_path / "out" / "pruned", rows, tmp_path / "again", ["fr"])
