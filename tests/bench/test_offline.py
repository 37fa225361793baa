from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_pathways.bench import offline, rivals, whisper_onnxruntime
from asr_pathways.bench.clips import PAUSE, make_clips
from asr_pathways.bench.ggml import MAGIC, write_ggml
from asr_pathways.bench.models import sound
from asr_pathways.bench.recognizers import OURS
from asr_pathways.bench.rivals import RIVALS, missing_packages, prepare, write_dense
from asr_pathways.bench.whisper_torch import greedy
from asr_pathways.bench.worker import Answer, Worker
from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import main
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.corpus import build_corpus, load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub import whisper as whisper_module
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.models.hub.tiny import hubert, parakeet_ctc, whisper
from tests.recognition import decoded


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper of short windows, which ends some of its transcripts."""
    folder = whisper(tmp_path_factory.mktemp("dense") / "w")
    asr = load_model(folder)
    asr.model.train_on_short_windows()
    asr.card = asr.card.model_copy(update={"languages": ("fr",)})
    save_model(folder, asr)
    return folder


@pytest.fixture(scope="module")
def sparse(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, pruned for two languages."""
    asr = load_model(dense)
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr")})
    asr.pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.5), ["en", "fr"])
    folder = tmp_path_factory.mktemp("sparse") / "w"
    folder.mkdir()
    save_model(folder, asr)
    return folder


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals have no guards, and a random model loops."""
    monkeypatch.setattr(whisper_module, "loop_end", lambda tokens: None)
    monkeypatch.setattr(whisper_module, "varied", lambda tokens, text_of: len(tokens))
    monkeypatch.setattr(whisper_onnxruntime, "windows", lambda samples, seconds: np.array_split(samples, 3))
    monkeypatch.setattr(whisper_module, "is_silence", lambda no_speech, log_probability: False)


def suppress(asr: AsrModel, tokens: list[int]) -> None:
    """Tokens that do not come first."""
    model: Any = asr.model
    model.network.generation_config.begin_suppress_tokens = tokens
    model._never_first = [*model._never, *tokens]


def recordings() -> list[Samples]:
    return [sound(seconds) * level for seconds, level in ((1.0, 1.0), (0.43, 0.1), (1.2, 3.0))]


@pytest.mark.parametrize("padding", ["window", "longest"])
def test_a_loop_over_layers_finds_what_the_model_decodes(dense: Path, padding: str, unguarded: None) -> None:
    asr = load_model(dense)
    model: Any = asr.model.eval()
    model.network.config.padding = padding
    suppress(asr, decoded(asr, recordings()[0], "fr")[:1])
    first: list[bool] = []
    for samples in recordings():
        features = model.frontend(samples)[None]
        found = greedy(model, features, torch.tensor([features.shape[1]]), "fr", lambda: first.append(True))
        assert found == decoded(asr, samples, "fr")[: len(found)] and len(found) > 1  # rivals stop at a rate
    assert first == [True] * 3


def test_onnxruntime_finds_what_the_model_decodes(dense: Path, tmp_path: Path, unguarded: None) -> None:
    pytest.importorskip("onnxruntime")
    from asr_pathways.bench.whisper_onnxruntime import OnnxWhisper

    asr = load_model(dense)
    place = prepare("onnxruntime float32", dense, "fr", tmp_path)
    search = json.loads((place / "search.json").read_text())
    for padding in ("longest", "window"):
        asr.model.network.config.padding = padding  # type: ignore[union-attr]
        suppressed = decoded(asr, recordings()[0], "fr")[:1]
        suppress(asr, suppressed)
        changed = {"short_windows": padding == "longest", "suppressed_first": suppressed}
        (place / "search.json").write_text(json.dumps({**search, **changed}))
        recognizer = OnnxWhisper(place, 1)
        recognizer.load()
        for samples in recordings():
            found = recognizer.tokens(samples, lambda: None)
            assert found == decoded(asr, samples, "fr")[: len(found)] and found
    quantized = OnnxWhisper(prepare("onnxruntime int8", dense, "fr", tmp_path), 1)
    quantized.load()
    assert quantized.transcribe(sound(3.0), lambda: None)  # in three windows
    assert b"MatMulInteger" in (tmp_path / "onnxruntime-int8" / "decoder.onnx").read_bytes()


@pytest.mark.parametrize("make", [hubert, parakeet_ctc])
def test_onnxruntime_finds_what_ctc_models_decode(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from asr_pathways.bench.ctc_onnx import OnnxCtc

    folder = make(tmp_path / "m")
    asr = load_model(folder)
    recognizer = OnnxCtc(prepare("onnxruntime float32", folder, "fr", tmp_path), 1, "fr")
    recognizer.load()
    for samples in recordings():
        expected = asr.tokenizer.decode(decoded(asr, samples, "fr"), "fr")
        assert recognizer.transcribe(samples, lambda: None) == expected != ""


def test_a_file_of_whisper_cpp_has_all_tensors_and_pieces(dense: Path, tmp_path: Path) -> None:
    asr = load_model(dense)
    write_ggml(asr, tmp_path / "model.bin")
    data = (tmp_path / "model.bin").read_bytes()
    place = 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal place
        place += struct.calcsize(form)
        return struct.unpack_from(form, data, place - struct.calcsize(form))

    magic, vocabulary, positions, width, *_ = take("<12i")
    assert (magic, vocabulary, positions, width) == (MAGIC, asr.model.network.config.vocab_size, 60, 16)  # type: ignore[union-attr]
    bands, bins = take("<2i")
    place += 4 * bands * bins
    pieces = [take(f"<{take('<i')[0]}s")[0] for _ in range(take("<i")[0])]
    assert len(pieces) == 256 and set(pieces) == {bytes([byte]) for byte in range(256)}
    tensors: dict[str, Any] = {}
    while place < len(data):
        count, length, half = take("<3i")
        shape = take(f"<{count}i")[::-1]
        (name,) = take(f"<{length}s")
        tensors[name.decode()] = np.array(take(f"<{np.prod(shape)}{'e' if half else 'f'}")).reshape(shape)
    hub: Any = asr.model.network
    assert len(tensors) == len(hub.model.state_dict())
    query = hub.model.decoder.layers[1].encoder_attn.q_proj.weight.detach()
    assert np.allclose(tensors["decoder.blocks.1.cross_attn.query.weight"], query, atol=1e-3)
    assert tensors["encoder.conv1.bias"].shape == (16, 1)
    assert {"encoder.positional_embedding", "decoder.token_embedding.weight", "encoder.ln_post.weight"} <= set(tensors)
    assert {"encoder.blocks.0.mlp.0.weight", "decoder.blocks.0.attn_ln.bias", "decoder.ln.weight"} <= set(tensors)


class FakeWorker:
    """Notes which system got which recording; a system fails in the call after its last answer."""

    calls: list[tuple[str, str]] = []  # noqa: RUF012 - emptied by the tests
    seconds: dict[str, list[float]] = {}  # noqa: RUF012

    def __init__(self, system: str, place: Path, language: str, threads: int) -> None:
        self.system, self.load, self.left = system, 0.5, list(self.seconds[system])
        if not self.left:
            raise PathwaysError(f"{system}: no weights")

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append((self.system, "end"))

    def transcribe(self, path: Path) -> Answer:
        if not self.left:
            raise PathwaysError(f"{self.system}: out of memory")
        self.calls.append((self.system, path.stem))
        return Answer("un deux", self.left.pop(0), 0.25 if self.system == OURS else None, 100.0 + len(self.left))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(offline, "Worker", FakeWorker)
    monkeypatch.setattr(offline, "ROUNDS", 3)
    monkeypatch.setattr(FakeWorker, "calls", [])
    monkeypatch.setattr(rivals, "find_spec", lambda name: None if name != "torch" else name)
    return FakeWorker


def test_systems_take_turns_and_one_that_fails_is_left_out(
    fake: type[FakeWorker], sparse: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [9.0, *(5 * [2.0] + [4.0]), *(5 * [1.0] + [8.0]), *(5 * [3.0] + [6.0]), 7.0]
    broken = [9.0, 1.0]
    seconds = {OURS: times, "torch float32": times, "torch bfloat16": broken}
    monkeypatch.setattr(fake, "seconds", seconds)
    lines: list[str] = []
    (result,) = offline.measure_offline(sparse, speech, "fr", list(RIVALS), [1], ["2-5", "11"], 1, lines.append)
    assert [line for line in lines if line.startswith("not installed")] == [
        "not installed, and left out: faster-whisper, onnxruntime, whisper.cpp: "
        "pip install faster-whisper onnx onnxscript onnxruntime pywhispercpp"
    ]
    assert result["left_out"] == {
        "faster-whisper": "not installed",
        "onnxruntime": "not installed",
        "whisper.cpp": "not installed",
        "torch bfloat16": "torch bfloat16: out of memory",
    }
    (measured,) = result["results"]
    ours, torch_row = measured["rows"]
    assert (ours["system"], torch_row["system"]) == (OURS, "torch float32")
    assert ours["clips"]["2-5"] == {"seconds": 2.0, "words": 2, "rtf": pytest.approx(2 / 3.5), "first_token_s": 0.25}
    assert ours["clips"]["11"]["seconds"] == 6.0 and torch_row["clips"]["11"]["first_token_s"] is None
    assert ours["bytes"] > 0 and ours["wer"] > 0 and ours["load_s"] == 0.5
    timed = [call for call in fake.calls if call[1].startswith("clip")]
    assert timed[:5] == [
        (OURS, "clip-0"),  # the first of each is not counted
        ("torch float32", "clip-0"),
        ("torch bfloat16", "clip-0"),
        (OURS, "clip-0"),
        ("torch float32", "clip-0"),
    ]
    assert [call for call in timed if call[0] == OURS] == [
        (OURS, f"clip-{index}") for index in (0, *(3 * (0, 1, 2, 3, 4, 5)))
    ]
    assert {call[0] for call in fake.calls if call[1] == "end"} == set(seconds)


def test_our_own_failure_is_no_footnote(
    fake: type[FakeWorker], sparse: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "seconds", {OURS: [], "torch float32": [1.0], "torch bfloat16": [1.0]})
    with pytest.raises(PathwaysError, match="no weights"):
        list(offline.measure_offline(sparse, speech, "fr", ["torch"], [1], ["2-5"], 1, lambda line: None))


def bench(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr("sys.argv", ["asr-pathways", "bench", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


def test_bench_of_a_model_prints_a_row_for_each_system(
    sparse: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(offline, "ROUNDS", 1)
    monkeypatch.setitem(RIVALS, "torch", RIVALS["torch"]._replace(precisions=("float32",)))
    out = tmp_path / "b.json"
    options = ("--data", speech, "--language", "fr", "--against", "torch", "--clips", "1,2", "--utterances", 2)
    assert bench(monkeypatch, sparse, *options, "--json", out) == 0
    printed = capsys.readouterr().out
    assert "torch float32" in printed and "seconds a second" in printed.replace("\n", " ")
    result = json.loads(out.read_text())
    assert set(result) == {
        "machine", "versions", "model", "data", "reference_wer", "rounds", "left_out", "results"
    }  # fmt: skip
    assert result["model"]["sparsity"] == pytest.approx(0.5, abs=0.01) and result["model"]["window"] == "own length"
    assert result["left_out"] == {}
    for row in result["results"][0]["rows"]:
        assert row["wer"] == pytest.approx(result["reference_wer"])  # the same weights, and the same words
        assert row["load_s"] > 0.1 and row["peak_mib"] > 100 and row["bytes"] > 10_000
        assert set(row["clips"]) == {"1", "2"}
        for length, clip in row["clips"].items():
            assert clip["rtf"] == pytest.approx(clip["seconds"] / float(length))
            first = clip["first_token_s"]  # ours does not tell
            assert first is None or 0 < first < clip["seconds"]


def test_a_process_says_why_it_cannot_load(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no-such: no such model folder"):
        Worker(OURS, tmp_path / "no-such", "fr", 1)


def test_a_library_that_is_missing_is_named() -> None:
    assert missing_packages("torch") == ()


def test_a_dense_copy_has_the_zeros_of_one_language(sparse: Path, tmp_path: Path) -> None:
    write_dense(sparse, "fr", tmp_path / "dense")
    asr, expected = load_model(tmp_path / "dense"), load_model(sparse)
    for samples in recordings():
        assert decoded(asr, samples, "fr") == decoded(expected, samples, "fr")


def test_clips_are_the_same_at_every_call(speech: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(speech, "test", ["fr"]))
    clips, again = (make_clips(cuts, ["2-5", "3"]) for _ in range(2))
    assert [clip.length for clip in clips] == 5 * ["2-5"] + ["3"]
    assert [clip.seconds for clip in clips] == 5 * [3.5] + [3.0]  # the utterances are shorter than 2 s
    for one, other in zip(clips, again, strict=True):
        assert np.array_equal(one.samples, other.samples)
    with build_corpus(tmp_path / "d", [{"name": "n", "licence": "none", "attribution": "n"}]) as corpus:
        for index, seconds in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 6.0)):
            corpus.add("test", f"u{index}", "fr", "un", np.full(round(seconds * SAMPLE_RATE), 0.1, np.float32))
    cuts = list(load_cuts(tmp_path / "d", "test"))
    lengths = sorted(clip.seconds for clip in make_clips(cuts, ["2-5"]))
    assert lengths == [2.0, 3.0, 3.5, 4.0, 5.0]
    silent = make_clips(cuts, ["60"])[0].samples == 0
    assert 0 < silent.sum() <= 60 // (1 + PAUSE) * PAUSE * SAMPLE_RATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["m"], "--data: a data folder is needed"),
        (["m", "--data", "d", "--against", "kaldi"], "--against kaldi: the runtimes are faster-whisper, onnxruntime"),
        (["m", "--data", "d", "--clips", "2-9"], "--clips 2-9: numbers with commas between are wanted"),
        (["m", "--data", "d", "--clips", "0"], "--clips 0: between 1 and 36000"),
        (["m", "--data", "d", "--utterances", "0"], "--utterances 0: at least 1"),
        (["m", "--data", "d", "--threads", "1.5"], "--threads 1.5: "),
        (["m", "--data", "d", "--preset", "tiny"], "--preset is without a MODEL only"),
        (["--data", "d"], "--data is of a MODEL: name one"),
        (["m", "--data", "d"], "m: no such model folder"),
    ],
)
def test_misuse_of_bench_of_a_model_is_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, *options) == 1
    assert message in capsys.readouterr().err


def test_a_model_that_streams_is_refused(
    dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, dense_model, "--data", speech) == 1
    assert "streams: asr-pathways bench without a MODEL" in capsys.readouterr().err
