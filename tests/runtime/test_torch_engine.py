"""CTC models and offline transducers of the hub, as the recogniser runs them and as the training side does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from asr_pathways import Recognizer
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from asr_pathways.runtime import torch_engine
from asr_pathways.runtime.compiled_layers import CompiledLinear, CompiledLstm
from asr_pathways.runtime.torch_engine import TorchEngine
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.models.hub.tiny import LETTERS, WAVE, _letters, _letters_tokenizer, _save
from tests.pruned import overlapping
from tests.recognition import all_is_speech, cache_folder, sound, text_of  # noqa: F401

Maker = Callable[[str], Path]

CTC = ("wav2vec2", "hubert", "mms", "wav2vec2_bert", "parakeet_ctc")
TRANSDUCERS = ("parakeet_rnnt", "parakeet_tdt", "nemotron")
LANGUAGES = ("en", "fr")


def talkative(folder: Path, pruned: bool) -> AsrModel:
    """A tiny model, with larger weights than a random one has: that writes next to nothing."""
    asr = load_model(folder)
    asr.model.load_languages(LANGUAGES)
    with torch.no_grad():
        for name, weight in asr.model.network.named_parameters():
            if weight.dim() == 2 and "relative" not in name:
                weight *= 4.0
    if pruned:
        config = PathwayConfig(sparsity=0.5, exclude=matching(asr.model.network, asr.model.unprunable))
        asr.pathways = Pathways.attach(asr.model.network, config, LANGUAGES)
        overlapping(asr, 0.5)
    return asr


def engine(recognizer: Recognizer) -> TorchEngine:
    found = recognizer._engine
    assert isinstance(found, TorchEngine)
    return found


@pytest.mark.parametrize("form", ["bundle", "folder", "dense"])
@pytest.mark.parametrize("kind", CTC + TRANSDUCERS)
def test_text_is_that_of_the_training_side(hub_folder: Maker, tmp_path: Path, kind: str, form: str) -> None:  # noqa: F811
    asr, path = talkative(hub_folder(kind), form != "dense"), tmp_path / "model.asrp"
    if form == "bundle":
        write_bundle(asr, path, "float32")
    else:
        save_model(path := tmp_path / "model", asr)
    recognizer = Recognizer(path, precision="float32")
    texts = set()
    for seed, language, seconds in ((0, "en", 0.6), (1, "fr", 1.0), (2, "en", 1.3), (3, "fr", 0.45)):
        samples = sound(seconds, seed)
        result = recognizer.transcribe(samples, language=language, words=True)
        assert result.text == text_of(asr, samples, language)
        assert [word.text for word in result.words] == result.text.split()
        starts = [word.start for word in result.words]
        assert starts == sorted(starts)
        assert all(0 <= word.start <= word.end <= seconds and 0 < word.probability <= 1 for word in result.words)  # type: ignore[operator]
        texts.add(result.text)
    assert len(texts - {""}) > 1


@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_compiled_layers_run(hub_folder: Maker, tmp_path: Path, kind: str) -> None:  # noqa: F811
    save_model(tmp_path / "model", talkative(hub_folder(kind), pruned=True))
    recognizer = Recognizer(tmp_path / "model", "en", precision="float32")
    (pathway,) = engine(recognizer)._pathways.values()
    left = [name for name, one in pathway.model.network.named_modules() if isinstance(one, torch.nn.Linear)]
    assert left == []
    assert isinstance(pathway.model.network.decoder.lstm, CompiledLstm)  # type: ignore[union-attr]


def test_what_no_mask_covers_is_shared(hub_folder: Maker, tmp_path: Path) -> None:  # noqa: F811
    write_bundle(talkative(hub_folder("parakeet_ctc"), pruned=True), tmp_path / "two.asrp", "float32")
    recognizer = Recognizer(tmp_path / "two.asrp")
    for language in LANGUAGES:
        recognizer.load(language)
    found, asr = engine(recognizer), engine(recognizer)._asr
    assert asr.pathways is not None
    first, second = (dict(one.model.network.named_parameters()) for one in found._pathways.values())
    different = {name for name in first.keys() & second.keys() if first[name] is not second[name]}
    assert different < set(asr.pathways.names)
    covered = sum(asr.model.network.get_parameter(name).numel() for name in asr.pathways.names)
    assert all(0 < one.nbytes <= 5 * covered for one in found._pathways.values())


def test_pathways_beyond_the_memory_are_dropped(hub_folder: Maker, tmp_path: Path) -> None:  # noqa: F811
    asr = talkative(hub_folder("wav2vec2"), pruned=True)
    write_bundle(asr, tmp_path / "two.asrp", "float32")
    for memory, kept in ((float("inf"), 2), (1, 1)):
        recognizer = Recognizer(tmp_path / "two.asrp", precision="float32", memory=memory)
        for language in ("en", "fr", "en"):
            assert recognizer.transcribe(sound(0.6), language=language).text == text_of(asr, sound(0.6), language)
        assert len(engine(recognizer)._pathways) == kept


def test_rounded_products_write_nearly_the_same(hub_folder: Maker, tmp_path: Path) -> None:  # noqa: F811
    asr = talkative(hub_folder("wav2vec2"), pruned=True)
    save_model(tmp_path / "model", asr)
    exact, fast = (Recognizer(tmp_path / "model", "fr", precision=one) for one in ("float32", "auto"))
    samples = sound(1.2)
    with torch.no_grad():
        scores = [
            engine(one)._pathway("fr").logits(asr.model.frontend(samples)[None], torch.tensor([len(samples)]), "fr")[0]  # type: ignore[operator]
            for one in (exact, fast)
        ]
    assert (scores[0] - scores[1]).abs().max() < 0.2 * scores[0].std()
    assert isinstance(fast.transcribe(samples).text, str)


def test_threads_share_one_recognizer(hub_folder: Maker, tmp_path: Path) -> None:  # noqa: F811
    """With an adapter, an output layer and a vocabulary a language, all of which a careless one would mix up."""
    asr = talkative(hub_folder("mms"), pruned=True)
    write_bundle(asr, tmp_path / "two.asrp", "float32")
    recognizer = Recognizer(tmp_path / "two.asrp", precision="float32")
    cases = [(language, sound(0.5 + 0.1 * seed, seed)) for seed in range(4) for language in LANGUAGES]
    found: dict[int, str] = {}

    def run(number: int) -> None:
        language, samples = cases[number]
        for _ in range(5):
            found[number] = recognizer.transcribe(samples, language=language).text

    workers = [threading.Thread(target=run, args=(number,)) for number in range(len(cases))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {number: text_of(asr, samples, language) for number, (language, samples) in enumerate(cases)}


def test_torch_uses_the_threads_asked_for(hub_folder: Maker) -> None:  # noqa: F811
    before, used = torch.get_num_threads(), []
    recognizer = Recognizer(hub_folder("wav2vec2"), "en", threads=3)
    engine(recognizer)._pathway("en").network.register_forward_pre_hook(lambda *_: used.append(torch.get_num_threads()))
    recognizer.transcribe(sound(0.5))
    assert used == [3] and torch.get_num_threads() == before


def test_without_kernels_pathways_run_by_torch(
    hub_folder: Maker,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asr = talkative(hub_folder("parakeet_ctc"), pruned=True)
    save_model(tmp_path / "model", asr)
    monkeypatch.setattr(torch_engine, "available", lambda: False)
    recognizer = Recognizer(tmp_path / "model")
    for language in LANGUAGES:
        assert recognizer.transcribe(sound(0.8), language=language).text == text_of(asr, sound(0.8), language)
        network = engine(recognizer)._pathway(language).network
        assert not any(isinstance(one, CompiledLinear) for one in network.modules())


def test_errors_are_one_line(hub_folder: Maker) -> None:  # noqa: F811
    dense = Recognizer(hub_folder("wav2vec2"))
    for action, line in {
        lambda: dense.transcribe(sound(0.5)): "language: name it",
        lambda: dense.transcribe(sound(0.01), language="en"): "only 10 ms of audio: too short to recognise",
        lambda: Recognizer(hub_folder("wav2vec2"), precision="int4"): "precision: 'int4': choose auto or float32",  # type: ignore[arg-type]
        lambda: Recognizer(hub_folder("mms"), "de"): "unknown language 'de': this model knows en fr",
    }.items():
        with pytest.raises(PathwaysError) as raised:
            action()
        assert line in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("calls", "kind"), [(True, CompiledLinear), (False, torch.nn.Linear)])
def test_layers_whose_weights_another_reads_stay_as_they_are(
    calls: bool, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WavLM's attention, in transformers, takes its weights out of its linear layers; here it calls them."""
    if not calls:
        monkeypatch.setattr("asr_pathways.models.hub.wavlm.call_projections", lambda network: None)
    vocabulary = _letters(LETTERS)
    torch.manual_seed(5)
    network = transformers.WavLMForCTC(transformers.WavLMConfig(**WAVE, vocab_size=len(vocabulary), pad_token_id=0))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    asr = talkative(_save(tmp_path / "hub", network, _letters_tokenizer(tmp_path / "hub", vocabulary), extractor), True)
    save_model(tmp_path / "model", asr)
    recognizer = Recognizer(tmp_path / "model", "en", precision="float32")
    assert recognizer.transcribe(sound(0.8)).text == text_of(asr, sound(0.8), "en")
    layer = engine(recognizer)._pathway("en").network.wavlm.encoder.layers[0]  # type: ignore[union-attr, index]
    assert type(layer.attention.q_proj) is kind
    assert isinstance(layer.feed_forward.output_dense, CompiledLinear)
