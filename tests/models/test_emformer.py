from __future__ import annotations

import random

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from asr_pathways.models.emformer import STRIDE, Emformer, EmformerConfig

BINS = 12


def make(**options: object) -> Emformer:
    """An encoder whose every parameter is random, biases of distances and of norms included."""
    config = EmformerConfig.model_validate({"features": BINS, "dim": 16, "ffn_dim": 24, "heads": 2, **options})
    encoder = Emformer(config).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("distance_bias"):
                parameter.normal_()
            elif parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def streamed(encoder: Emformer, features: Tensor, chunks: list[int]) -> Tensor:
    """Encodings of one stream (1, T, F) that arrives in ``chunks``; what is left comes with the last call."""
    state = encoder.initial_state(len(features), features)
    outs, at = [], 0
    for chunk in chunks:
        outs.append(encoder.stream(features[:, at : at + chunk], state))
        at += chunk
    outs.append(encoder.stream(features[:, at:], state, final=True))
    return torch.cat(outs, dim=1)


def some_chunks(rng: random.Random, frames: int) -> list[int]:
    kind = rng.choice(["any", "fixed", "whole"])
    if kind == "whole":
        return []
    fixed = rng.choice([1, 4, 16, 50])
    chunks: list[int] = []
    while sum(chunks) < frames:
        chunks.append(fixed if kind == "fixed" else rng.choice([0, 1, 3, 8, 37, 120]))
    return chunks


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(20))
def test_streaming_is_the_whole_utterance(seed: int) -> None:
    """20 layouts of an encoder, 10 lengths and ways of cutting each: 200 in all, batch padding beside them."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    encoder = make(
        front_end="conv" if seed % 2 else "stack",
        layers=rng.choice([1, 2, 3]),
        segment=rng.choice([1, 2, 4, 7, 16]),
        left_context=rng.choice([0, 1, 5, 32]),
        right_context=rng.choice([0, 1, 4, 9]),
        conv_kernel=rng.choice([0, 1, 2, 9]),
    )
    frames = torch.tensor([rng.randint(1, 260) for _ in range(10)])
    features = torch.randn(10, int(frames.max()) + rng.randint(0, 9), BINS)
    whole, lengths = encoder(features, frames)
    assert lengths.tolist() == [count // STRIDE for count in frames.tolist()]
    for row, count in enumerate(frames.tolist()):
        parts = streamed(encoder, features[row : row + 1, :count], some_chunks(rng, count))
        assert parts.shape == (1, count // STRIDE, 16)
        torch.testing.assert_close(parts[0], whole[row, : count // STRIDE], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_comparison_would_see_a_wrong_window() -> None:
    """Encoders that differ in nothing but a context give other encodings: parity is not for want of effect."""
    torch.manual_seed(0)
    options: dict[str, object] = {"layers": 2, "segment": 4, "left_context": 8, "right_context": 2, "conv_kernel": 3}
    features, lengths = torch.randn(1, 120, BINS), torch.tensor([120])
    base = make(**options)
    reference, _ = base(features, lengths)
    for name, value in (("left_context", 7), ("right_context", 1), ("segment", 5)):
        other = make(**{**options, name: value})
        other.load_state_dict({k: v for k, v in base.state_dict().items() if "distance_bias" not in k}, strict=False)
        for layer, own in zip(base.layers, other.layers, strict=True):
            # Distance 0 is in the middle of both tables.
            wide, narrow = layer.attention.window, own.attention.window
            offset = wide - narrow
            size = 2 * narrow - 1
            table = nn.functional.pad(layer.attention.distance_bias, (max(0, -offset), max(0, -offset)))
            start = max(0, offset)
            own.attention.distance_bias.copy_(table[:, start : start + size])
        assert (other(features, lengths)[0] - reference).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("front_end", ["stack", "conv"])
@pytest.mark.parametrize("conv_kernel", [0, 5])
def test_padding_does_not_change_results(front_end: str, conv_kernel: int) -> None:
    torch.manual_seed(1)
    encoder = make(front_end=front_end, layers=3, segment=4, left_context=9, right_context=2, conv_kernel=conv_kernel)
    features = torch.randn(3, 150, BINS)
    lengths = torch.tensor([150, 61, 3])
    out, _ = encoder(features, lengths)
    loud = features.clone()
    for row, length in enumerate(lengths.tolist()):
        loud[row, length:] = 100 * torch.randn(150 - length, BINS)
    # Frames of padding that fill up the last encoder frame of an utterance belong to no frame of it.
    again, _ = encoder(torch.cat((loud, torch.randn(3, 83, BINS)), dim=1), lengths)
    for row, length in enumerate(lengths.tolist()):
        count = length // STRIDE
        torch.testing.assert_close(out[row, :count], again[row, :count], rtol=0, atol=1e-5)
        alone, _ = encoder(features[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(out[row, :count], alone[0], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("right_context", [0, 1, 3])
@pytest.mark.parametrize("front_end", ["stack", "conv"])
def test_no_layer_looks_beyond_the_right_context(front_end: str, right_context: int) -> None:
    """With every layer's look-ahead added up, five layers would see five right contexts ahead."""
    torch.manual_seed(2)
    segment = 4
    encoder = make(
        front_end=front_end,
        layers=5,
        segment=segment,
        left_context=12,
        right_context=right_context,
        conv_kernel=3,
    )
    features, lengths = torch.randn(1, 160, BINS), torch.tensor([160])
    before, _ = encoder(features, lengths)
    for last in range(segment, 40 - segment, segment):
        horizon = (last + right_context) * STRIDE
        changed = features.clone()
        changed[:, horizon:] = 10 * torch.randn_like(changed[:, horizon:])
        after, _ = encoder(changed, lengths)
        assert torch.equal(before[:, :last], after[:, :last])
        assert not torch.equal(before[:, last:], after[:, last:])
    if right_context:  # and it does look as far as that
        changed = features.clone()
        changed[:, (8 + right_context - 1) * STRIDE :] += 1
        assert not torch.equal(before[:, 4:8], encoder(changed, lengths)[0][:, 4:8])


