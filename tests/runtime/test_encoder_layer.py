from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from asr_pathways.errors import PathwaysError
from asr_pathways.models.emformer import CausalConv, Emformer, EmformerConfig, EmformerLayer, LayerState, Windows
from asr_pathways.runtime.compiled_layers import CompiledEmformerLayer, CompiledLinear
from asr_pathways.runtime.kernels import available, extension, variants
from asr_pathways.runtime.kernels.encoder_layer import Attention, Convolution, FeedForward
from asr_pathways.runtime.layers import MANY, Format

built = pytest.mark.skipif(not available(), reason="the kernels were not built")
# Channels and frames that fill no vector, and that fill some.
SHAPES = ((12, 3, 1), (32, 8, 1), (48, 5, 2), (20, 4, 0))


def random_layer(dim: int, segment: int, right: int, left: int = 7) -> tuple[EmformerConfig, EmformerLayer]:
    config = EmformerConfig(
        features=8, dim=dim, ffn_dim=3 * dim, heads=4, layers=1, segment=segment, left_context=left,
        right_context=right, conv_kernel=3,
    )  # fmt: skip
    torch.manual_seed(dim)
    layer = EmformerLayer(config).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter.detach(), std=0.5)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= torch.rand(module.weight.shape) < 0.4
    return config, layer


def product(layer: nn.Linear) -> Any:
    one = Format("float32", "sparse")
    compiled, _ = one.store(layer.weight.detach().numpy(), "unstructured")
    return one.layer(compiled, layer.bias.detach().numpy(), MANY)


@built
@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize(("dim", "segment", "right"), SHAPES)
@torch.inference_mode()
def test_each_step_is_what_the_module_computes(variant: str, dim: int, segment: int, right: int) -> None:
    config, layer = random_layer(dim, segment, right)
    rows, left = segment + right, config.left_context
    x, past = torch.randn(2, rows, dim), torch.randn(2, left, 2 * dim)
    allowed = torch.rand(2, 1, left + rows) < 0.7
    allowed[1] = False  # padding
    windows = Windows.of(segment, left, allowed)

    forward = layer.feed_forward
    step = FeedForward(forward[0], product(forward[1]), product(forward[3]), variant=variant)  # type: ignore[arg-type]
    torch.testing.assert_close(step(x.flatten(0, 1)), (x + forward(x)).flatten(0, 1), rtol=1e-4, atol=1e-4)

    own, state = layer.attention, LayerState(past, torch.zeros(2, 2, dim))
    expected = x + own(x[:, None], state, windows)[:, 0]
    bias = own.distance_bias[:, own.distances].contiguous()
    attention = Attention(own.norm, product(own.query), product(own.key_value), product(own.out), bias, variant=variant)
    found, window = attention(x, past, windows.unseen[:, 0, 0, 0].contiguous())
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert found[1].isfinite().all()
    torch.testing.assert_close(window[:, segment : segment + left], state.key_values, rtol=1e-4, atol=1e-4)

    conv, state = layer.conv, LayerState(past, torch.randn(2, 2, dim))
    assert isinstance(conv, CausalConv)
    convolution = Convolution(
        conv.norm, product(conv.inwards), conv.depthwise, conv.depthwise_norm, product(conv.out), variant=variant
    )
    found, seen = convolution(x, state.conv)
    torch.testing.assert_close(found, x + conv(x[:, None], state, windows)[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[:, segment : segment + 2], state.conv, rtol=1e-4, atol=1e-4)


@built
@pytest.mark.parametrize("variant", variants())
@torch.inference_mode()
def test_no_step_hides_a_nan(variant: str) -> None:
    config, layer = random_layer(16, 4, 1)
    own, conv, forward = layer.attention, layer.conv, layer.feed_forward
    x, past = torch.randn(1, 5, 16), torch.randn(1, config.left_context, 32)
    x[0, 1, 3] = float("nan")
    unseen = torch.zeros(1, config.left_context + 5)
    step = FeedForward(forward[0], product(forward[1]), product(forward[3]), variant=variant)  # type: ignore[arg-type]
    assert torch.equal(step(x[0]).isnan().all(1), torch.tensor([False, True, False, False, False]))
    bias = own.distance_bias[:, own.distances].contiguous()
    attention = Attention(own.norm, product(own.query), product(own.key_value), product(own.out), bias, variant=variant)
    assert attention(x, past, unseen)[0].isnan().all()  # every frame attends to it
    assert isinstance(conv, CausalConv)
    ends = product(conv.inwards), product(conv.out)
    convolution = Convolution(conv.norm, ends[0], conv.depthwise, conv.depthwise_norm, ends[1], variant=variant)
    assert torch.equal(
        convolution(x, torch.zeros(1, 2, 16))[0][0].isnan().all(1), torch.tensor([False, True, True, True, False])
    )


@built
@pytest.mark.parametrize("final", [False, True])
@torch.inference_mode()
def test_compiled_layers_stream_as_the_encoder_does(final: bool) -> None:
    """Several segments at once, and the end of a stream, where a segment lacks frames."""
    config, layer = random_layer(16, 4, 1)
    encoder = Emformer(config).eval()
    encoder.layers[0] = layer
    features = torch.randn(3, 4 * 15, config.features)
    states = [encoder.initial_state(3, features) for _ in range(2)]
    expected = encoder.stream(features, states[0], final)
    for name, module in list(layer.named_modules()):
        if isinstance(module, nn.Linear):
            layer.set_submodule(name, CompiledLinear(product(module), (1, ""), 0))
    encoder.layers[0] = CompiledEmformerLayer(layer, threads=2)
    found = encoder.stream(features, states[1], final)
    assert found.shape[1] == (15 if final else 12)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(states[0].tensors(), states[1].tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@built
def test_what_does_not_fit_is_refused() -> None:
    _, layer = random_layer(12, 3, 1)
    norm, own = nn.LayerNorm(12), layer.attention
    square = product(own.query)
    with pytest.raises(PathwaysError, match="a weight of 24x12 is needed here, not of"):
        Attention(own.norm, square, square, square, torch.zeros(4, 4, 11))
    with pytest.raises(PathwaysError, match="a bias of"):
        Attention(own.norm, square, product(own.key_value), square, torch.zeros(5, 4, 11))
    step = FeedForward(norm, square, square)
    with pytest.raises(PathwaysError, match="x must have shape"):
        step(torch.zeros(2, 13))
    with pytest.raises(PathwaysError, match="contiguous"):
        step(torch.zeros(12, 2).t())


@built
def test_without_the_extension_a_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = product(nn.Linear(4, 4))
    monkeypatch.setattr(extension, "compiled", None)
    with pytest.raises(PathwaysError, match="were not built"):
        FeedForward(nn.LayerNorm(4), weight, weight)
