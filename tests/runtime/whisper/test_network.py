"""Whisper's compiled steps, beside transformers' network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import available, extension, variants
from asr_pathways.runtime.layers import Layers
from asr_pathways.runtime.whisper.network import Network, Shape

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
Floats = NDArray[np.float32]
RECORDED = [(0, 1), (1, 0), (1, 2)]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def whisper() -> Any:
    """Of random weights, half of them zeros, whose sizes are no multiples of a vector's."""
    torch.manual_seed(3)
    config = transformers.WhisperConfig(
        vocab_size=77,
        d_model=36,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=50,
        decoder_ffn_dim=54,
        num_mel_bins=10,
        max_source_positions=70,
        max_target_positions=37,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        attn_implementation="eager",
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 6 * (torch.rand_like(weight) < 0.5)
            else:
                weight += 0.3 * torch.randn_like(weight)
    return model


def shape_of(model: Any) -> Shape:
    return Shape.read(model.config.to_dict(), "config.json")


def network_of(model: Any, precision: Any = "float32", threads: int = 1, **changes: Floats) -> Network:
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()} | changes
    return Network(shape_of(model), state.__getitem__, Layers(precision, threads=threads), threads, RECORDED)


def features(frames: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((frames, 10), dtype=np.float32)


def encoded(model: Any, x: Floats) -> torch.Tensor:
    """By transformers' encoder, of the features' own length."""
    encoder = model.model.encoder
    with torch.no_grad():
        hidden = torch.nn.functional.gelu(encoder.conv1(torch.from_numpy(x.T)[None]))
        hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            out = layer(hidden, None)
            hidden = out[0] if isinstance(out, tuple) else out
        return encoder.layer_norm(hidden)


def decoded(model: Any, encodings: torch.Tensor, tokens: list[int]) -> tuple[Floats, Floats]:
    """The decoder's output (D,) for the last token, and attention (P, T) of the recorded heads."""
    with torch.no_grad():
        out = model.model.decoder(
            input_ids=torch.tensor([tokens]), encoder_hidden_states=encodings, output_attentions=True, use_cache=False
        )
    attention = [out.cross_attentions[layer][0, head, -1].numpy() for layer, head in RECORDED]
    return out.last_hidden_state[0, -1].numpy(), np.stack(attention)


def assert_step(model: Any, step: Any, references: list[torch.Tensor], tokens: list[list[int]]) -> None:
    frames = max(reference.shape[1] for reference in references)
    assert step.attention.shape == (len(tokens), len(RECORDED), frames)
    for row, (reference, so_far) in enumerate(zip(references, tokens, strict=True)):
        hidden, attention = decoded(model, reference, so_far)
        np.testing.assert_allclose(step.hidden[row], hidden, atol=1e-4)
        np.testing.assert_allclose(step.attention[row, :, : attention.shape[1]], attention, atol=1e-4)
        assert not step.attention[row, :, attention.shape[1] :].any()


def integers(rows: list[list[int]]) -> NDArray[np.int32]:
    return np.array(rows, dtype=np.int32)


@pytest.fixture(params=[0, 1, 2, 3], ids=lambda index: variants()[index] if index < len(variants()) else "none")
def every_variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Instruction sets; those that expand nothing read weights with their zeros."""
    if request.param >= len(variants()):
        pytest.skip("this CPU has fewer instruction sets")
    name = variants()[request.param]
    check = extension.check_runner
    for module in ("asr_pathways.runtime.layers.extension", "asr_pathways.runtime.whisper.network"):
        monkeypatch.setattr(f"{module}.check_runner", lambda threads, _: check(threads, name))
    if request.param:
        from asr_pathways.runtime import layers

        every = layers.formats
        monkeypatch.setattr(layers, "formats", lambda *of: [x for x in every(*of) if x.kind != "bitmap"])
    yield name


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("every_variant")
def test_encodings_and_steps_are_transformers(whisper: Any, threads: int) -> None:
    network = network_of(whisper, threads=threads)
    inputs = [features(frames, frames) for frames in (2, 30, 94, 140)]
    references = [encoded(whisper, x) for x in inputs]
    for x, reference in zip(inputs, references, strict=True):
        np.testing.assert_allclose(network.encodings(x), reference[0].numpy(), atol=1e-4)
    crosses = [network.encode(x) for x in inputs]
    places = [1, 1, 3, 0, 2, 1]  # several hypotheses of an utterance, next to each other and not
    hypotheses = network.hypotheses([crosses[place] for place in places])
    tokens: list[list[int]] = [[] for _ in places]
    random = np.random.default_rng(0)
    for count in (3, 1, 1, 2, 1):
        fresh = random.integers(0, 77, (len(places), count)).tolist()
        tokens = [before + after for before, after in zip(tokens, fresh, strict=True)]
        step = hypotheses.step(integers(fresh), attention=True)
        assert_step(whisper, step, [references[place] for place in places], tokens)
    assert hypotheses.length == 8


def test_hypotheses_are_kept_in_any_order_and_number(whisper: Any) -> None:
    network = network_of(whisper)
    inputs = [features(frames, frames) for frames in (140, 20, 50)]
    references = [encoded(whisper, x) for x in inputs]
    crosses = [network.encode(x) for x in inputs]
    rows, tokens = [0, 1, 2], [[1], [2], [3]]
    hypotheses = network.hypotheses([crosses[row] for row in rows])
    hypotheses.keep([0, 1, 2])  # without a token yet
    hypotheses.step(integers(tokens))
    fresh = 4
    # repeated, reordered, dropped; in the end the longest utterance is gone
    for places in ([2, 2, 0, 1, 2], [4, 0, 2, 3], [3, 3, 0], [0, 2, 1], [0]):
        hypotheses.keep(places)
        rows, tokens = [rows[place] for place in places], [tokens[place] + [fresh + place] for place in places]
        step = hypotheses.step(integers([so_far[-1:] for so_far in tokens]), attention=True)
        assert_step(whisper, step, [references[row] for row in rows], tokens)
        fresh += 5
    for broken in ([], [1], [-1]):
        with pytest.raises(ValueError, match="hypothesis"):
            hypotheses.keep(broken)


def test_positions_up_to_the_last(whisper: Any) -> None:
    network = network_of(whisper)
    x = features(40)
    reference, tokens = encoded(whisper, x), np.random.default_rng(1).integers(0, 77, 37).tolist()
    at_once, one_by_one = (network.hypotheses([network.encode(x)]) for _ in range(2))
    assert_step(whisper, at_once.step(integers([tokens]), attention=True), [reference], [tokens])
    for end in range(1, 38):
        step = one_by_one.step(integers([tokens[end - 1 : end]]), attention=True)
        assert_step(whisper, step, [reference], [tokens[:end]])
    for hypotheses in (at_once, one_by_one):
        with pytest.raises(ValueError, match="more tokens than the decoder has positions for"):
            hypotheses.step(integers([[1]]))
    assert at_once.length == 37


def test_steps_that_do_not_fit_are_refused(whisper: Any) -> None:
    network = network_of(whisper)
    hypotheses = network.hypotheses([network.encode(features(8))] * 2)
    for tokens, problem in (
        ([[1]], r"tokens are \(hypotheses, n\)"),
        ([[], []], r"tokens are \(hypotheses, n\)"),
        ([[77], [0]], "no such token"),
        ([[0], [-1]], "no such token"),
        ([[0] * 38] * 2, "more tokens than"),
    ):
        with pytest.raises(ValueError, match=problem):
            hypotheses.step(np.array(tokens, dtype=np.int32).reshape(len(tokens), -1))
    assert hypotheses.length == 0
    with pytest.raises(ValueError, match="a hypothesis is of an utterance"):
        network.hypotheses([])
    with pytest.raises(ValueError, match="an utterance of another decoder"):
        network.hypotheses([None])


def test_utterances_of_another_decoder_are_refused(whisper: Any) -> None:
    other = copy.deepcopy(whisper.config)
    other.update({"d_model": 48, "encoder_ffn_dim": 50})
    wider = network_of(transformers.WhisperForConditionalGeneration(other).eval())
    network = network_of(whisper)
    for maker, reader in ((wider, network), (network, wider)):
        with pytest.raises(ValueError, match="an utterance of another decoder"):
            reader.hypotheses([maker.encode(features(8))])
    if network_of(whisper, "auto")._layers.attention != "float32":
        with pytest.raises(ValueError, match="an utterance of another decoder"):
            network.hypotheses([network_of(whisper, "auto").encode(features(8))])


def test_rounded_products_are_near(whisper: Any) -> None:
    network, x = network_of(whisper, "auto"), features(60)
    reference = encoded(whisper, x)
    encodings = network.encodings(x)
    assert np.std(encodings - reference[0].numpy()) < 0.1 * np.std(encodings)
    step = network.hypotheses([network.encode(x)]).step(integers([[1, 2, 3]]))
    hidden, _ = decoded(whisper, reference, [1, 2, 3])
    assert np.std(step.hidden[0] - hidden) < 0.1 * np.std(hidden)


def test_the_likeliest_tokens_are_transformers(whisper: Any) -> None:
    network, x = network_of(whisper), features(60)
    step = network.hypotheses([network.encode(x)] * 2).step(integers([[1, 2], [5, 6]]))
    table = whisper.proj_out.weight.detach().double().numpy()
    banned = np.zeros(77, np.uint8)
    banned[::3] = 1
    for ban in (None, banned):
        logits = step.hidden.astype(np.float64) @ table.T
        if ban is not None:
            logits[:, ban == 1] = -np.inf
        tokens, scores = network.best(step.hidden, 4, ban)
        order = np.argsort(-logits, axis=1)[:, :4]
        assert tokens.tolist() == order.tolist()
        wanted = torch.from_numpy(logits).log_softmax(1).numpy()
        np.testing.assert_allclose(scores, np.take_along_axis(wanted, order, 1), atol=0.02)
    tokens, scores = network.best(step.hidden, 1, np.ones(77, np.uint8))
    assert tokens.tolist() == [[-1], [-1]] and (scores == -np.inf).all()


def test_weights_that_are_not_finite_are_no_tokens(whisper: Any) -> None:
    for name in ("encoder.layers.0.fc1", "decoder.layers.1.self_attn.q_proj", "encoder.conv2"):
        weight = whisper.state_dict()[f"model.{name}.weight"].numpy().copy()
        weight.reshape(-1)[5] = np.nan
        for precision in ("float32", "auto"):
            network = network_of(whisper, precision, **{f"model.{name}.weight": weight})
            step = network.hypotheses([network.encode(features(20))]).step(integers([[1]]))
            with pytest.raises(PathwaysError, match="the model's weights are broken: logits are not finite"):
                network.best(step.hidden, 1, None)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("encoder.conv1.weight", (36, 9, 3), "encoder.conv1.weight"),
        ("encoder.conv2.weight", (36, 36, 5), "encoder.conv2.weight"),
        ("encoder.embed_positions.weight", (1, 36), "encoder.embed_positions.weight"),
        ("decoder.embed_positions.weight", (36, 36), "decoder.embed_positions.weight"),
        ("decoder.embed_tokens.weight", (77, 32), "an embedding has a value for each channel"),
        ("encoder.layer_norm.weight", (32,), "encoder.layer_norm.weight"),
        ("decoder.layers.0.fc1.weight", (54, 35), "a layer does not fit the others"),
        ("decoder.layers.0.fc2.weight", (36, 50), "a layer does not fit the others"),
        ("decoder.layers.0.fc2.bias", (35,), "a bias has a value for each row"),
        ("decoder.layers.1.encoder_attn.k_proj.weight", (24, 36), "a layer does not fit the others"),
        ("decoder.layers.1.encoder_attn.k_proj.weight", (0, 36), "reshape|a weight of shape"),
        ("decoder.layers.1.encoder_attn.k_proj.weight", (), "unsized"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(whisper: Any, name: str, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(PathwaysError, match=f"not those of a Whisper of this size: .*({problem})"):
        network_of(whisper, **{f"model.{name}": np.zeros(shape, np.float32)})


def test_kernels_that_expand_nothing_refuse_a_model_without_its_zeros(whisper: Any) -> None:
    kernels = extension.built()
    if not kernels.expands("float32"):
        pytest.skip("this CPU expands no weights")

    def compress(out: int, into: int) -> Any:
        return kernels.Linear(kernels.Dense(np.eye(out, into, dtype=np.float32), "float32", True), None)

    norm = (np.ones(8, np.float32), np.zeros(8, np.float32), 1e-5)
    attention = [compress(8, 8)] * 4
    x, plain = np.ones((3, 8), np.float32), (1, "portable")
    encoder = kernels.Encoder(2, "float32", [(norm, *attention, norm, compress(12, 8), compress(8, 12))], norm)
    layer = (norm, *attention, norm, *attention, norm, compress(12, 8), compress(8, 12))
    decoder = kernels.Decoder(2, "float32", x, x, [layer], norm, [])
    hypotheses = kernels.Hypotheses(decoder, [decoder.cross(x, (1, ""))])
    for action in (
        lambda: encoder.encode(x, plain),
        lambda: decoder.cross(x, plain),
        lambda: hypotheses.step(np.zeros((1, 1), np.int32), False, plain),
    ):
        with pytest.raises(ValueError, match="kernels portable need weights with their zeros"):
            action()
    assert np.isfinite(hypotheses.step(np.zeros((1, 1), np.int32), False, (1, ""))[0]).all()


def test_sizes_that_no_network_has_are_refused(whisper: Any) -> None:
    config = whisper.config.to_dict()
    for name, value in (("d_model", 0), ("vocab_size", "77"), ("encoder_layers", None), ("decoder_layers", True)):
        with pytest.raises(PathwaysError, match=f"here: {name}: .*: not a size of Whisper"):
            Shape.read(config | {name: value}, "here")
    with pytest.raises(PathwaysError, match="only Whisper's own activation"):
        Shape.read(config | {"activation_function": "relu"}, "here")
    with pytest.raises(PathwaysError, match="here: tie_word_embeddings: the output layer must be the embedding"):
        Shape.read(config | {"tie_word_embeddings": False}, "here")
