from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from asr_pathways.export.onnx_modules import EncoderChunk, JoinerStep, PredictorStep
from asr_pathways.models.emformer import STRIDE, EmformerConfig
from asr_pathways.models.transducer import Transducer
from tests.conftest import PIECES, tiny_config

BINS = 12


def make(seed: int) -> Transducer:
    """A recogniser of random weights and of a random layout."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    encoder = EmformerConfig(
        features=BINS,
        dim=16,
        ffn_dim=24,
        heads=2,
        front_end="conv" if seed % 2 else "stack",
        layers=rng.choice([1, 2, 3]),
        segment=rng.choice([1, 2, 4, 7, 16]),
        left_context=rng.choice([0, 1, 5, 32]),
        right_context=rng.choice([0, 1, 4, 9]),
        conv_kernel=rng.choice([0, 1, 2, 9]),
    )
    model = Transducer(tiny_config(encoder=encoder, predictor_layers=rng.choice([1, 2]))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("distance_bias"):
                parameter.normal_()
            elif parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.set_feature_statistics(torch.randn(BINS), 1 + torch.rand(BINS))
    return model


def chunks_of(graph: EncoderChunk, features: Tensor, marked: bool) -> list[tuple[Tensor, Tensor]]:
    """The chunks of streams (B, T, F) and their lengths; the end is given by lengths, or marked in the features."""
    total = features.shape[1]
    padded = torch.nn.functional.pad(features, (0, 0, 0, graph.window), value=math.nan if marked else 0.0)
    chunks = []
    for start in range(0, total, graph.shift):
        length = graph.window if marked else min(graph.window, total - start)
        chunk = padded[:, start : start + graph.window].transpose(1, 2)
        chunks.append((chunk, torch.full((len(features),), length)))
    return chunks


def run(graph: EncoderChunk, features: Tensor, marked: bool = False) -> Tensor:
    """Encodings (B, T', D) of whole streams, chunk by chunk."""
    state, outs = graph.initial_state(len(features)), []
    for chunk, length in chunks_of(graph, features, marked):
        out, counts, *state = graph(chunk, length, *state)
        assert out.shape == (len(features), graph.channels, graph.config.segment)
        count = int(counts[0])
        assert counts.tolist() == [count] * len(features)
        ended = [0.0] * count + [1.0] * (graph.config.segment - count)
        assert out[:, -1].tolist() == [ended] * len(features)
        outs.append(out[:, : graph.config.dim, :count])
    return torch.cat(outs, dim=2).transpose(1, 2)


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(30))
def test_chunks_of_fixed_shape_are_the_stream(seed: int) -> None:
    """30 layouts, 4 lengths each: a partial last segment, streams shorter than a chunk, and empty ones among them."""
    model, rng = make(seed), random.Random(seed)
    graph = EncoderChunk(model)
    for _ in range(4):
        features = torch.randn(2, rng.choice([1, 3, 4, rng.randint(5, 300)]), BINS)
        state = model.encoder.initial_state(2, features)
        expected = model.encoder.stream(model.normalize(features), state, final=True)
        assert expected.shape[1] == features.shape[1] // STRIDE
        for marked in (False, True):
            torch.testing.assert_close(run(graph, features, marked=marked), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(4))
def test_predictor_and_joiner_step_by_step(seed: int) -> None:
    model = make(seed)
    predictor, joiner = PredictorStep(model.predictor), JoinerStep(model.joiner, model.blank)
    symbols, encodings = torch.randint(PIECES, (2, 5), dtype=torch.int32), torch.randn(2, 16, 1)
    symbols[:, 0] = PIECES
    expected = model.joiner(encodings.transpose(1, 2), model.predictor(symbols)[0])
    states, ended = predictor.initial_state(2), torch.zeros(2, 1, 1)
    for step in range(5):
        out, lengths, *states = predictor(symbols[:, step : step + 1], torch.ones(2, dtype=torch.int32), *states)
        assert lengths.tolist() == [1, 1]
        scores = joiner(torch.cat((encodings, ended), dim=1), out)
        torch.testing.assert_close(scores[:, 0], expected[:, :, step], rtol=0, atol=1e-5)
    assert joiner(torch.cat((encodings, ended + 1), dim=1), out).argmax(dim=-1).unique().tolist() == [PIECES]