@torch.inference_mode()
def test_streams_are_ready_when_their_right_context_is() -> None:
    encoder = make(layers=1, segment=4, left_context=8, right_context=1)
    state = encoder.initial_state(2, torch.zeros(()))
    ready = [encoder.stream(torch.randn(2, STRIDE, BINS), state).shape[1] for _ in range(10)]
    assert ready == [0, 0, 0, 0, 4, 0, 0, 0, 4, 0]  # encoder frames 5 and 9 complete what 4 and 8 wait for
    assert encoder.stream(torch.randn(2, 3, BINS), state, final=True).shape[1] == 2
    assert state.past == 10


@torch.inference_mode()
@pytest.mark.parametrize("front_end", ["stack", "conv"])
@pytest.mark.parametrize("frames", [0, 1, 3, 4, 7])
def test_very_short_utterances(front_end: str, frames: int) -> None:
    encoder = make(front_end=front_end, layers=2, segment=4, left_context=4, right_context=1, conv_kernel=3)
    features = torch.randn(2, frames, BINS)
    out, lengths = encoder(features, torch.tensor([frames, 0]))
    assert out.shape == (2, frames // STRIDE, 16)
    assert lengths.tolist() == [frames // STRIDE, 0]
    assert torch.isfinite(out).all()
    assert streamed(encoder, features[:1], [1]).shape == (1, frames // STRIDE, 16)


def test_padding_gets_no_gradient_and_nothing_is_nan() -> None:
    torch.manual_seed(3)
    encoder = make(front_end="conv", layers=2, segment=4, left_context=8, right_context=1, conv_kernel=3).train()
    features = torch.randn(2, 80, BINS, requires_grad=True)
    lengths = torch.tensor([80, 4])
    out, counts = encoder(features, lengths)
    sum(row[:count].square().sum() for row, count in zip(out, counts.tolist(), strict=True)).backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad[0].any(dim=1).all()
    assert not features.grad[1, 4:].any()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_dropout_is_for_training_only() -> None:
    encoder = make(layers=1, dropout=0.5)
    features, lengths = torch.randn(1, 40, BINS), torch.tensor([40])
    assert torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])
    encoder.train()
    assert not torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30, "heads": 4}, "dim 30 is not a multiple of heads 4"),
        ({"segment": 0}, "segment"),
        ({"right_context": -1}, "right_context"),
        ({"front_end": "fourier"}, "front_end"),
        ({"memory": 4}, "memory"),
    ],
)
def test_configs_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EmformerConfig.model_validate(options)
