"""Streams of cache-aware transducers of the hub: beside transformers' own streaming, and beside whole recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from asr_pathways import Recognizer
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import Samples, resample
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.runtime.stream import Endpointing
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import prune
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.models.hub.test_hub import RECIPE
from tests.recognition import all_is_speech, cache_folder, sound, text_of  # noqa: F401
from tests.runtime.test_torch_engine import talkative

Maker = Callable[[str], Path]

KINDS = ("nemotron", "nemotron_prompts")
HOP, HALF, FACTOR = 160, 256, 4


def chunks(model: HubTransducer, samples: Samples, lookahead: int) -> Iterator[Tensor]:
    """Whole chunks of features, as transformers' processor makes them: the first is centred, others overlap."""
    extract, place = model.frontend.extractor, 0
    padded = np.pad(samples, (HALF, 0))  # without look-ahead the second begins before the audio
    while True:
        frames = FACTOR * (lookahead + 1) if place else 1 + FACTOR * lookahead
        size = frames * HOP + 400 if place else (frames - 1) * HOP + 200
        part = (padded[place * HOP :] if place else samples)[:size]
        if len(part) < size:
            return
        yield extract(part, sampling_rate=16_000, center=place == 0, return_tensors="pt")["input_features"][:, :frames]
        place += frames


