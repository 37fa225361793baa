"""The command line on tiny data: what each command leaves behind, and what it says when something is wrong."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer

from asr_pathways.cli.main import main
from asr_pathways.data.corpus import SPLITS, spoken_rows
from asr_pathways.runtime import streaming
from asr_pathways.runtime.results import Result, Segment, Word
from tests.models.hub.tiny import whisper

RECIPE = """
model: {preset: tiny, vocab_size: 24}
optimizer: {steps: 2, peak_lr: 1.0e-3}
data: {max_seconds: 2, prefetch: 0}
evaluation: {every: 2, keep_best: 1}
threads: 1
"""
PRUNE_RECIPE = RECIPE.replace("model: {preset: tiny, vocab_size: 24}\n", "")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(PRUNE_RECIPE)
    return path


@pytest.fixture
def spoken_file(speech: Path) -> Path:
    return next((speech / "audio" / "fr").glob("*test-0*.flac"))


@pytest.fixture(scope="module")
def sparse_model(tmp_path_factory: pytest.TempPathFactory, dense_model: Path, speech: Path) -> Path:
    """A pruned MODEL folder: one-shot, no training."""
    from asr_pathways.training.config import PruneRecipe
    from asr_pathways.training.prune import prune

    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 0}, "data": {"max_seconds": 2, "prefetch": 0}})
    out = tmp_path_factory.mktemp("sparse") / "run"
    prune(dense_model, speech, out, method="dynamic", sparsity=0.5, recipe=recipe)
    return out


def test_few_clips_of_a_user_are_pruned_on_with_honest_lines(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for index in range(27):
        language, split = ("en", "fr", "de")[index % 3], ("train", "dev", "test")[max(0, index // 3 - 6)]
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.random.default_rng(index).normal(0, 0.1, 16_000), 16_000)
        row = {"audio_filepath": path.name, "text": "one two", "lang": language, "speaker": "anna"}
        rows.append({**row, "split": "train" if (language, split) == ("de", "dev") else split})
    manifest, data = tmp_path / "own.jsonl", tmp_path / "data"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert run("data", "manifest", data, manifest) == 0
    printed = capsys.readouterr()
    assert "speech" in printed.out and "7 s" in printed.out and "hours" not in printed.out
    for line in (
        "de: no dev utterances: models are chosen by the other languages",
        "de: 2 words in test: differences below 99.1 points of WER are not shown",
        "de: 1 of 1 texts of test are in train too",
        "1 of 1 speakers of test are in train too",
    ):
        assert line in printed.err
    out, quick = tmp_path / "run", tmp_path / "quick.yaml"
    quick.write_text("{optimizer: {steps: 1}, refit_batches: 1, calibration_batches: 1, data: {max_seconds: 2}}")
    again = ("prune", whisper(tmp_path / "w"), "--data", data, "--sparsity", 0.5, "--config", quick, "--out", out)
    assert run(*again) == 0
    printed = capsys.readouterr()
    assert "Pruning (pathways): about" in printed.err and "refitting" in printed.err
    assert "no dev utterances of de: the model is chosen by the others" in printed.err
    assert "WER on dev: " in printed.err and "not usable: more than half" in printed.err and "nan" not in printed.err
    assert "model written; checkpoints removed (" in printed.err.splitlines()[-1]
    assert not (out / "checkpoints").exists()
    assert run(*again, "--resume") == 0
    assert "run: the run has ended, and its model is there" in capsys.readouterr().err
    assert run(*again) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_train_prune_evaluate_transcribe_inspect(
    run: Callable[..., int], tmp_path: Path, speech: Path, spoken_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.yaml").write_text(RECIPE)
    (tmp_path / "prune.yaml").write_text(PRUNE_RECIPE)
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    assert run("train", "--config", tmp_path / "train.yaml", "--data", speech, "--out", dense) == 0
    words = ("--data", speech, "--method", "dynamic", "--sparsity", 0.5, "--config", tmp_path / "prune.yaml")
    assert run("prune", dense, *words, "--out", sparse) == 0
    capsys.readouterr()
    scores, errors = tmp_path / "scores.json", tmp_path / "errors.txt"
    assert run("evaluate", sparse, "--data", speech, "--json", scores, "--errors", errors) == 0
    table = capsys.readouterr().out
    assert "French" in table or "fr" in table
    written = json.loads(scores.read_text())
    assert set(written["languages"]) == {"en", "fr"}
    assert len(written["utterances"]) == 4
    assert "fr-test-0" in errors.read_text()
    assert run("inspect", sparse) == 0
    inspected = capsys.readouterr().out
    assert "50.0" in inspected
    assert "union density" in inspected
    assert run("transcribe", sparse, spoken_file, "--language", "fr", "--format", "json") == 0
    heard = json.loads(capsys.readouterr().out)
    assert heard["language"] == "fr"
    assert heard["duration"] == pytest.approx(0.3)


@pytest.mark.parametrize("option", ["--json", "--errors"])
def test_where_nothing_can_be_written_nothing_is_recognised_first(
    run: Callable[..., int],
    tmp_path: Path,
    speech: Path,
    sparse_model: Path,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("asr_pathways.model_folder.decode.decode_split", lambda *_: pytest.fail("recognised"))
    assert run("evaluate", sparse_model, "--data", speech, option, tmp_path) == 1
    assert capsys.readouterr().err.endswith(f"asr-pathways: {tmp_path}: cannot write: Is a directory\n")
    assert run("bench", "--json", tmp_path) == 1
    assert capsys.readouterr().err == f"asr-pathways: {tmp_path}: cannot write: Is a directory\n"


def test_streaming_gives_the_same_words_as_the_whole_file(
    run: Callable[..., int], sparse_model: Path, spoken_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", sparse_model, spoken_file, "--language", "fr", "--format", "json") == 0
    whole = capsys.readouterr().out
    assert run("transcribe", sparse_model, spoken_file, "--language", "fr", "--format", "json", "--stream") == 0
    assert capsys.readouterr().out == whole


def test_captions_show_the_times_of_words(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, sparse_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = (Word("un", 0.0, 0.5), Word("deux", 0.5, 1.0))
    recognised = Result("un deux", "fr", (Segment("un deux", 0.0, 1.0, "fr", spoken),), 1.0)
    monkeypatch.setattr("asr_pathways.runtime.recognizer.Recognizer.transcribe", lambda *_, **options: recognised)
    for format in ("srt", "vtt"):
        words = ("transcribe", sparse_model, "a.wav", "--language", "fr", "--format", format)
        assert run(*words) == run(*words, "--words") == 0
        plain, timed = capsys.readouterr().out.split("1.000\nun deux\n" if format == "vtt" else "1,000\nun deux\n")
        assert "<u>" not in plain and "<u>un</u> deux" in timed and "un <u>deux</u>" in timed


def test_speech_without_transcripts_becomes_speech_to_train_on(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    sparse_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = Segment("Un deux.", 0.0, 1.0, "fr"), Segment("trois", 1.5, 2.25, "fr")
    recognised = Result("Un deux. trois", "fr", (first, second), 3.0)
    monkeypatch.setattr("asr_pathways.runtime.recognizer.Recognizer.transcribe", lambda *_, **options: recognised)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    monkeypatch.chdir(tmp_path)
    assert run("transcribe", sparse_model, "a.wav", "--language", "fr", "--format", "manifest") == 0
    (tmp_path / "more").mkdir()  # rows hold whatever their list lies in
    (tmp_path / "more/rows.jsonl").write_text(capsys.readouterr().out, encoding="utf-8")
    assert run("data", "manifest", tmp_path / "data", "more/rows.jsonl") == 0
    rows = {split: list(spoken_rows(tmp_path / "data", split)) for split in SPLITS}
    assert rows == {"train": [("fr", "un deux", None, 1.0), ("fr", "trois", None, 0.75)], "dev": [], "test": []}
    assert run("transcribe", sparse_model, "-", "--language", "fr", "--format", "manifest", "--stream") == 1
    assert "--format manifest: rows name files" in capsys.readouterr().err


def test_a_beam_and_phrases_reach_the_search(
    run: Callable[..., int],
    sparse_model: Path,
    spoken_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[int, tuple[str, ...], float]] = []

    class Seen(streaming.StreamingTransducer):
        def __init__(self, *words: object, **options: object) -> None:
            super().__init__(*words, **options)  # type: ignore[arg-type]
            opened.append((self._beam, self._phrases, self._bonus))

    monkeypatch.setattr(streaming, "StreamingTransducer", Seen)
    phrases = spoken_file.with_name("phrases.txt")
    phrases.write_text("cinq\nun deux\n", encoding="utf-8")
    words = ("transcribe", sparse_model, spoken_file, "--language", "fr", "--format", "json", "--stream", "--beam", 3)
    assert run(*words) == run(*words, "--phrases", phrases) == 0
    assert opened == [(3, (), 2.0), (3, ("cinq", "un deux"), 2.0)]
    assert [json.loads(line)["language"] for line in capsys.readouterr().out.splitlines()] == ["fr", "fr"]


def test_standard_input_is_recognised_as_it_comes(
    run: Callable[..., int],
    sparse_model: Path,
    spoken_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, _ = soundfile.read(spoken_file, dtype="int16")
    whole = tuple(samples) * 20
    soundfile.write(spoken_file.with_name("long.wav"), np.array(whole, dtype=np.int16), 16_000)
    assert run("transcribe", sparse_model, spoken_file.with_name("long.wav"), "--language", "fr", "--stream") == 0
    wanted = capsys.readouterr().out
    sound = io.BytesIO(np.array(whole, dtype="<i2").tobytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(sound))
    assert run("transcribe", sparse_model, "-", "--language", "fr", "--stream") == 0
    assert capsys.readouterr().out.split() == wanted.split()
    assert run("transcribe", sparse_model, "-", "--language", "fr") == 1
    assert "standard input is recognised as it comes: add --stream" in capsys.readouterr().err


def test_a_wav_on_standard_input_is_heard_as_the_file(
    run: Callable[..., int],
    sparse_model: Path,
    spoken_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[np.ndarray] = []
    accept = streaming.TransducerStream.accept

    def accepted(self: streaming.TransducerStream, samples: np.ndarray, sample_rate: int = 16_000) -> None:
        assert sample_rate == 8000
        heard.append(samples)
        accept(self, samples, sample_rate)

    monkeypatch.setattr(streaming.TransducerStream, "accept", accepted)
    samples, _ = soundfile.read(spoken_file, dtype="int16")
    wav = io.BytesIO()
    soundfile.write(wav, np.stack([samples, 0 * samples], axis=1), 8000, format="WAV")
    raw = samples.astype("<i2").tobytes()
    words = ("transcribe", sparse_model, "-", "--language", "fr", "--stream")
    for data, more in ((wav.getvalue(), ("--channel", 0)), (raw, ("--rate", 8000, "--encoding", "s16le"))):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert run(*words, *more) == 0
        assert np.array_equal(np.concatenate(heard), samples / np.float32(32768))
        heard.clear()
    flac = io.BytesIO()
    soundfile.write(flac, samples, 8000, format="FLAC")
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(flac.getvalue())))
    assert run(*words) == 1
    one_line(capsys, "-: FLAC: only WAV and raw samples are read as they come")
    assert run("transcribe", sparse_model, spoken_file, "--language", "fr", "--rate", 8000) == 1
    one_line(capsys, "--rate and --encoding are of raw samples on standard input")


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_one_channel_is_transcribed(
    run: Callable[..., int],
    sparse_model: Path,
    spoken_file: Path,
    tmp_path: Path,
    stream: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples, rate = soundfile.read(spoken_file, dtype="int16")
    soundfile.write(tmp_path / "two.wav", np.stack([-samples, samples], axis=1), rate)
    words = ("--language", "fr", *stream)
    assert run("transcribe", sparse_model, spoken_file, *words) == 0
    wanted = capsys.readouterr().out
    assert run("transcribe", sparse_model, tmp_path / "two.wav", *words, "--channel", 1) == 0
    assert capsys.readouterr().out == wanted
    assert run("transcribe", sparse_model, tmp_path / "two.wav", *words) == 1
    one_line(capsys, "two.wav: its channels cancel each other when they are averaged: choose one (channel)")
    assert run("transcribe", sparse_model, tmp_path / "two.wav", *words, "--channel", 2) == 1
    one_line(capsys, "two.wav: no channel 2: it has 2, counted from 0")


def test_a_wav_of_another_rate_and_two_channels_is_transcribed(
    run: Callable[..., int], sparse_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.zeros((8000, 2), dtype=np.float32), 8000)
    assert run("transcribe", sparse_model, path, "--language", "en", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["duration"] == pytest.approx(1.0)


def one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Nothing on stdout; stderr ends in one line with ``parts`` and shows no traceback."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    lines = printed.err.strip().splitlines()
    assert lines[-1].startswith("asr-pathways: ")
    for part in parts:
        assert part in lines[-1]


def test_output_is_utf8_whatever_the_locale(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dense_model: Path
) -> None:
    named = tmp_path / "съешь[x]\udcff"  # a name that is not UTF-8
    named.symlink_to(dense_model)
    for encoding in ("ascii", "cp1252", "utf-16"):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", streams[0])
            patch.setattr("sys.stderr", streams[1])
            assert run("transcribe", dense_model, named / "no.wav", "--language", "fr") == 1
            typer.echo("съешь \udcff")
            for stream in streams:
                stream.flush()
        assert streams[0].buffer.getvalue().decode() == "съешь \\udcff\n"  # type: ignore[attr-defined]
        assert "съешь[x]\\udcff/no.wav: no such audio file" in streams[1].buffer.getvalue().decode()  # type: ignore[attr-defined]


def test_memory_that_is_not_there_is_one_line(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, dense_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object) -> None:
        torch.empty(2**45)

    monkeypatch.setattr("asr_pathways.bundle.load.load_model", load)
    assert run("inspect", dense_model) == 1
    one_line(capsys, "asr-pathways: out of memory: ", "DefaultCPUAllocator")

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("asr_pathways.bundle.load.load_model", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("inspect", dense_model)


def test_wrong_options_are_misuse_with_status_2(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate") == 2
    assert run("prune", "x", "--nonsense") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing(
    run: Callable[..., int],
    tmp_path: Path,
    dense_model: Path,
    speech: Path,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / "out"
    out.mkdir()
    words = ("--data", speech, "--method", "omp", "--sparsity", "0.5", "--config", recipe)
    assert run("prune", dense_model, *words, "--out", out / "run") == 1
    one_line(capsys, "No space left on device")
    assert run("evaluate", dense_model, "--data", speech, "--json", out / "scores.json") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert run("data", "merge", out / "data", speech) == 1
    one_line(capsys, "No space left on device")
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asr_pathways.cli.main._debug", False)
    monkeypatch.setattr(sys, "argv", ["asr-pathways", "--debug", "inspect", str(tmp_path / "missing")])
    from asr_pathways.errors import PathwaysError

    with pytest.raises(PathwaysError, match="no such model folder"):
        main()


def test_help_names_what_to_install(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are markup in help texts, unless escaped."""
    assert run("data", "synth", "--help") == 0
    assert "'asr-pathways[synth]'" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, asr_pathways.cli.main, asr_pathways; "
        "print([m for m in ('torch', 'lhotse', 'numpy', 'matplotlib', 'lightning_fabric') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_takes_long_prints_a_line_before_it_imports_torch() -> None:
    commands = [
        "train --config r.yaml --data d --out run",
        "prune m --data d --sparsity 0.5 --out run",
        "add-language m --language it --data d --out run",
        "evaluate m --data d",
        "identify m --data d",
        "experiment r.yaml",
        "shrink m --languages fr,it --data d --out run",
        "demo --model m --out run",
    ]
    script = f"""
import sys
from unittest import mock
from asr_pathways.cli.main import app
for command in {commands}:
    with mock.patch("typer.echo", side_effect=InterruptedError) as first:
        try:
            app(command.split(), standalone_mode=False)
        except InterruptedError:
            print(first.call_args.args[0], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "run: training by r.yaml False",
        "run: pruning m False",
        "run: adding it to m False",
        "m: recognising d, test False",
        "m: encoding d False",
        "r.yaml: reading False",
        "run: making m small in fr, it False",
        "run: reading m False",
    ]


def test_the_demo_of_a_model_of_the_hub_has_its_own_kind(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "asr_pathways.experiment.hub_demo.run_hub_demo", lambda *words, **options: called.append((*words, options))
    )
    model, out = whisper(tmp_path / "whisper"), tmp_path / "demo"
    assert run("demo", "--model", model, "--out", out) == 0
    assert called == [(model, out, {"source": None})]
    assert run("demo", "--model", model, "--out", out, "--fast") == 1
    assert "--fast is of models of this package" in capsys.readouterr().err and len(called) == 1
