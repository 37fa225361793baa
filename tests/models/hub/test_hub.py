"""What holds for every Hugging Face model: the command line works on it, and its folder stays its own."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import close_session
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import app
from asr_pathways.data.batches import Batch, eval_batches, read_cut
from asr_pathways.data.corpus import SPLITS, build_corpus, load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.language_id import choices, fit_identifier
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.transcription import recognize_split
from asr_pathways.training.add_language import add_language
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.prune import prune
from asr_pathways.training.train import train
from tests.models.hub.tiny import MAKERS
from tests.training.helpers import one, rms_of_inputs, same, stopped_before

Maker = Callable[[str], Path]
RECIPE = {
    "optimizer": {"steps": 4, "peak_lr": 1e-3},
    "data": {"max_seconds": 2, "prefetch": 0},
    "evaluation": {"every": 4, "keep_best": 1, "utterances": 1},
    "checkpoint_every": 2,
    "threads": 1,
}
OLD, NEW = 20 * "0a", 20 * "1b"  # commits
KINDS = pytest.mark.parametrize("kind", list(MAKERS))


def recipe(**options: object) -> PruneRecipe:
    return PruneRecipe.model_validate({**RECIPE, **options})


def batches_of(asr: AsrModel, data: Path, language: str) -> list[Batch]:
    cuts = load_cuts(data, "train", [language])
    return list(eval_batches(cuts, asr.tokenizer, max_seconds=3, frontend=asr.model.frontend))


@KINDS
def test_its_loss_in_half_precision_stays_near(kind: str, hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder(kind))
    batch = batches_of(asr, speech, "fr")[0]
    one = batch.target_lengths.clamp(max=1)  # token: fewer than any model's frames
    batch = replace(batch, targets=batch.targets[:, :1], target_lengths=one)
    plain = asr.model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = asr.model.loss(batch)
    half.backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.03, atol=0)
    assert not torch.equal(half, plain)
    gradients = [parameter.grad for parameter in asr.model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@KINDS
def test_the_commands_work_on_it(kind: str, hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    model, run = hub_folder(kind), tmp_path / "run"
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps(RECIPE))
    sound = next((speech / "audio" / "fr").glob("*test-0*.flac"))
    runner = CliRunner()
    words: tuple[object, ...]
    for words in (
        ("evaluate", model, "--data", speech),
        ("prune", model, "--data", speech, "--method", "dynamic", "--sparsity", 0.5, "--config", config, "--out", run),
        ("evaluate", run, "--data", speech, "--json", tmp_path / "scores.json"),
        ("transcribe", run, "--language", "fr-FR", sound, "--format", "json"),
        ("inspect", run),
    ):
        result = runner.invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "Sparsity" in result.output and "IoU of pathways" in result.output
    assert set(json.loads((tmp_path / "scores.json").read_text())["languages"]) == {"en", "fr"}
    pruned = load_model(run)
    assert pruned.pathways is not None and pruned.languages == ("en", "fr")
    assert all(abs(share - 0.5) < 0.01 for share in pruned.pathways.summary().sparsity.values())


@KINDS
def test_transformers_reads_the_folder_that_is_written(kind: str, hub_folder: Maker, tmp_path: Path) -> None:
    asr = load_model(hub_folder(kind))
    with torch.no_grad():
        next(asr.model.network.parameters()).add_(1)
    save_model(tmp_path, asr)
    again = getattr(transformers, type(asr.model.network).__name__).from_pretrained(tmp_path)
    assert same(dict(again.state_dict()), dict(asr.model.network.state_dict()))
    assert same(load_model(tmp_path).model.state_dict(), asr.model.state_dict())


@KINDS
def test_padding_changes_neither_loss_nor_text(kind: str, hub_folder: Maker, speech: Path) -> None:
    if kind == "wav2vec2":
        pytest.skip("group norm sees the padding, in transformers too")
    asr = load_model(hub_folder(kind))
    batch = batches_of(asr, speech, "fr")[-1]
    assert len(batch) > 1 and len(set(batch.feature_lengths.tolist())) > 1
    together = asr.model.decode(batch.features, batch.feature_lengths, "fr")
    total = 0.0
    for row, length in enumerate(batch.feature_lengths.tolist()):
        alone = one(batch, row)
        found = asr.model.decode(alone.features, alone.feature_lengths, "fr")[0]
        # the search of a row that is done goes on until the longest is
        assert found[: len(together[row])] == together[row][: len(found)]
        tokens = int(alone.target_lengths[0]) + (kind == "whisper")
        total += asr.model.loss(alone).item() * tokens
        assert alone.features.shape[1] == length
    tokens = int(batch.target_lengths.sum()) + len(batch) * (kind == "whisper")
    assert asr.model.loss(batch).item() == pytest.approx(total / tokens, rel=1e-4)


PADDED = r"\.subsampling\.|\.(relative_k_proj|depthwise_conv)\."
"""Weights whose inputs count whole: of convolutions with padding of their own, and of tables of positions."""


@KINDS
def test_padding_is_not_in_the_statistics_of_inputs(kind: str, hub_folder: Maker, speech: Path) -> None:
    if kind == "wav2vec2":
        pytest.skip("group norm sees the padding, in transformers too")
    asr = load_model(hub_folder(kind))
    asr.model.load_languages(["fr"])
    batch = batches_of(asr, speech, "fr")[-1]
    together = rms_of_inputs(asr, [batch])
    apart = rms_of_inputs(asr, [one(batch, row) for row in range(len(batch))])
    differ = [n for n, rms in together.items() if not torch.allclose(rms, apart[n], rtol=1e-3, atol=1e-5)]
    assert [name for name in differ if not re.search(PADDED, name)] == []


@pytest.mark.parametrize("kind", ["whisper", "mms"])
def test_resumed_run_is_the_same_run(kind: str, hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    model = hub_folder(kind)
    prune(model, speech, tmp_path / "whole", method="dynamic", sparsity=0.5, recipe=recipe())
    half = recipe(evaluation={"every": 3, "keep_best": 1, "utterances": 1})
    with stopped_before(3):
        prune(model, speech, tmp_path / "parts", method="dynamic", sparsity=0.5, recipe=half)
    prune(model, speech, tmp_path / "parts", method="dynamic", sparsity=0.5, recipe=recipe(), resume=True)
    whole, parts = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    assert whole.pathways is not None and parts.pathways is not None
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert all(same(whole.pathways.mask(language), parts.pathways.mask(language)) for language in ("en", "fr"))


@pytest.mark.parametrize("code", ["fr", "fra", "fr-FR", "<|fr|>", "fr_CA"])
def test_a_language_may_be_written_in_many_ways(code: str, hub_folder: Maker) -> None:
    assert load_model(hub_folder("whisper")).check_languages([code]) == ("fr",)


def test_an_unknown_language_is_told_with_the_known_ones(hub_folder: Maker, speech: Path) -> None:
    with pytest.raises(PathwaysError, match="unknown language 'xx': this model knows en de fr"):
        load_model(hub_folder("whisper")).check_languages(["xx"])


def test_data_without_a_language_that_the_model_knows(hub_folder: Maker) -> None:
    with pytest.raises(PathwaysError, match="the data are in ru, and this model knows en de fr"):
        load_model(hub_folder("whisper")).languages_for(None, ["ru"])


@pytest.fixture(scope="module")
def regional(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech whose languages have regions: en-GB, fr-BE and fr-CA."""
    out = tmp_path_factory.mktemp("regional") / "data"
    with build_corpus(out, []) as corpus:
        for split in SPLITS:
            for number, cut in enumerate(load_cuts(speech, split)):
                code = {"en": "en-GB", "fr": ("fr-BE", "fr-CA")[number % 2]}[cut.supervisions[0].language]
                corpus.add(split, cut.id, code, cut.supervisions[0].text, read_cut(cut))
    return out


