"""Blocks of a FastConformer by the compiled kernels, beside those of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.compiled_conformer import CompiledLayer, CompiledProducts
from asr_pathways.runtime.fast_conformer import TorchLayer, projected_positions, query_key_value
from asr_pathways.runtime.kernels import available, variants
from asr_pathways.runtime.kernels.encoder_layer import RelativeAttention
from asr_pathways.runtime.layers import Format, Layers

built = pytest.mark.skipif(not available(), reason="the kernels were not built")
pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")


def choose(weight: Tensor, bias: Tensor | None, rows: int, exact: bool = False) -> Any:
    one = Format("float32", "dense")
    compiled, _ = one.store(np.ascontiguousarray(weight.detach().numpy()), "unstructured")
    return one.layer(compiled, None if bias is None else bias.detach().numpy(), rows)


def random_block(dim: int, heads: int, reach: int, biases: bool = True) -> tuple[Any, Tensor]:
    """A block of transformers' encoder, and the positions of so many frames."""
    from transformers import NemotronAsrStreamingEncoder, NemotronAsrStreamingEncoderConfig

    torch.manual_seed(dim)
    config = NemotronAsrStreamingEncoderConfig(
        hidden_size=dim, intermediate_size=2 * dim + 3, num_attention_heads=heads, num_hidden_layers=1,
        subsampling_conv_channels=8, num_mel_bins=16, attention_bias=biases, convolution_bias=biases,
    )  # fmt: skip
    encoder = NemotronAsrStreamingEncoder(config).eval()
    layer = encoder.layers[0]
    for parameter in layer.parameters():
        nn.init.normal_(parameter.detach(), std=0.4)
    return layer, encoder.encode_positions(torch.zeros(1, reach, dim))[0]


@built
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("dim", "heads", "left", "chunk"), [(32, 2, 8, 4), (24, 4, 5, 1), (48, 3, 21, 7)])
@torch.inference_mode()
def test_chunks_of_a_segment_are_those_of_torch(dim: int, heads: int, left: int, chunk: int, biases: bool) -> None:
    layer, positions = random_block(dim, heads, left + chunk, biases)
    expected = TorchLayer(layer, left, chunk, positions)
    found = CompiledProducts(Layers("float32")).layer(layer, left, chunk, positions)
    assert isinstance(found, CompiledLayer)
    states = expected.initial_state(), found.initial_state()
    for count in [*([chunk] * (3 * left // chunk + 4)), max(1, chunk // 2)]:
        x = torch.randn(count, dim)
        torch.testing.assert_close(found(x, states[1]), expected(x, states[0]), rtol=1e-4, atol=1e-4)
    kept = states[1].window[:, :, states[1].start : states[1].end]
    torch.testing.assert_close(kept, torch.stack([states[0].keys, states[0].values]), rtol=1e-4, atol=1e-4)


@built
@pytest.mark.parametrize("variant", variants())
@torch.inference_mode()
def test_attention_with_relative_positions(variant: str) -> None:
    layer, positions = random_block(32, 2, 12)
    attention, torch_layer = layer.self_attn, TorchLayer(layer, 9, 3, positions)
    step = RelativeAttention(
        layer.norm_self_att,
        choose(*query_key_value(attention), 3),
        choose(attention.o_proj.weight, attention.o_proj.bias, 3),
        attention.bias_u,
        attention.bias_v,
        projected_positions(attention, positions),
        rows=3,
        variant=variant,
    )
    x, state, window = torch.randn(3, 32), torch_layer.initial_state(), torch.zeros(2, 2, 16, 16)
    expected = x + torch_layer._attend(layer.norm_self_att(x), state)
    torch.testing.assert_close(step(x, window, 4, 4), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(window[:, :, 4:7], torch.stack([state.keys, state.values]), rtol=1e-4, atol=1e-4)
    assert (window[:, :, :4] == 0).all() and (window[:, :, 7:] == 0).all()
    window[0, 0, 5, 3] = torch.nan  # a past key, of the first of two heads
    assert step(x[:1], window, 4, 7).isnan().all()
    for count, start, end in ((3, 0, 14), (3, 0, 10), (3, 5, 4), (0, 0, 0)):
        with pytest.raises(PathwaysError, match=f"{count} frames after those from {start} to {end} do not fit"):
            step(x[:count], window, start, end)


@built
@torch.inference_mode()
def test_other_activations_run_in_torch() -> None:
    layer, positions = random_block(16, 2, 6)
    layer.conv.activation = nn.ReLU()
    assert isinstance(CompiledProducts(Layers("float32")).layer(layer, 4, 2, positions), TorchLayer)


@built
def test_positions_that_do_not_fit() -> None:
    layer, _ = random_block(16, 2, 6)
    attention = layer.self_attn
    layers = choose(*query_key_value(attention), 3), choose(attention.o_proj.weight, attention.o_proj.bias, 3)
    biases = attention.bias_u, attention.bias_v
    with pytest.raises(PathwaysError, match=r"positions of \(2, 8, 10\) do not fit 16 channels and 3 frames"):
        RelativeAttention(layer.norm_self_att, *layers, *biases, torch.zeros(2, 8, 10), rows=3)
    with pytest.raises(PathwaysError, match=r"positions of \(2, 8, 3\) do not fit 16 channels and 3 frames"):
        RelativeAttention(layer.norm_self_att, *layers, *biases, torch.zeros(2, 8, 3), rows=3)
