from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_pathways.bundle.bundle import Bundle, write_bundle
from asr_pathways.data.features import Fbank
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from asr_pathways.runtime import layers, pathway_cache
from asr_pathways.runtime.kernels import available, extension
from asr_pathways.runtime.sources import ModelSource
from asr_pathways.runtime.stream import Endpointing
from asr_pathways.runtime.streaming import FRAME, StreamingTransducer, TransducerStream, _words, _Written
from tests.conftest import LANGUAGES, WORDS, make_model, spoken

needs_kernels = pytest.mark.skipif(not available(), reason="the kernels were not built")

LAYOUTS = {
    "conv": {},
    "stack": {"encoder": EmformerConfig(dim=16, ffn_dim=32, heads=2, layers=2, segment=3, left_context=6)},
    "blocks": {"predictor_layers": 2},
}


def pruned(tokenizer: Tokenizer, layout: str = "conv") -> AsrModel:
    """A recogniser of two pathways that give different texts, drawn at random."""
    asr = make_model(tokenizer, **LAYOUTS[layout])
    model = asr.model
    structure = "block:4x1" if layout == "blocks" else "unstructured"
    config = PathwayConfig(sparsity=0.7, granularity=structure, exclude=matching(model, model.unprunable))
    asr.pathways = Pathways.attach(model, config, LANGUAGES)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    asr.pathways.adapt("fr")  # another mask than that of English
    _speak(asr)
    return asr


def _speak(asr: AsrModel) -> None:
    """Makes blank win in about two frames of three, so that there is something to compare."""
    model = asr.model
    margins = []
    with torch.no_grad():
        model.joiner.encoding.weight.mul_(8)
        for language in LANGUAGES:
            features = Fbank()(utterance(language, 1))[None]
            with asr.use(language):
                encodings, _ = model.encodings(features, torch.tensor([features.shape[1]]), language)
                logits = model.joiner(encodings, model.predictor(torch.tensor([[model.blank]]))[0])[0, :, 0]
            margins.append(logits[:, :-1].amax(dim=1) - logits[:, -1])
        model.joiner.output.bias[-1] += torch.cat(margins).quantile(0.66)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def exact(source: Any, **options: Any) -> StreamingTransducer:
    return StreamingTransducer(source, precision="float32", **options)


@pytest.fixture(scope="module", params=list(LAYOUTS))
def trained(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> AsrModel:
    return pruned(tokenizer, request.param)


def utterance(language: str, seed: int, words: int = 9) -> np.ndarray:
    names = WORDS[language]
    return spoken([names[(seed + place * place) % 5] for place in range(words)], language, seed)


def expected(trained: AsrModel, samples: np.ndarray, language: str) -> list[int]:
    """What the training side finds in a whole utterance."""
    features = Fbank()(samples)
    with trained.use(language):
        return trained.model.decode(features[None], torch.tensor([len(features)]), language)[0]


def symbols(stream: TransducerStream, samples: np.ndarray, cuts: list[int], rate: int = 16_000) -> list[str]:
    for piece in np.split(samples, sorted(cuts)):
        stream.accept(piece, rate)
        stream.partial()
    return [token for token, _ in stream.final().tokens]


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 21_000), max_size=8), seed=st.integers(0, 5), language=st.sampled_from(LANGUAGES))
def test_pieces_of_any_size_give_what_the_training_side_finds(
    trained: AsrModel, cuts: list[int], seed: int, language: str
) -> None:
    recognizer = exact(ModelSource(trained))
    samples = utterance(language, seed)
    wanted = expected(trained, samples, language)
    pieces = trained.tokenizer.pieces()
    assert symbols(recognizer.stream(language), samples, cuts) == [pieces[symbol] for symbol in wanted]


@needs_kernels
def test_encodings_are_those_of_the_training_side(trained: AsrModel) -> None:
    recognizer = exact(ModelSource(trained))
    features = Fbank()(utterance("fr", 1))[None]
    lengths = torch.tensor([features.shape[1]])
    with trained.use("fr"), torch.no_grad():
        wanted, _ = trained.model.encodings(features, lengths, "fr")
        logits = trained.model.joiner(wanted, trained.model.predictor(torch.tensor([[24, 3, 5]]))[0])
    model = recognizer.pathways.get("fr").model
    with torch.inference_mode():
        found = model.encoder.stream(model.normalize(features), model.encoder.initial_state(1, features), final=True)
        own = model.joiner(found, model.predictor(torch.tensor([[24, 3, 5]]))[0])
    torch.testing.assert_close(own, logits, atol=1e-4, rtol=0)
    assert recognizer.pathways.nbytes > 0


