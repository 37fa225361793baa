"""One pathway as an ordinary model: of whole neurons, a smaller one, in whatever runs the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_pathways import Recognizer
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.export.dense_copy import write_dense_copy
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.conftest import make_model
from tests.models.hub.conftest import hub_folder
from tests.recognition import all_is_speech, cache_folder, decoded, sound

__all__ = ["all_is_speech", "cache_folder", "hub_folder"]

Maker = Callable[[str], Path]
SIZES = {
    "whisper": {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
    "hubert": {"intermediate_size": 16},
    "wav2vec2_bert": {"intermediate_size": 16},
    "mms": {"intermediate_size": 16},
    "parakeet_tdt": {"encoder_config.intermediate_size": 16},
    "nemotron": {"encoder_config.intermediate_size": 16},
    "ours": {"encoder.ffn_dim": 16},
}


def with_neurons(asr: AsrModel) -> AsrModel:
    """Larger weights, since a random model writes next to nothing; half of the neurons, others for each language."""
    network = asr.model.network
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() == 2 and "relative" not in name:
                weight *= 30.0 if "embed_positions" in name else 4.0
    asr.model.train_on_short_windows()
    asr.model.load_languages(("en", "fr"))
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr")})
    config = PathwayConfig(sparsity=0.5, granularity="neurons", pairs=asr.model.pairs)
    asr.pathways = Pathways.attach(network, config, ("en", "fr"))
    draw = torch.Generator().manual_seed(0)
    for language in asr.pathways.languages:
        mask = asr.pathways.mask(language)
        for first, second in zip(asr.pathways.names[::2], asr.pathways.names[1::2], strict=True):
            kept = torch.zeros(len(mask[first]), dtype=torch.bool)
            kept[torch.randperm(len(kept), generator=draw)[: len(kept) // 2]] = True
            mask[first] = kept[:, None].expand(mask[first].shape)
            mask[second] = kept.expand(mask[second].shape)
        asr.pathways.set_mask(language, mask)
    return asr


def made(kind: str, maker: Maker, tokenizer: Tokenizer) -> AsrModel:
    return with_neurons(make_model(tokenizer) if kind == "ours" else load_model(maker(kind)))


@pytest.mark.parametrize("kind", SIZES)
def test_a_pathway_of_neurons_is_a_smaller_model_and_runs_everywhere(
    kind: str,
    hub_folder: Maker,
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    asr = made(kind, hub_folder, tokenizer)
    expected = {language: decoded(asr, sound(1.0), language) for language in ("en", "fr")}
    texts = {language: asr.tokenizer.decode(tokens, language) for language, tokens in expected.items()}
    assert texts["en"] != texts["fr"]
    write_bundle(asr, tmp_path / "two.asrp", "float32")
    recognizer = Recognizer(tmp_path / "two.asrp", precision="float32")
    if kind != "ours":  # which streams, and there is another chunking of the sound
        assert {language: recognizer.transcribe(sound(1.0), language=language).text for language in texts} == texts
    assert write_dense_copy(load_model(tmp_path / "two.asrp"), tmp_path / "fr", ["fr"]) == SIZES[kind]
    small = load_model(tmp_path / "fr")
    assert decoded(small, sound(1.0), "fr") == expected["fr"]
    config = json.loads((tmp_path / "fr" / "config.json").read_text())
    for key in ["model"] * (kind == "ours") + next(iter(SIZES[kind])).split("."):
        config = config[key]
    assert config == 16
    assert small.pathways is None and small.languages == ("fr",)


def test_streams_of_a_pathway_of_neurons_are_those_of_the_smaller_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = made("ours", Path, tokenizer)
    save_model(tmp_path / "run", asr)
    write_bundle(asr, tmp_path / "two.asrp", "float32")
    write_dense_copy(asr, tmp_path / "fr", ["fr"])
    texts = []
    for model in ("run", "two.asrp", "fr"):
        stream = Recognizer(tmp_path / model, "fr").stream()
        stream.accept(sound(1.0), 16_000)
        texts.append(stream.final())
    assert texts[0] == texts[1] == texts[2]


def test_stock_transformers_writes_the_same_tokens(hub_folder: Maker, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    asr = made("whisper", hub_folder, tokenizer)
    asr.model.hub.config.padding = "window"  # as transformers has it
    expected = decoded(asr, sound(1.0), "fr")
    write_dense_copy(asr, tmp_path / "fr", ["fr"])
    network = WhisperForConditionalGeneration.from_pretrained(tmp_path / "fr").eval()
    assert network.config.encoder_ffn_dim == network.config.decoder_ffn_dim == 16
    assert network.model.decoder.layers[1].fc2.weight.shape == (16, 16)
    found = greedy(network, asr, len(expected))
    assert found == expected


def test_stock_transformers_has_the_language_of_an_mms(hub_folder: Maker, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its adapter, output layer and letters, where the model has those of another language in their places."""
    from transformers import AutoModelForCTC, AutoTokenizer

    asr = made("mms", hub_folder, tokenizer)
    expected = decoded(asr, sound(1.0), "fr")
    write_dense_copy(asr, tmp_path / "fr", ["fr"])
    network = AutoModelForCTC.from_pretrained(tmp_path / "fr").eval()
    with torch.no_grad():
        best = network(asr.model.frontend(sound(1.0))[None]).logits[0].argmax(dim=-1)
    text = AutoTokenizer.from_pretrained(tmp_path / "fr").decode(best).replace("<unk>", "")
    assert text and text == asr.tokenizer.decode(expected, "fr")
    assert decoded(load_model(tmp_path / "fr"), sound(1.0), "fr") == expected


def greedy(network: torch.nn.Module, asr: AsrModel, most: int) -> list[int]:
    features = padded(asr)
    tokens = asr.model.prompt("fr")
    for _ in range(most):
        with torch.no_grad():
            logits = network(input_features=features, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
    return tokens[len(asr.model.prompt("fr")) :]


def padded(asr: AsrModel) -> torch.Tensor:
    """The sound's features in the window of the model: (1, F, T)."""
    features = asr.model.frontend(sound(1.0))
    silence = features.max() - 2.0
    window = silence.expand(asr.model.frames, features.shape[1]).clone()
    window[: len(features)] = features
    return window.T[None].contiguous()


def test_ctranslate2_runs_the_smaller_model(hub_folder: Maker, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    asr = made("whisper", hub_folder, tokenizer)
    asr.model.hub.config.padding = "window"
    expected = decoded(asr, sound(1.0), "fr")
    write_dense_copy(asr, tmp_path / "fr", ["fr"])
    ctranslate2.converters.TransformersConverter(str(tmp_path / "fr")).convert(str(tmp_path / "ct2"))
    model = ctranslate2.models.Whisper(str(tmp_path / "ct2"), compute_type="float32", intra_threads=1)
    features = ctranslate2.StorageView.from_array(padded(asr).numpy())
    prompt = asr.model.prompt("fr")
    (result,) = model.generate(features, [prompt], beam_size=1, max_length=2 * len(expected))  # it halves that
    assert result.sequences_ids[0] == expected