def voice(seconds: float, seed: int = 0) -> Samples:
    """Noise that is loud and soft in turn, as syllables are."""
    random, samples = np.random.default_rng(seed), sound(seconds, seed)
    levels = np.repeat(random.uniform(-3.0, 0.5, len(samples) // 1000 + 1), 1000)[: len(samples)]
    return (samples * 10**levels).astype(np.float32)


def lively(folder: Path, pruned: bool) -> AsrModel:
    """A tiny model whose tokens depend on the audio."""
    asr = talkative(folder, pruned)
    enliven(asr)
    return asr


def enliven(asr: AsrModel) -> None:
    """Centres the encodings of a random model, and makes the joiner's weights large."""
    model = asr.model
    assert isinstance(model, HubTransducer)
    torch.manual_seed(3)
    with asr.inference("fr"):
        features = model.frontend(voice(3.0, 9))[None]
        hub = model.hub
        hub.joint.head.weight.normal_(std=1.5)
        hub.decoder.embedding.weight.normal_()
        encoded = model._encode(features, torch.tensor([features.shape[1]]), "fr").pooler_output[0]
        hub.encoder_projector.weight /= encoded.std(dim=0)[:, None]
        hub.encoder_projector.bias -= encoded.mean(dim=0)
        hub.encoder_projector.bias /= encoded.std(dim=0)
        hub.joint.head.bias[model.blank] = 4.0


@pytest.mark.parametrize("lookahead", [0, 1, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_chunks_are_those_of_transformers(hub_folder: Maker, kind: str, lookahead: int) -> None:  # noqa: F811
    asr, samples = lively(hub_folder(kind), pruned=False), voice(2.5)
    model = asr.model
    assert isinstance(model, HubTransducer) and model.cache_aware is not None
    if lookahead not in model.cache_aware.lookaheads:
        with pytest.raises(PathwaysError, match=f"lookahead: {lookahead}: this model was trained with 0, 1, "):
            Recognizer(asr, lookahead=lookahead)
        return
    options = {} if kind == "nemotron" else {"prompt_ids": torch.tensor([1])}
    made = model.hub.generate(
        input_features=chunks(model, samples, lookahead),
        num_lookahead_tokens=lookahead,
        decoder_start_token_id=model.blank,
        **options,
    )
    expected = [int(token) for token in made.sequences[0] if token not in (model.blank, model.hub.config.pad_token_id)]
    stream = Recognizer(asr, "fr", precision="float32", lookahead=lookahead).stream()
    stream.accept(samples)
    found = stream.partial()
    ids = [asr.tokenizer.tokenizer.convert_tokens_to_ids(piece) for piece, _ in found.tokens]
    assert ids[: len(expected)] == expected and len(set(expected)) > 3
    # transformers' processor waits for 48 samples more than a frame needs: there may be one more chunk
    assert found.end - 0.04 * (lookahead + 1) * len(list(chunks(model, samples, lookahead))) < 0.04 * (lookahead + 1.5)


@pytest.mark.parametrize("form", ["dense", "pruned", "bundle"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_text_of_the_whole_recording(
    hub_folder: Maker,  # noqa: F811
    tmp_path: Path,
    kind: str,
    form: str,
) -> None:
    asr, path = lively(hub_folder(kind), form != "dense"), tmp_path / "model.asrp"
    if form == "bundle":
        write_bundle(asr, path, "float32")
    recognizer = Recognizer(path if form == "bundle" else asr, precision="float32")
    random, texts = np.random.default_rng(3), set()
    for language, samples in (("en", voice(1.0)), ("fr", voice(0.87, 1)), ("fr", voice(0.51, 2)), ("fr", voice(1.0))):
        stream = recognizer.stream(language)
        for part in np.split(samples, np.sort(random.integers(0, len(samples), 9))):
            stream.accept(part)
            stream.partial()
        found = stream.final()
        assert found.text == text_of(asr, samples, language) == recognizer.transcribe(samples, language=language).text
        assert found.final and found.end == pytest.approx(len(samples) / 16_000)
        assert " ".join(word.text for word in found.words) == found.text
        texts.add(found.text)
    assert len(texts) == (3 if kind == "nemotron" and form == "dense" else 4)  # which has nothing of a language


def test_a_segment_ends_anywhere(hub_folder: Maker) -> None:  # noqa: F811
    """Also where what is left after its last chunk makes no frame."""
    asr, samples = lively(hub_folder("nemotron"), pruned=False), voice(1.0, 1)
    recognizer = Recognizer(asr, "fr", precision="float32")
    for length in (8570, 8600, 8639, 8650):
        stream = recognizer.stream()
        stream.accept(samples[:length])
        stream.partial()
        assert stream.final().text == text_of(asr, samples[:length], "fr")


def test_segments_follow_each_other_and_languages_change(hub_folder: Maker) -> None:  # noqa: F811
    asr = lively(hub_folder("nemotron_prompts"), pruned=True)
    recognizer = Recognizer(asr, "en", precision="float32", endpointing=Endpointing(longest=1.0))
    stream, samples = recognizer.stream(), voice(1.2)
    stream.accept(samples)
    with pytest.raises(PathwaysError, match="a segment has begun"):
        stream.switch("fr")
    recognizer.decode([stream])
    assert stream.endpoint() and stream.language == "en"
    first = stream.final()
    stream.switch("fr")
    assert not stream.endpoint() and stream.partial().text == ""
    stream.accept(samples)
    second = stream.final()
    assert first.text == text_of(asr, samples, "en") and second.text == text_of(asr, samples, "fr") != first.text
    assert (second.start, second.end, second.language) == pytest.approx((1.2, 2.4, "fr"))
    assert all(1.2 <= word.start < word.end <= 2.4 for word in second.words)
    with pytest.raises(PathwaysError, match="unknown language 'nl'"):
        stream.switch("nl")


def test_audio_of_another_rate_is_resampled_as_it_comes(hub_folder: Maker) -> None:  # noqa: F811
    recognizer = Recognizer(lively(hub_folder("nemotron"), pruned=False), "en", precision="float32")
    assert recognizer.streams and not recognizer.batched
    stream, samples = recognizer.stream(), resample(voice(1.5), 16_000, 8_000)
    for part in np.array_split(samples, 7):
        stream.accept(part, 8_000)
    with pytest.raises(PathwaysError, match="sample rate 16000 Hz after 8000 Hz"):
        stream.accept(samples)
    assert stream.final().text == recognizer.transcribe(samples, 8_000).text != ""


def test_what_is_too_short_for_a_frame_has_no_text(hub_folder: Maker) -> None:  # noqa: F811
    stream = Recognizer(lively(hub_folder("nemotron"), pruned=False), "en").stream()
    stream.accept(voice(0.005))
    assert stream.final().text == "" and stream.final().words == ()


def test_it_is_pruned_refitted_trained_shipped_and_streamed(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:  # noqa: F811
    save_model(tmp_path / "dense", lively(hub_folder("nemotron_prompts"), pruned=False))
    recipe = PruneRecipe.model_validate({**RECIPE, "calibration_batches": 2, "refit_batches": 1})
    prune(tmp_path / "dense", speech, tmp_path / "run", method="dynamic", sparsity=0.7, recipe=recipe)
    asr = load_model(tmp_path / "run")
    enliven(asr)
    assert asr.pathways is not None and asr.languages == ("en", "fr")
    assert all(share == pytest.approx(0.7, abs=0.01) for share in asr.pathways.summary().sparsity.values())
    write_bundle(asr, tmp_path / "two.asrp", "float32")
    stream, texts = Recognizer(tmp_path / "two.asrp", "en", precision="float32").stream(), []
    for language in ("en", "fr"):
        stream.switch(language)
        stream.accept(voice(1.5))
        texts.append(stream.final().text)
        assert texts[-1] == text_of(asr, voice(1.5), language) != ""
    assert texts[0] != texts[1]


def test_rounded_products_write_nearly_the_same(hub_folder: Maker) -> None:  # noqa: F811
    asr, samples = lively(hub_folder("nemotron"), pruned=True), voice(2.0)
    encodings = []
    for precision in ("float32", "auto"):
        streaming = Recognizer(asr, "fr", precision=precision)._cache_aware  # type: ignore[arg-type]
        assert streaming is not None
        network = streaming.network("fr")
        state, features = network.encoder.initial_state(), asr.model.frontend(samples)
        with torch.inference_mode():
            encodings.append(network.encode(features[: network.encoder.features_wanted(state)], state))
    assert 0 < (encodings[0] - encodings[1]).std() < 0.1 * encodings[0].std()


@pytest.mark.parametrize("kind", ["nemotron", "parakeet_rnnt"])
def test_options_of_other_models_are_refused(hub_folder: Maker, kind: str) -> None:  # noqa: F811
    with pytest.raises(PathwaysError, match="phrases: only transducers of this package prefer some"):
        Recognizer(load_model(hub_folder(kind)), phrases=["Dijkstra"])
    if kind == "parakeet_rnnt":
        with pytest.raises(PathwaysError, match="lookahead: only cache-aware transducers of the hub have a choice"):
            Recognizer(load_model(hub_folder(kind)), lookahead=1)