def test_bundles_stream(trained: AsrModel, tmp_path: Path) -> None:
    write_bundle(trained, tmp_path / "five.asrp", "float32")
    shipped, own = exact(tmp_path / "five.asrp"), exact(ModelSource(trained))
    for language in LANGUAGES:
        samples = utterance(language, 2)
        assert symbols(shipped.stream(language), samples, []) == symbols(own.stream(language), samples, [])


def test_without_kernels_products_are_dense_and_a_warning_says_so_once(
    trained: AsrModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = utterance("fr", 1)
    wanted = symbols(exact(ModelSource(trained)).stream("fr"), samples, [])
    monkeypatch.setattr(extension, "compiled", None)
    extension.warn_of_dense_products.cache_clear()
    with caplog.at_level(logging.WARNING):
        recognizer = exact(ModelSource(trained))
        recognizer.load("fr")
        recognizer.load("en")
    assert symbols(recognizer.stream("fr"), samples, []) == wanted
    assert recognizer.pathways.nbytes == 0
    assert [record.message for record in caplog.records] == [
        "sparse kernels were not built: products run dense; install a C++ compiler, then this again"
    ]


@needs_kernels
def test_int8_is_near_and_smaller(trained: AsrModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        layers._Known,
        "_measure",
        lambda known, *_: {one.name: [1.0 if one.item == "int8" else 9.0, 0.0, 1.0] for one in known._formats},
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = ModelSource(trained)
    precise, rounded = exact(source), StreamingTransducer(source)
    for recognizer in (precise, rounded):
        recognizer.load("fr")
    assert rounded.pathways.layers is not None
    plan = rounded.pathways.layers.plan
    assert {(product.exact, timings[0].format.item) for product, timings in plan.items()} == {
        (False, "int8"),
        (True, "float32"),  # of predictor and joiner
    }
    assert 0 < rounded.pathways.nbytes < precise.pathways.nbytes
    features = Fbank()(utterance("fr", 1))[None]
    found = []
    for recognizer in (precise, rounded):
        model = recognizer.pathways.get("fr").model
        with torch.inference_mode():
            state = model.encoder.initial_state(1, features)
            found.append(model.encoder.stream(model.normalize(features), state, final=True))
    assert 0 < (found[0] - found[1]).abs().mean() < 0.05 * found[0].abs().mean()


@needs_kernels
def test_a_pathway_is_prepared_from_one_read_of_each_weight(
    trained: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(trained, tmp_path / "five.asrp", "float32")
    layout = Bundle.open(tmp_path / "five.asrp").layout
    recognizer = StreamingTransducer(tmp_path / "five.asrp")
    recognizer.load(LANGUAGES[0])
    sizes, read = list[int](), os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: (sizes.append(read(*args)), sizes[-1])[1])
    recognizer.load(LANGUAGES[1])
    parts = [f"values/{name}" for name in layout.prunable] + [f"masks/{LANGUAGES[1]}"]
    assert sum(sizes) == sum(layout.slots[part].nbytes for part in parts)


def test_layers_without_masks_are_shared_by_languages(trained: AsrModel, tmp_path: Path) -> None:
    write_bundle(trained, tmp_path / "two.asrp", "float32")
    recognizer = exact(tmp_path / "two.asrp")
    for language in LANGUAGES:
        recognizer.load(language)
    one, other = (recognizer.pathways.get(language).model for language in LANGUAGES)
    assert one.joiner.output is other.joiner.output
    assert one.encoder.front_end.projection is not other.encoder.front_end.projection


@needs_kernels
def test_a_weight_goes_when_its_layer_is_made(trained: AsrModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else preparing a pathway would take the memory of the dense model."""
    weights: list[weakref.ref[torch.Tensor]] = []
    compiled = pathway_cache.compiled_linear

    def noted(module: nn.Linear, *arguments: Any) -> Any:
        assert [weight() for weight in weights if weight() is not None] == []
        weights.append(weakref.ref(module.weight))
        return compiled(module, *arguments)

    monkeypatch.setattr(pathway_cache, "compiled_linear", noted)
    exact(ModelSource(trained)).load("fr")
    assert len(weights) > 8


def test_streams_side_by_side_do_not_disturb_each_other(trained: AsrModel) -> None:
    recognizer = exact(ModelSource(trained))
    jobs = [(language, utterance(language, seed, words=4 + seed)) for seed in range(4) for language in LANGUAGES]
    streams = [recognizer.stream(language) for language, _ in jobs]
    for start in range(0, 24_000, 2_000):
        some = streams[: 2 + start // 4_000]  # later ones start later
        for stream, (_, samples) in zip(some, jobs, strict=False):
            stream.accept(samples[start : start + 2_000])
        recognizer.decode(streams)
    for index, (stream, (language, samples)) in enumerate(zip(streams, jobs, strict=True)):
        late = sum(2 + start // 4_000 <= index for start in range(0, 24_000, 2_000))
        heard = samples[2_000 * late : 24_000]
        pieces = trained.tokenizer.pieces()
        wanted = [pieces[symbol] for symbol in expected(trained, heard, language)] if len(heard) else []
        assert [token for token, _ in stream.final().tokens] == wanted


def test_a_switch_between_segments_is_like_a_new_stream(trained: AsrModel) -> None:
    recognizer = exact(ModelSource(trained))
    one, two = utterance("en", 0), utterance("fr", 1)
    stream = recognizer.stream("en")
    stream.accept(one)
    first = stream.final()
    stream.switch("fr-FR")
    assert stream.language == "fr"
    stream.accept(two)
    second = stream.final()
    fresh = recognizer.stream("fr")
    fresh.accept(two)
    alone = fresh.final()
    assert second.text == alone.text
    assert second.start == first.end == pytest.approx(len(one) / 16_000)
    assert [time for _, time in second.tokens] == pytest.approx(
        [time + second.start for _, time in alone.tokens], abs=0.011
    )
    assert first.final and second.language == "fr"


def test_a_segment_must_end_before_the_language_is_switched(trained: AsrModel) -> None:
    stream = exact(ModelSource(trained)).stream("en")
    stream.accept(utterance("en", 0))
    with pytest.raises(PathwaysError, match=r"a segment has begun: end it by final\(\)"):
        stream.switch("fr")
    stream.final()
    with pytest.raises(PathwaysError, match="unknown language 'xx': this model knows en fr"):
        stream.switch("xx")


def test_other_rates_are_resampled_piece_by_piece(trained: AsrModel) -> None:
    recognizer = exact(ModelSource(trained))
    samples = np.repeat(utterance("en", 2), 3)
    whole = symbols(recognizer.stream("en"), samples, [], 48_000)
    assert symbols(recognizer.stream("en"), samples, [100, 5_000, 5_001, 40_000], 48_000) == whole
    stream = recognizer.stream("en")
    stream.accept(samples, 48_000)
    with pytest.raises(PathwaysError, match="sample rate 16000 Hz after 48000 Hz"):
        stream.accept(samples)
    assert stream.final().end == pytest.approx(len(samples) / 48_000, abs=0.001)


@needs_kernels
def test_what_was_used_longest_ago_leaves_memory(trained: AsrModel) -> None:
    source = ModelSource(trained)
    both = exact(source)
    for language in LANGUAGES:
        both.load(language)
    assert both.pathways.loaded == LANGUAGES
    one = exact(source, memory=both.pathways.nbytes - 1)
    stream = one.stream("en")
    one.load("fr")
    assert one.pathways.loaded == ("fr",)
    stream.accept(utterance("en", 0))  # an evicted pathway lives as long as its streams
    wanted = both.stream("en")
    wanted.accept(utterance("en", 0))
    assert stream.final() == wanted.final()


def test_threads_may_share_a_recogniser(trained: AsrModel) -> None:
    recognizer = exact(ModelSource(trained))
    pieces = trained.tokenizer.pieces()
    jobs = [(language, utterance(language, seed)) for seed in range(6) for language in LANGUAGES]

    def run(job: tuple[str, np.ndarray]) -> list[str]:
        return symbols(recognizer.stream(job[0]), job[1], [3_000, 9_000])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, jobs))
    assert found == [[pieces[s] for s in expected(trained, samples, language)] for language, samples in jobs]


def test_silence_ends_a_segment(trained: AsrModel) -> None:
    rules = Endpointing(after_speech=0.4, before_speech=1.0, longest=5.0)
    stream = exact(ModelSource(trained), endpointing=rules).stream("en")
    assert not stream.endpoint()
    stream._segment.search.past = [24]
    assert not stream.endpoint()
    stream._segment.search.past = [25]
    assert stream.endpoint()
    stream._segment.search.symbols, stream._segment.search.frames = [[1]], [[15]]
    assert not stream.endpoint()
    stream._segment.search.past = [26]
    assert stream.endpoint()
    stream._segment.search.frames, stream._segment.search.past = [[124]], [125]
    assert stream.endpoint()


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(10), 16_000, "samples must be a float32 vector in .-1, 1., not float64"),
        (np.zeros((2, 10), np.float32), 16_000, r"of shape \(2, 10\)"),
        (np.full(10, np.nan, np.float32), 16_000, "not finite"),
        *(
            (np.zeros(10, np.float32), rate, f"^sample rate {rate} Hz: it must be from 1,000 to 10,000,000 Hz$")
            for rate in (0, -16_000, 1, 10**12, float("nan"), float("inf"), "16000", None, True)
        ),
        (np.full(10, 9830, np.float32), 16_000, "samples reach 9830 where full scale is 1: divide those of 16 bits by"),
    ],
)
def test_bad_samples_are_refused(trained: AsrModel, samples: np.ndarray, rate: Any, message: str) -> None:
    stream = exact(ModelSource(trained)).stream("en")
    with pytest.raises(PathwaysError, match=message):
        stream.accept(samples, rate)


def test_beam_search_streams_and_knows_phrases(trained: AsrModel) -> None:
    source = ModelSource(trained)
    plain, biased = (exact(source, beam=12, phrases=phrases, bonus=50.0) for phrases in ((), ("Five!", "two three")))
    jobs = [utterance("en", seed) for seed in range(3)]
    alone = [symbols(plain.stream("en"), samples, [700, 9_000]) for samples in jobs]
    streams = [plain.stream("en") for _ in jobs]
    for stream, samples in zip(streams, jobs, strict=True):
        stream.accept(samples)
    plain.decode(streams)
    assert [[token for token, _ in stream.final().tokens] for stream in streams] == alone
    stream = biased.stream("en")
    stream.accept(jobs[1])
    text = stream.final().text
    assert "five" in text or "twothree" in text.replace(" ", "")


def test_what_cannot_stream_is_refused(trained: AsrModel) -> None:
    with pytest.raises(PathwaysError, match="unknown language 'xx'"):
        exact(ModelSource(trained)).stream("xx")
    with pytest.raises(PathwaysError, match="phrases: greedy search has no phrases"):
        exact(ModelSource(trained), phrases=["one"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phrases": "one two"}, "phrases: a list of phrases is needed, not the text 'one two'"),
        ({"phrases": [""]}, "phrases: '' has no words"),
        ({"phrases": ["one", " "]}, "phrases: ' ' has no words"),
        ({"phrases": ["?!"]}, "phrases: '\\?!' has no words"),
        ({"phrases": ["один"]}, "phrases: 'один': the model does not write д и н о in en"),
        ({"phrases": ["one"], "bonus": float("nan")}, "bonus: nan: a number between -1000 and 1000 is needed"),
        ({"phrases": ["one", None]}, "phrases: each must be a text"),
        ({"bonus": 1e308}, "bonus: 1e\\+308: a number between -1000 and 1000 is needed"),
        ({"bonus": float("inf")}, "bonus: inf: a number between -1000 and 1000 is needed"),
    ],
)
def test_phrases_that_cannot_be_preferred_are_refused(
    trained: AsrModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises(PathwaysError, match=f"^{message}$"):
        exact(ModelSource(trained), beam=4, **options).load("en")  # type: ignore[arg-type]


def test_no_audio_gives_no_words(trained: AsrModel) -> None:
    stream = exact(ModelSource(trained)).stream("en")
    assert stream.partial().text == "" and stream.final().tokens == []


@given(st.lists(st.lists(st.integers(0, 23), max_size=6), max_size=8), st.booleans())
def test_text_that_grows_is_that_of_all_symbols(tokenizer: Tokenizer, parts: list[list[int]], changes: bool) -> None:
    written = _Written(tokenizer, 2.0)
    symbols: list[int] = []
    for part in parts:
        symbols = [*(symbols[:-1] if changes else symbols), *part]  # beam search may change its mind
        frames = list(range(5, 5 + len(symbols)))
        text, tokens = written.read(symbols, frames)
        assert text == tokenizer.decode(symbols) == " ".join(word.text for word in _words(tokens))
        pieces = tokenizer.pieces()
        assert tokens == [
            (pieces[symbol], round(2.0 + FRAME * frame, 2)) for symbol, frame in zip(symbols, frames, strict=True)
        ]


def test_words_of_one_frame_are_spoken_one_after_the_other() -> None:
    words = _words([("▁of", 1.0), ("▁th", 1.0), ("e", 1.04), ("▁a", 1.04), ("▁b", 2.0)])
    assert [(word.text, word.start, word.end) for word in words] == [
        ("of", 1.0, 1.04),
        ("the", 1.04, 1.08),
        ("a", 1.08, 1.08),
        ("b", 2.0, 2.04),
    ]


def test_a_partial_result_decodes_only_what_is_new(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    plain = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: decoded.append(len(ids)) or plain(ids))
    words = tokenizer.encode("one two three four five")
    written, symbols = _Written(tokenizer, 0.0), list[int]()
    for _ in range(300):
        symbols = [*symbols, *words]
        text = written.read(symbols, list(range(len(symbols))))[0]
    assert text.split() == ["one", "two", "three", "four", "five"] * 300
    assert sum(decoded) < 3 * len(symbols)
