"""Bundles of Hugging Face models: their own files are parts, and the model comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.export.plain import write_plain
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
    asr.model.open_languages(("en", "fr"))
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
    names = [part.name for part in bundle.config.parts]
    assert "hub/config.json" in names
    assert not any("model.safetensors" in name for name in names)
    write_bundle(found, tmp_path / "again.asrp", "float32")
    assert (tmp_path / "again.asrp").read_bytes() == (tmp_path / "b.asrp").read_bytes()


def test_a_plain_folder_loads_in_transformers(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    asr = pruned_hub(hub_folder("whisper"))
    assert asr.pathways is not None
    expected = asr.pathways.extract("fr")
    write_bundle(asr, tmp_path / "b", "float32")
    write_plain(load_model(tmp_path / "b"), tmp_path / "plain", ["fr"])
    state = WhisperForConditionalGeneration.from_pretrained(tmp_path / "plain").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    assert load_model(tmp_path / "plain").languages == ("fr",)


def test_code_of_a_model_is_not_run(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_bundle(pruned_hub(hub_folder("whisper")), tmp_path / "b.asrp")
    sample = mutations.Sample(tmp_path / "b.asrp")
    header, parts = sample.header, sample.parts
    config = json.loads(parts["hub/config.json"])
    for change, message in (
        ({"auto_map": {"AutoConfig": "evil.Config"}}, "asks for code of its own, which is not run"),
        ({"encoder_layers": 10**4}, "10000 layers of"),
        ({"d_model": 10**6}, r"hub/config.json: d_model: 1,000,000 is more than the model can have"),
        ({"d_model": 96}, "the model has it as"),
        ({"architectures": ["Evil"]}, "Evil is not supported"),
    ):
        parts["hub/config.json"] = json.dumps({**config, **change}).encode()
        described = [mutations._described(name, content) for name, content in parts.items()]
        header["parts"] = [part.model_dump() for part in described]
        (tmp_path / "c.asrp").write_bytes(mutations.zipped(json.dumps(header).encode(), described, parts))
        with pytest.raises(BundleError, match=message) as caught:
            load_model(tmp_path / "c.asrp")
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "c.asrp") in str(caught.value)
