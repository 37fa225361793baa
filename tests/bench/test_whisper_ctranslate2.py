from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from benchmarks.whisper_ctranslate2 import SIZES, Size, shares, smaller
from tests.models.hub.tiny import whisper


def test_a_smaller_network_has_the_first_layers_and_neurons(tmp_path: Path) -> None:
    hub = load_model(whisper(tmp_path / "w")).model.network
    before = hub.config.to_dict()  # type: ignore[union-attr, operator]
    made = smaller(hub, Size(encoder=1, neurons=0.5))
    layer, own = made.model.encoder.layers[0], hub.model.encoder.layers[0]  # type: ignore[union-attr]
    assert len(made.model.encoder.layers) == made.config.encoder_layers == before["encoder_layers"] - 1
    assert made.config.encoder_ffn_dim == before["encoder_ffn_dim"] // 2 == layer.fc1.out_features
    assert made.config.decoder_layers == before["decoder_layers"]
    torch.testing.assert_close(layer.fc1.weight, own.fc1.weight[: layer.fc1.out_features])
    x = torch.randn(3, own.fc2.in_features)
    x[:, layer.fc2.in_features :] = 0
    torch.testing.assert_close(layer.fc2(x[:, : layer.fc2.in_features]), own.fc2(x))
    assert hub.config.to_dict() == before  # type: ignore[union-attr, operator]


def test_sizes_say_what_they_lack() -> None:
    names = [str(size) for size in SIZES]
    assert names[0] == "all" and len({*names}) == len(names)
    assert str(Size(2, 3, 0.5)) == "without 2 encoder layers, 3 decoder layers, 50% of neurons"


def test_shares_are_differences_of_sizes() -> None:
    def seconds(size: Size) -> dict[str, float]:
        # six layers of 0.2 s, 0.12 s of it in neurons, and 0.8 s beside; the decoder's take half as long
        encoder = 0.8 + (6 - size.encoder) * (0.08 + 0.12 * (1 - size.neurons))
        decoder = 0.8 + (6 - size.decoder) * (0.04 + 0.06 * (1 - size.neurons))
        return {"encoder": encoder, "decoder": decoder}

    found = shares({str(size): seconds(size) for size in SIZES}, {"encoder": 6, "decoder": 6})
    assert found["encoder"] == pytest.approx({"feed-forward": 0.36, "attention": 0.24, "rest": 0.4}, abs=1e-3)
    assert found["decoder"] == pytest.approx({"feed-forward": 0.257, "attention": 0.171, "rest": 0.571}, abs=1e-3)
