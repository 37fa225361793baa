"""Compiled layers beside those of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from asr_pathways.runtime import compiled_layers
from asr_pathways.runtime.compiled_layers import (
    compiled_convolution,
    compiled_linear,
    compiled_lstm,
    recorded,
    replaceable,
)
from asr_pathways.runtime.layers import MANY, Layers


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Layers:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    return Layers("float32", torch=True)


def halved(module: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("weight"):
                weight *= torch.rand_like(weight) < 0.5


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_linear(layers: Layers, bias: bool) -> None:
    module = nn.Linear(24, 16, bias)
    halved(module)
    x = torch.randn(2, 3, 5, 24)
    for rows in (x, x.transpose(1, 2), x[:, :, :1], x[:0]):
        torch.testing.assert_close(compiled_linear(module, layers, MANY)(rows), module(rows), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (2, 2), (5, 3), (2, 4)])
def test_convolution(layers: Layers, monkeypatch: pytest.MonkeyPatch, kernel: int, stride: int) -> None:
    """Whole and in parts, of lengths with and without a rest."""
    module = nn.Conv1d(8, 12, kernel, stride)
    halved(module)
    compiled = compiled_convolution(module, layers)
    for windows in (1000, 4):
        monkeypatch.setattr(compiled_layers, "WINDOWS", windows)
        for length in (kernel, 20, 21, 22):
            x = torch.randn(2, 8, length)
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_lstm(layers: Layers) -> None:
    module = nn.LSTM(8, 16, 2, batch_first=True)
    halved(module)
    compiled, x = compiled_lstm(module, layers), torch.randn(3, 5, 8)
    (y, state), (wanted, after) = compiled(x), module(x)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled(x, state)[0], module(x, after)[0], rtol=1e-5, atol=1e-5)


def test_only_what_computes_the_same_is_replaced() -> None:
    assert replaceable(nn.Linear(2, 2), pruned=False)
    assert replaceable(nn.Conv1d(2, 2, 3, 2), pruned=True) and not replaceable(nn.Conv1d(2, 2, 3), pruned=False)
    assert replaceable(nn.LSTM(2, 2, batch_first=True), pruned=True)
    for module in (
        nn.Conv1d(2, 2, 3, padding=1),
        nn.Conv1d(2, 2, 3, padding="same"),
        nn.Conv1d(2, 2, 3, dilation=2),
        nn.Conv1d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3),
        nn.LSTM(2, 2),
        nn.LSTM(2, 2, batch_first=True, bidirectional=True),
        nn.LSTM(2, 2, batch_first=True, proj_size=1),
        nn.LayerNorm(2),
        type("Other", (nn.Linear,), {})(2, 2),
    ):
        assert not replaceable(module, pruned=True)


def test_modules_that_are_called_are_recorded() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()), nn.MultiheadAttention(2, 1))
    with recorded(network) as called:
        network[:2](torch.zeros(1, 2))
        network[2](*[torch.zeros(1, 1, 2)] * 3)
    assert set(called) == {"0", "1", "1.0", "2"}
