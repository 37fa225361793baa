from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.export.streaming_graph import JoinerStep, PredictorStep, StreamingEncoder
from asr_pathways.models.emformer import STRIDE, EmformerConfig
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning.prunable import find_prunable, matching
from tests.conftest import PIECES, tiny_config

BINS = 12


def make(seed: int, **options: object) -> Transducer:
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
    model = Transducer(tiny_config(encoder=encoder, predictor_layers=rng.choice([1, 2]), **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("distance_bias"):
                parameter.normal_()
            elif parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.set_feature_statistics(torch.randn(BINS), 1 + torch.rand(BINS))
    return model


def chunks_of(graph: StreamingEncoder, features: Tensor, marked: bool) -> list[tuple[Tensor, Tensor]]:
    """The chunks of streams (B, T, F) and their lengths; the end is told by lengths, or marked in the features."""
    total = features.shape[1]
    padded = torch.nn.functional.pad(features, (0, 0, 0, graph.window), value=math.nan if marked else 0.0)
    chunks = []
    for start in range(0, total, graph.shift):
        length = graph.window if marked else min(graph.window, total - start)
        chunk = padded[:, start : start + graph.window].transpose(1, 2)
        chunks.append((chunk, torch.full((len(features),), length)))
    return chunks


def run(graph: StreamingEncoder, features: Tensor, rows: Tensor | None = None, marked: bool = False) -> Tensor:
    """Encodings (B, T', D) of whole streams, chunk by chunk."""
    state, outs = graph.initial_state(len(features)), []
    for chunk, length in chunks_of(graph, features, marked):
        out, counts, *state = graph(chunk, length, *state, rows)
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
    graph = StreamingEncoder(model, ["en"], None)
    for _ in range(4):
        features = torch.randn(2, rng.choice([1, 3, 4, rng.randint(5, 300)]), BINS)
        state = model.encoder.initial_state(2, features)
        expected = model.encoder.stream(model.normalize(features), state, final=True)
        assert expected.shape[1] == features.shape[1] // STRIDE
        for marked in (False, True):
            torch.testing.assert_close(run(graph, features, marked=marked), expected, rtol=0, atol=1e-5)


def random_masks(model: Transducer, languages: int) -> list[dict[str, Tensor]]:
    """For each language a mask of half of each weight that can be pruned."""
    names = find_prunable(model, ["*"], matching(model, model.unprunable))
    return [{target.name: torch.rand(target.shape) < 0.5 for target in names} for _ in range(languages)]


@contextmanager
def masked(model: Transducer, masks: dict[str, Tensor]) -> Iterator[Transducer]:
    """A copy of the model with zeros written in."""
    copied = copy.deepcopy(model)
    for name, mask in masks.items():
        copied.get_parameter(name).mul_(mask)
    yield copied


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(6))
def test_each_stream_of_a_batch_has_its_own_pathway(seed: int) -> None:
    model = make(seed)
    masks = random_masks(model, 3)
    graph = StreamingEncoder(model, ["en", "fr", "it"], masks, predictors=3)
    features, rows = torch.randn(4, 90, BINS), torch.tensor([2, 0, 1, 2])
    found = run(graph, features, rows)
    for index in range(3):
        with masked(model, masks[index]) as own:
            state = own.encoder.initial_state(4, features)
            expected = own.encoder.stream(own.normalize(features), state, final=True)
        torch.testing.assert_close(found[rows == index], expected[rows == index], rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], run(graph, features, torch.tensor([0] * 4))[0], atol=1e-2)


@torch.inference_mode()
def test_a_language_embedding_is_chosen_too() -> None:
    model = make(0, language_embedding=("en", "fr", "it"))
    graph = StreamingEncoder(model, ["fr", "en"], None)
    assert graph.selects
    features = torch.randn(2, 90, BINS)
    found = run(graph, features, torch.tensor([1, 0]))
    for row, language in enumerate(["en", "fr"]):
        state = model.encoder.initial_state(1, features)
        expected = model.encoder.stream(model.normalize(features[row : row + 1], language), state, final=True)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-5)
    alone = StreamingEncoder(model, ["fr"], None)
    assert not alone.selects
    torch.testing.assert_close(run(alone, features)[1], found[1])
    with pytest.raises(PathwaysError, match="language xx has no embedding; the model knows: en fr it"):
        StreamingEncoder(model, ["xx"], None)


@torch.inference_mode()
@pytest.mark.parametrize(("seed", "languages"), [(0, 0), (1, 3), (2, 3), (3, 0)])
def test_predictor_and_joiner_step_by_step(seed: int, languages: int) -> None:
    model = make(seed)
    masks = random_masks(model, languages) if languages else None
    count = languages or 1
    predictor, joiner = PredictorStep(model.predictor, masks), JoinerStep(model.joiner, model.blank, count)
    symbols, encodings = torch.randint(PIECES, (2, 5), dtype=torch.int32), torch.randn(2, 16, 1)
    symbols[:, 0] = PIECES
    for index in range(count):
        notes = torch.zeros(2, count + 1 if languages else 1, 1)
        notes[:, index] = float(languages > 0)
        with masked(model, masks[index] if masks else {}) as own:
            expected = own.joiner(encodings.transpose(1, 2), own.predictor(symbols)[0])
        states = predictor.initial_state(2)
        for step in range(5):
            out, lengths, *states = predictor(symbols[:, step : step + 1], torch.ones(2, dtype=torch.int32), *states)
            assert lengths.tolist() == [1, 1]
            scores = joiner(torch.cat((encodings, notes), dim=1), out)
            torch.testing.assert_close(scores[:, 0], expected[:, :, step], rtol=0, atol=1e-5)
        notes[:, -1] = 1
        assert joiner(torch.cat((encodings, notes), dim=1), out).argmax(dim=-1).unique().tolist() == [PIECES]


def test_weights_that_no_graph_can_choose_are_refused() -> None:
    model = Transducer(tiny_config())
    name = "encoder.layers.0.conv.depthwise.weight"
    with pytest.raises(PathwaysError, match=f"{name}: the masks of such a Conv1d cannot be chosen"):
        StreamingEncoder(model, ["en"], [{name: torch.ones(1, dtype=torch.bool)}])
