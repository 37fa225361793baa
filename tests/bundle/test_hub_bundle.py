"""Bundles of Hugging Face models: their own files are parts, and the model comes back as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.export.dense_copy import write_dense_copy
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.prunable import matching
from benchmarks import bundle_mutations as mutations
from tests.models.hub.conftest import hub_folder
from tests.pruned import overlapping

pytest.importorskip("transformers")
__all__ = ["hub_folder"]
KINDS = ("whisper", "wav2vec2", "mms", "parakeet_tdt")


def pruned_hub(folder: Path) -> AsrModel:
    asr = load_model(folder)
    network = asr.model.network
    config = PathwayConfig(sparsity=0.6, exclude=matching(network, asr.model.unprunable))
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr")})
    asr.model.load_languages(("en", "fr"))
    asr.pathways = Pathways.attach(network, config, ["en", "fr"])
    overlapping(asr, 0.6)
    return asr


def decoded(asr: AsrModel, data: Path, language: str) -> list[list[int]]:
    cuts = load_cuts(data, "test", [language]).to_eager()
    batch = next(iter(eval_batches(cuts, frontend=asr.model.frontend)))
    with asr.use(language), torch.no_grad():
        return asr.model.decode(batch.features, batch.feature_lengths, language)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back(kind: str, hub_folder: Callable[[str], Path], speech: Path, tmp_path: Path) -> None:
    asr = pruned_hub(hub_folder(kind))
    assert asr.pathways is not None
    write_bundle(asr, tmp_path / "b.asrp", "float32")
    bundle = Bundle.open(tmp_path / "b.asrp")
    bundle.verify()
    found = load_model(tmp_path / "b.asrp")
    assert found.pathways is not None
    for language in ("en", "fr"):
        expected, state = asr.pathways.extract(language), found.pathways.extract(language)
        assert expected.keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in expected.items())
        assert decoded(asr, speech, language) == decoded(found, speech, language)
    names = list(bundle.layout.under("files/"))
    assert "hub/config.json" in names
    assert not any("model.safetensors" in name for name in names)
    write_bundle(found, tmp_path / "again.asrp", "float32")
    assert (tmp_path / "again.asrp").read_bytes() == (tmp_path / "b.asrp").read_bytes()


def test_a_plain_folder_loads_in_transformers(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    asr = pruned_hub(hub_folder("whisper"))
    assert asr.pathways is not None
    expected = asr.pathways.extract("fr")
    write_bundle(asr, tmp_path / "b.asrp", "float32")
    write_dense_copy(load_model(tmp_path / "b.asrp"), tmp_path / "plain", ["fr"])
    state = WhisperForConditionalGeneration.from_pretrained(tmp_path / "plain").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    assert load_model(tmp_path / "plain").languages == ("fr",)


def test_code_of_a_model_is_not_run(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_bundle(pruned_hub(hub_folder("whisper")), tmp_path / "b.asrp")
    sample = mutations.Sample(tmp_path / "b.asrp")
    config = json.loads(sample.parts["files/hub/config.json"].data)
    extractor = json.loads(sample.parts["files/hub/preprocessor_config.json"].data)
    began = time.perf_counter()
    for name, change, message in (
        ("config", {"auto_map": {"AutoConfig": "evil.Config"}}, "asks for code of its own, which is not run"),
        ("config", {"encoder_layers": 10**6}, "the model is larger than the tensors that there are"),
        ("config", {"encoder_layers": 10**9}, r"hub/config.json: encoder_layers: 1,000,000,000 is more than a model"),
        ("config", {"d_model": 10**6}, "the model is larger than the tensors that there are"),
        ("config", {"max_source_positions": 10**6}, "the model is larger than the tensors that there are"),
        ("config", {"d_model": 96}, "the model has it as"),
        ("config", {"architectures": ["Evil"]}, "Evil is not supported"),
        ("preprocessor_config", {"feature_size": 10**6}, "a filter bank of 1,000,000 by"),
        ("preprocessor_config", {"n_fft": 10**10}, "n_fft: 10,000,000,000 is more than a model can have"),
    ):
        header, parts = sample.copies()
        content = {**(config if name == "config" else extractor), **change}
        parts[f"files/hub/{name}.json"] = mutations.Part.of_bytes(json.dumps(content).encode())
        (tmp_path / "c.asrp").write_bytes(mutations.sealed(header, parts))
        with pytest.raises(BundleError, match=message) as caught:
            load_model(tmp_path / "c.asrp")
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "c.asrp") in str(caught.value)
    assert time.perf_counter() - began < 60
