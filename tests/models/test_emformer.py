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


def by_the_book(encoder: Emformer, features: Tensor) -> Tensor:
    """Encodings (T // 4, D) of one utterance (T, F), segment by segment with every frame's position written out."""
    config = encoder.config
    size, ahead, dim = config.segment, config.right_context, config.dim
    x = features[: len(features) // STRIDE * STRIDE]
    front = encoder.front_end
    if config.front_end == "conv":
        for conv in front.convs:
            x = nn.functional.silu(conv(nn.functional.pad(x.T[None], (3, 0))))[0].T
        x = front.projection(x)
    else:
        x = front.projection(torch.stack([x[start : start + STRIDE].flatten() for start in range(0, len(x), STRIDE)]))
    count = len(x)
    starts = range(0, count, size)
    # Of each segment: its own frames, and its copies of those that follow.
    own = {start: x[start : start + size] for start in starts}
    copies = {start: x[start + size : start + size + ahead] for start in starts}
    for layer in encoder.layers:
        attention, conv = layer.attention, layer.conv
        window = config.left_context + size + ahead
        normal = attention.norm(torch.cat(list(own.values())))
        for start in starts:
            end = min(start + size, count)
            queries = torch.cat((normal[start:end], attention.norm(copies[start])))
            at = torch.arange(start, end + len(copies[start]))  # stream position of each query
            first = max(0, start - config.left_context)
            seen = torch.cat((normal[first:end], attention.norm(copies[start])))
            seen_at = torch.arange(first, end + len(copies[start]))
            query = attention.query(queries).view(len(at), config.heads, -1)
            key, value = (half.view(len(seen_at), config.heads, -1) for half in attention.key_value(seen).chunk(2, 1))
            scores = torch.einsum("qhw,khw->hqk", query, key) / (dim // config.heads) ** 0.5
            scores = scores + attention.distance_bias[:, seen_at[None, :] - at[:, None] + window - 1]
            mixed = torch.einsum("hqk,khw->qhw", scores.softmax(dim=-1), value).reshape(len(at), dim)
            delta = attention.out(mixed)
            own[start] = own[start] + delta[: end - start]
            copies[start] = copies[start] + delta[end - start :]
        if conv is not None:
            gated = nn.functional.glu(conv.inwards(conv.norm(torch.cat(list(own.values())))))
            past = torch.cat((torch.zeros(config.conv_kernel - 1, dim, dtype=x.dtype), gated))
            for start in starts:
                end = min(start + size, count)
                copied = nn.functional.glu(conv.inwards(conv.norm(copies[start])))
                before = torch.cat((past[start : end + config.conv_kernel - 1], copied))
                taps = conv.depthwise.weight[:, 0].T  # (K, D)
                frames = [
                    (before[f : f + config.conv_kernel] * taps).sum(dim=0) + conv.depthwise.bias
                    for f in range(end - start + len(copied))
                ]
                delta = conv.out(nn.functional.silu(conv.depthwise_norm(torch.stack(frames))))
                own[start] = own[start] + delta[: end - start]
                copies[start] = copies[start] + delta[end - start :]
        for part in (own, copies):
            for start in starts:
                part[start] = part[start] + layer.feed_forward(part[start])
    return encoder.norm(torch.cat(list(own.values())))


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(12))
def test_encodings_are_those_of_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    encoder = make(
        front_end="conv" if seed % 2 else "stack",
        layers=2,
        segment=rng.choice([1, 3, 4, 6]),
        left_context=rng.choice([0, 2, 7, 30]),
        right_context=rng.choice([0, 1, 2, 5]),
        conv_kernel=rng.choice([0, 1, 3, 8]),
    ).double()
    features = torch.randn(1, rng.randint(STRIDE, 100), BINS, dtype=torch.float64)
    found, _ = encoder(features, torch.tensor([features.shape[1]]))
    torch.testing.assert_close(found[0], by_the_book(encoder, features[0]), rtol=0, atol=1e-10)


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