@pytest.mark.parametrize(
    ("asked", "codes"),
    [
        (None, ("en-GB", "fr-BE", "fr-CA")),
        (["fr"], ("fr-BE",)),
        (["fr-CA", "eng"], ("fr-CA", "en-GB")),
        (["de"], ("de",)),
    ],
)
def test_languages_have_the_names_that_the_data_give_them(
    asked: list[str] | None, codes: tuple[str, ...], hub_folder: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    present = ["en-GB", "fr-BE", "fr-CA", "ru"]
    model = load_model(hub_folder("whisper"))
    capsys.readouterr()
    assert model.languages_for(asked, present) == codes
    left_out = "" if asked else "left out: ru: this model does not know them\n"
    assert capsys.readouterr().err == left_out


def test_data_of_regions_are_pruned_for_scored_and_identified(
    hub_folder: Maker, regional: Path, tmp_path: Path
) -> None:
    dense = load_model(hub_folder("whisper"))
    assert {one.language for one in decode_split(dense, regional, "test")} == {"en-GB", "fr-BE", "fr-CA"}
    assert {one.language for one in decode_split(dense, regional, "test", ["fr"])} == {"fr-BE"}
    identifier, right = fit_identifier(dense, regional, ["fr-CA", "en"])
    assert identifier.languages == ("en", "fr") == tuple(right["test"])
    assert choices(dense, identifier, ["fr-CA", "en"]) == ("fr", "en")
    none = PruneRecipe.model_validate({**RECIPE, "optimizer": {"steps": 0}})
    prune(hub_folder("whisper"), regional, tmp_path / "run", method="omp", sparsity=0.5, recipe=none)
    pruned = load_model(tmp_path / "run")
    assert pruned.languages == ("en-GB", "fr-BE", "fr-CA")
    assert {one.language for one in decode_split(pruned, regional, "test", ["fr-CA"])} == {"fr-CA"}
    write_bundle(pruned, tmp_path / "m.asrp")
    recognized = recognize_split(Recognizer(tmp_path / "m.asrp"), regional, "test", ["fr-CA"])
    assert {one.language for one in recognized} == {"fr-CA"}


def test_a_region_is_added_as_a_language(hub_folder: Maker, regional: Path, tmp_path: Path) -> None:
    model, run, few = hub_folder("whisper"), tmp_path / "run", PruneRecipe.model_validate(RECIPE)
    prune(model, regional, run, method="dynamic", sparsity=0.5, recipe=few, languages=["en"])
    add_language(run, regional, tmp_path / "more", language="fr-CA", recipe=few)
    assert load_model(tmp_path / "more").languages == ("en-GB", "fr-CA")


def test_training_leaves_out_what_the_model_does_not_know(
    hub_folder: Maker, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with build_corpus(tmp_path / "data", []) as corpus:
        for split in SPLITS:
            for cut in load_cuts(speech, split):
                spoken = cut.supervisions[0]
                code = {"en": "en", "fr": "ru"}[spoken.language]
                corpus.add(split, cut.id, code, spoken.text, read_cut(cut))
    recipe = TrainRecipe.model_validate({**RECIPE, "optimizer": {"steps": 4}})
    train(recipe, tmp_path / "data", tmp_path / "run", init=hub_folder("whisper"))
    assert load_model(tmp_path / "run").languages == ("en",)
    assert "left out: ru: this model does not know them" in capsys.readouterr().err


def test_only_transducers_of_this_package_stream(hub_folder: Maker) -> None:
    from asr_pathways.runtime.streaming import StreamingTransducer

    with pytest.raises(PathwaysError, match="only the transducers of this package stream"):
        StreamingTransducer(hub_folder("hubert"))


def test_a_kind_that_is_not_supported_is_told(tmp_path: Path) -> None:
    transformers.BertConfig(architectures=["BertModel"]).save_pretrained(tmp_path)
    with pytest.raises(PathwaysError, match=r"BertModel is not supported; these are: .*WhisperForConditional"):
        load_model(tmp_path)


@pytest.mark.parametrize("part", ["model.safetensors", "config.json", "tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("kind", ["whisper", "hubert", "parakeet_rnnt"])
def test_a_broken_part_is_one_line(part: str, kind: str, hub_folder: Maker, tmp_path: Path) -> None:
    folder = tmp_path / kind
    shutil.copytree(hub_folder(kind), folder)
    path = folder / part
    if not path.exists():
        pytest.skip("the model has no such file")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(PathwaysError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_missing_tensor_is_not_made_up(kind: str, hub_folder: Maker, tmp_path: Path) -> None:
    folder = tmp_path / kind
    shutil.copytree(hub_folder(kind), folder)
    state = load_file(folder / "model.safetensors")
    lost = next(name for name in state if name.endswith("layer_norm.weight") or "norm_" in name)
    save_file(
        {name: value for name, value in state.items() if name != lost}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(PathwaysError, match=f"lack 1 tensors of the model, such as {lost}"):
        load_model(folder)


EVIL = """
from pathlib import Path
Path("{}").write_text("code of the model ran")
from transformers import {base}
class Evil({base}):
    model_type = "evil"
"""


@pytest.mark.parametrize(
    ("auto", "base", "file"),
    [
        ("AutoConfig", "PretrainedConfig", "config.json"),
        ("AutoModelForSpeechSeq2Seq", "WhisperForConditionalGeneration", "config.json"),
        ("AutoModelForCTC", "Wav2Vec2ForCTC", "config.json"),
        ("AutoTokenizer", "PreTrainedTokenizer", "config.json"),
        ("AutoTokenizer", "PreTrainedTokenizer", "tokenizer_config.json"),
        ("AutoFeatureExtractor", "Wav2Vec2FeatureExtractor", "preprocessor_config.json"),
        ("AutoFeatureExtractor", "Wav2Vec2FeatureExtractor", "processor_config.json"),
        ("AutoProcessor", "Wav2Vec2Processor", "processor_config.json"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_no_code_of_a_model_is_run(
    auto: str, base: str, file: str, known: bool, hub_folder: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("hubert"), folder)
    (folder / "evil.py").write_text(EVIL.replace("{}", str(tmp_path / "owned")).replace("{base}", base))
    for name in {"config.json", file}:
        path = folder / name
        config = json.loads(path.read_text()) if path.is_file() else {}
        if name == file:
            config |= {"auto_map": {auto: "evil.Evil"}}
        if name == "config.json" and not known:
            config |= {"model_type": "evil", "architectures": ["Evil"]}
        path.write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda _: "y")  # transformers asks, where it is not told
    with pytest.raises(PathwaysError, match=f"^{folder}/{file}: asks for code of its own, which is not run$"):
        load_model(folder)
    with monkeypatch.context() as patch:  # nor without our check
        patch.setattr("asr_pathways.models.hub.load.check_configs", lambda _: None)
        with contextlib.suppress(PathwaysError):
            load_model(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("pytorch_model.bin", "names 'pytorch_model.bin': only safetensors files beside it are read"),
        ("../outside.safetensors", "names '../outside.safetensors': only safetensors files beside it are read"),
        ("/tmp/outside.safetensors", "names '/tmp/outside.safetensors': only safetensors files beside it are read"),
        (".hidden.safetensors", "names '.hidden.safetensors': only safetensors files beside it are read"),
        ("there.safetensors/../../outside.safetensors", "names 'there.safetensors/"),
        ("gone.safetensors", "names gone.safetensors, which is not there"),
        (None, "names 'None': only"),
        ({}, "names no files of weights"),
    ],
)
def test_weights_come_from_safetensors_files_of_the_folder(
    shard: object, message: str, hub_folder: Maker, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("hubert"), folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": shard if shard == {} else dict.fromkeys(state, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PathwaysError, match=message):
        load_model(folder)


def test_weights_in_several_files_load(hub_folder: Maker, tmp_path: Path) -> None:
    asr = load_model(hub_folder("hubert"))
    shutil.copytree(hub_folder("hubert"), tmp_path / "hub")
    (tmp_path / "hub" / "model.safetensors").unlink()
    asr.model.network.save_pretrained(tmp_path / "hub", max_shard_size="5kB")  # type: ignore[operator]
    assert (tmp_path / "hub" / "model.safetensors.index.json").is_file()
    found = load_model(tmp_path / "hub").model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in asr.model.state_dict().items())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"num_hidden_layers": 10**6}, "the model is larger than the tensors that there are"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers: 1,000,000,000 is more than a model can have"),
        ("config.json", {"hidden_size": 10**6}, "the model is larger than the tensors that there are"),
        ("config.json", {"num_labels": 10**9}, "num_labels: 1,000,000,000 is more than a model can have"),
        ("config.json", {"architectures": [{}]}, "{} is not supported; these are"),
        ("config.json", {"architectures": 7}, "cannot load this Hugging Face model"),
        ("config.json", {"transformers_weights": "pytorch_model.bin"}, "weights are read from model.safetensors only"),
        ("preprocessor_config.json", {"feature_size": 10**12}, "feature_size: 1,000,000,000,000 is more than a model"),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused_at_once(
    file: str, change: dict[str, object], message: str, hub_folder: Maker, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("hubert"), folder)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    began = time.process_time()
    with pytest.raises(PathwaysError, match=message):
        load_model(folder)
    assert time.process_time() - began < 5


def test_a_missing_model_is_one_line() -> None:
    with pytest.raises(PathwaysError, match="no such model folder"):
        load_model("nowhere")
    with pytest.raises(PathwaysError, match="nobody/nothing: the hub cannot be reached, and its cache"):
        load_model("nobody/nothing")


@pytest.mark.parametrize("kind", ["whisper", "mms", "parakeet_tdt"])
def test_is_finetuned(kind: str, hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    config = TrainRecipe.model_validate({**RECIPE, "optimizer": {"steps": 20, "peak_lr": 5e-3}})
    state = train(config, speech, tmp_path / "run", init=hub_folder(kind))
    assert state.step == 20
    before, after = load_model(hub_folder(kind)), load_model(tmp_path / "run")
    assert after.languages == ("en", "fr") and after.card.attribution == ("Sines by nobody",)
    losses = []
    for asr in (before, after):
        asr.model.load_languages(["fr"])
        losses.append(asr.model.loss(batches_of(asr, speech, "fr")[0]).item())
    assert losses[1] < losses[0]
    with pytest.raises(PathwaysError, match="no 'de' in split"):
        train(config, speech, tmp_path / "other", init=hub_folder(kind), languages=["de"])


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of the hub's library, empty; there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_retries_of_a_hub_that_is_not_reached_are_one_line(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    tried: list[float] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: shown.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [handler])
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", tried.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    close_session()  # the next one has that proxy
    with pytest.raises(PathwaysError, match="nobody/nothing: the hub cannot be reached"):
        load_model("nobody/nothing")
    assert len(tried) > 1 and not shown
    assert capsys.readouterr().err == "nobody/nothing: the hub does not answer; trying again for half a minute\n"
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
    assert shown == ["Retrying in 1s"]  # other users of the library see theirs
    close_session()


def test_a_model_of_the_hub_is_of_one_revision(
    hub_folder: Maker, hub_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a cache in which the hub's library keeps two revisions."""
    kept = hub_cache / "models--someone--model"
    for number, commit in enumerate((OLD, NEW)):
        folder = kept / "snapshots" / commit
        shutil.copytree(hub_folder("wav2vec2"), folder)
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: torch.full_like(value, number) for name, value in weights.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        (kept / ".no_exist" / commit).mkdir(parents=True)
        (kept / ".no_exist" / commit / "asr_pathways.json").touch()
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(NEW)
    (kept / "refs" / "v1").write_text(OLD)
    for name, value in (("someone/model", 1), (f"someone/model@{OLD}", 0), ("someone/model@v1", 0)):
        assert max(float(weight.detach().max()) for weight in load_model(name).model.parameters()) == value
    assert load_model(f"someone/model@{OLD}").card.base == "someone/model"
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("someone/model")] == [
        f"someone/model: revision {NEW}; MODEL someone/model@{NEW} is always this one",
        f"someone/model@v1: revision {OLD}; MODEL someone/model@{OLD} is always this one",
    ]
    shutil.rmtree(kept / ".no_exist")  # another program fetched it, and nobody knows whether it was pruned
    load_model(f"someone/model@{OLD}")
    unknown = f"someone/model@{OLD}: the hub cannot be reached, and the cache does not show"
    assert unknown in capsys.readouterr().err


def test_a_pruned_model_on_the_hub_comes_with_its_pathways(
    hub_folder: Maker, dense_model: Path, speech: Path, hub_cache: Path
) -> None:
    for name, model in (("theirs", hub_folder("wav2vec2")), ("ours", dense_model)):
        kept = hub_cache / f"models--someone--{name}"
        folder = kept / "snapshots" / NEW
        prune(model, speech, folder, method="adaptive", sparsity=0.5, recipe=recipe())
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(NEW)
        fetched, pruned = load_model(f"someone/{name}").pathways, load_model(folder).pathways
        assert fetched is not None and pruned is not None
        assert fetched.summary() == pruned.summary() and fetched.summary().union_density < 1


def test_batch_normalisation_keeps_the_statistics_of_the_checkpoint(hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder("parakeet_ctc"))
    buffers = {name: tensor.clone() for name, tensor in asr.model.named_buffers() if "running" in name}
    assert buffers
    asr.model.train()
    for batch in batches_of(asr, speech, "en"):
        asr.model.loss(batch)
    now = dict(asr.model.named_buffers())
    assert all(torch.equal(now[name], tensor) for name, tensor in buffers.items())


def test_a_model_without_a_classifier_says_so(hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder("parakeet_rnnt"))
    with pytest.raises(PathwaysError, match="has no classifier"):
        asr.model.prediction_lengths(batches_of(asr, speech, "en")[0])
