"""Pathways on models that know nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asr_pathways import PathwayConfig, Pathways


def encoder() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    x = torch.randn(2, 7, 16)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    return nn.TransformerEncoder(layer, 2), lambda model: model(x, src_key_padding_mask=padding)


def lstm() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x = torch.randn(6, 3, 8)
    return nn.LSTM(8, 12, num_layers=2), lambda model: model(x)[0]


def wav2vec2() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    from tests.integrations.tiny import recogniser

    model = recogniser()
    x = torch.randn(2, 400)
    return model, lambda model: model(x).logits


@pytest.mark.parametrize("score", ["magnitude", "activation", "gradient"])
@pytest.mark.parametrize("gradient", ["frozen", "dense"])
@pytest.mark.parametrize("make", [encoder, lstm, wav2vec2])
def test_use_backward_step_save_and_load(
    make: Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]], score: str, gradient: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, run = make()
    keys = list(model.state_dict())
    config = PathwayConfig(sparsity=0.7, score=score, gradient=gradient, adapt_every=2, adapt_until=50)
    pathways = Pathways.attach(model, config, ["en", "fr"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    events = []
    for language in ("en", "fr", "fr", "en"):
        model.train()
        optimizer.zero_grad()
        with pathways.use(language):
            run(model).square().mean().backward()
        optimizer.step()
        events += pathways.step(optimizer)
    assert [event.language for event in events] == ["fr", "en"]
    assert all(event.sparsity == pytest.approx(0.7, abs=0.01) for event in events)
    assert all((model.state_dict()[name] != start[name]).any() for name in pathways.names)
    assert list(model.state_dict()) == keys

    pathways.save(tmp_path / "pathways")
    twin, _ = make()
    twin.load_state_dict(model.state_dict())
    loaded = Pathways.load(twin, tmp_path / "pathways")
    model.eval()
    twin.eval()
    with torch.inference_mode():
        for language in ("en", "fr"):
            with pathways.use(language), loaded.use(language):
                inside = run(model)
                torch.testing.assert_close(run(twin), inside, rtol=0, atol=1e-6)
            alone, _ = make()
            alone.load_state_dict(pathways.extract(language))
            torch.testing.assert_close(run(alone.eval()), inside, rtol=0, atol=1e-6)
        assert not torch.allclose(run(model), inside, atol=1e-4)
    assert list(model.state_dict()) == keys
