"""The recogniser that users run, beside the training side's decoding."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr_pathways import Recognizer
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder import language_id
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.language_id import LanguageIdentifier
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from asr_pathways.runtime.whisper.engine import WhisperEngine
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.pruned import overlapping
from tests.recognition import all_is_speech, cache_folder, sound, text_of  # noqa: F401

Maker = Callable[[str], Path]


def made_larger(asr: AsrModel) -> AsrModel:
    """With larger weights, and for short windows: otherwise it writes one token whatever it is given."""
    asr.model.train_on_short_windows()
    with torch.no_grad():
        for name, weight in asr.model.network.named_parameters():
            if weight.dim() == 2:
                weight *= 30.0 if "embed_positions" in name else 8.0
    return asr


@pytest.fixture(scope="module")
def pruned(hub_folder: Maker) -> AsrModel:  # noqa: F811
    """A Whisper of random weights with pathways, made for short windows."""
    asr = made_larger(load_model(hub_folder("whisper")))
    config = PathwayConfig(sparsity=0.5, exclude=asr.model.unprunable)
    asr.pathways = Pathways.attach(asr.model.network, config, ["en", "fr"])
    overlapping(asr, 0.5)
    return asr


@pytest.mark.parametrize("form", ["bundle", "folder"])
def test_text_is_that_of_the_training_side(pruned: AsrModel, tmp_path: Path, form: str) -> None:
    path = tmp_path / ("two.asrp" if form == "bundle" else "two")
    if form == "bundle":
        write_bundle(pruned, path, "float32")
    else:
        save_model(path, pruned)
    recognizer = Recognizer(path, precision="float32")
    assert recognizer.languages == ("en", "fr") and recognizer.identifies_languages and not recognizer.streams
    texts = set()
    for language in recognizer.languages:
        for seed, seconds in enumerate((0.3, 0.51, 1.2)):
            samples = sound(seconds, seed)
            result = recognizer.transcribe(samples, language=language, words=True)
            assert result.text == text_of(pruned, samples, language)
            assert [word.text for word in result.words] == result.text.split()
            assert all(0 <= word.start <= word.end <= seconds and 0 <= word.probability <= 1 for word in result.words)
            assert result.duration == pytest.approx(seconds)
            texts.add(result.text)
    assert len(texts) > 1


@pytest.mark.parametrize("form", ["bundle", "folder"])
def test_a_language_that_was_added_has_its_own_embedding(
    hub_folder: Maker,  # noqa: F811
    tmp_path: Path,
    form: str,
) -> None:
    path = tmp_path / ("two.asrp" if form == "bundle" else "two")
    asr = made_larger(load_model(hub_folder("whisper")))
    asr.pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.8, exclude=asr.model.unprunable), ["en"])
    overlapping(asr, 0.8)
    asr.pathways.add("fr", 0.6)
    draw = torch.Generator().manual_seed(1)
    own = asr.pathways.language_tensors("fr")
    asr.pathways.set_language_tensors(
        "fr",
        {name: one + one.std() * torch.randn(one.shape, generator=draw) for name, one in own.items() if one.dim() > 1},
    )
    asr.card = asr.card.model_copy(update={"languages": asr.languages})
    if form == "bundle":
        write_bundle(asr, path, "float32")
    else:
        save_model(path, asr)
    recognizer, samples = Recognizer(path, precision="float32", memory=0), sound(0.8)
    for language in ("en", "fr", "en"):
        assert recognizer.transcribe(samples, language=language).text == text_of(asr, samples, language)


def test_rounded_products_say_nearly_the_same(pruned: AsrModel, tmp_path: Path) -> None:
    """Of random weights nearly all tokens are as likely: that the text is as long is all there is to compare."""
    write_bundle(pruned, tmp_path / "two.asrp")
    fast = Recognizer(tmp_path / "two.asrp", "fr").transcribe(sound(1.0))
    assert isinstance(fast.text, str) and fast.language == "fr"


def test_a_vocabulary_is_all_that_is_written(pruned: AsrModel, tmp_path: Path) -> None:
    size = int(pruned.model.hub.config.vocab_size)  # type: ignore[union-attr, arg-type]
    tokens = {"en": np.arange(1, size), "fr": np.array([*range(0, 250, 3), *range(250, size)])}
    write_bundle(pruned, tmp_path / "some.asrp", "float32", vocabularies=tokens)
    write_bundle(pruned, tmp_path / "all.asrp", "float32")
    recognizer, free = (Recognizer(tmp_path / name, precision="float32") for name in ("some.asrp", "all.asrp"))
    restricted, samples = load_model(tmp_path / "some.asrp"), sound(0.8)
    in_memory = Recognizer(restricted, precision="float32")
    for language in ("en", "fr"):
        text = recognizer.transcribe(samples, language=language, words=True).text
        assert text == text_of(restricted, samples, language) == in_memory.transcribe(samples, language=language).text
    assert text != free.transcribe(samples, language="fr").text
    engine = recognizer._engine
    assert isinstance(engine, WhisperEngine)
    hidden = np.random.default_rng(1).standard_normal((20, 16), dtype=np.float32)
    assert set(engine._network("fr").best(hidden, 9, None)[0].flat) <= set(tokens["fr"].tolist())
    assert engine._network("en").best(hidden, size, None)[0].min() == -1  # one token is missing


def test_a_dense_model_keeps_its_vocabularies_apart(hub_folder: Maker) -> None:  # noqa: F811
    asr = made_larger(load_model(hub_folder("whisper")))
    size, samples = int(asr.model.hub.config.vocab_size), sound(0.8)  # type: ignore[union-attr, arg-type]
    asr.model.restrict("fr", [*range(0, 250, 3), *range(250, size)])  # type: ignore[operator]
    recognizer = Recognizer(asr, precision="float32")
    texts = {one: recognizer.transcribe(samples, language=one).text for one in ("fr", "en", "de")}
    assert texts == {one: text_of(asr, samples, one) for one in texts}


def test_beams_find_what_is_likelier(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    greedy, beams = (Recognizer(tmp_path / "two.asrp", "fr", precision="float32", beam=beam) for beam in (1, 5))
    better = 0
    for seed in range(5):
        found, by_beams = (one.transcribe(sound(1.0, seed), words=True) for one in (greedy, beams))
        assert [word.text for word in by_beams.words] == by_beams.text.split()
        better += by_beams.text != found.text
    assert better


def test_a_model_without_beam_search_says_so(hub_folder: Maker) -> None:  # noqa: F811
    with pytest.raises(PathwaysError, match="wav2vec2: has no beam search here"):
        Recognizer(hub_folder("wav2vec2"), beam=4)


def test_files_and_rates(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    recognizer = Recognizer(tmp_path / "two.asrp", "fr", precision="float32")
    samples = sound(0.8)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert recognizer.transcribe(tmp_path / "a.wav") == recognizer.transcribe(samples)
    assert recognizer.transcribe(np.repeat(samples, 2), 32_000).duration == pytest.approx(0.8)


def test_auto_chooses_among_languages(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    result = Recognizer(tmp_path / "two.asrp", "auto").transcribe(sound(0.8))
    assert sorted(result.languages) == ["en", "fr"] and sum(result.languages.values()) == pytest.approx(1)
    assert result.language == next(iter(result.languages))
    only = Recognizer(tmp_path / "two.asrp", "auto", languages=["fr"]).transcribe(sound(0.8))
    assert only.language == "fr" and only.languages == {"fr": 1.0}


def test_language_probabilities_are_those_of_the_training_side(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    recognizer, samples = Recognizer(tmp_path / "two.asrp", "auto", precision="float32"), sound(0.8)
    features = pruned.model.frontend(samples)[None]
    places = [pruned.model.languages.index(code) for code in ("en", "fr")]
    total = torch.zeros(2)
    for language in ("en", "fr"):
        with pruned.inference(language):
            shares = pruned.model.language_probabilities(features, torch.tensor([features.shape[1]]))[0, places]
            total += shares
    wanted = dict(zip(("en", "fr"), (total / total.sum()).tolist(), strict=True))
    assert recognizer.transcribe(samples).languages == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("form", ["bundle", "folder"])
def test_a_fitted_identifier_replaces_the_language_tokens(pruned: AsrModel, tmp_path: Path, form: str) -> None:
    run = tmp_path / "two"
    save_model(run, pruned)
    dim = 2 * pruned.model.network.config.d_model  # type: ignore[union-attr]
    bias = torch.tensor([-1.0, 2.0])
    LanguageIdentifier(["en", "fr"], torch.zeros(dim), torch.ones(dim), torch.zeros(dim, 2), bias).save(run)
    path = run
    if form == "bundle":
        path = tmp_path / "two.asrp"
        write_bundle(pruned, path, identifier=(run / "language_id.safetensors").read_bytes())
    found = Recognizer(path, "auto").transcribe(sound(0.8))
    assert found.language == "fr"
    assert found.languages == pytest.approx(dict(zip(("en", "fr"), bias.softmax(0).tolist(), strict=True)))


def test_a_bundle_that_is_replaced_tells_languages_apart_as_before(pruned: AsrModel, tmp_path: Path) -> None:
    """What was opened goes on, all of it."""
    dim, path = 2 * pruned.model.network.config.d_model, tmp_path / "two.asrp"  # type: ignore[union-attr]

    def write(*bias: float) -> None:
        parts = torch.zeros(dim), torch.ones(dim), torch.zeros(dim, 2), torch.tensor(bias)
        LanguageIdentifier(["en", "fr"], *parts).save(tmp_path)
        write_bundle(pruned, path, identifier=(tmp_path / "language_id.safetensors").read_bytes())

    write(-1.0, 2.0)
    recognizer = Recognizer(path)
    write(2.0, -1.0)
    found = [one.transcribe(sound(0.5), language="auto").language for one in (recognizer, Recognizer(path))]
    assert found == ["fr", "en"]


def test_a_pathway_is_read_while_languages_are_told_apart(
    pruned: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same model in memory, whose weights are those of another pathway then."""
    save_model(tmp_path / "two", pruned)
    dim = 2 * pruned.model.network.config.d_model  # type: ignore[union-attr]
    parts = torch.zeros(dim), torch.ones(dim), torch.zeros(dim, 2), torch.zeros(2)
    LanguageIdentifier(["en", "fr"], *parts).save(tmp_path / "two")
    recognizer, samples = Recognizer(tmp_path / "two", precision="float32"), sound(0.8)
    within, leave, plain = Event(), Event(), language_id.embed

    def slow(*arguments: Any) -> torch.Tensor:
        within.set()
        assert leave.wait(10)
        return plain(*arguments)

    monkeypatch.setattr(language_id, "embed", slow)
    with ThreadPoolExecutor(2) as pool:
        told = pool.submit(recognizer._engine.probabilities, samples, ("en", "fr"))
        assert within.wait(10)
        found = pool.submit(recognizer.transcribe, samples, language="fr")
        try:
            assert wait([found], 0.3).not_done
        finally:
            leave.set()
        assert told.result().keys() == {"en", "fr"}
        assert found.result().text == text_of(pruned, samples, "fr")


def test_weights_of_languages_beyond_the_memory_are_dropped(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    roomy, tight = (Recognizer(tmp_path / "two.asrp", memory=memory) for memory in (float("inf"), 1))
    for recognizer in (roomy, tight):
        for language in ("en", "fr", "en"):
            recognizer.transcribe(sound(0.5), language=language)
    assert len(roomy._engine._networks) == 2 and len(tight._engine._networks) == 1  # type: ignore[attr-defined]


def test_neither_torch_nor_transformers_is_imported(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp")
    code = (
        "import sys, numpy; from asr_pathways import Recognizer; "
        f"Recognizer({str(tmp_path / 'two.asrp')!r}, 'fr').transcribe(numpy.zeros(8000, 'f')); "
        "print([name for name in ('torch', 'transformers', 'lhotse', 'pandas') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_example_prints_words_with_times(
    pruned: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(pruned, tmp_path / "two.asrp")
    soundfile.write(tmp_path / "a.wav", sound(1.0), 16_000, subtype="FLOAT")
    monkeypatch.setattr("sys.argv", ["fast_whisper.py", str(tmp_path / "two.asrp"), "fr", str(tmp_path / "a.wav")])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "fast_whisper.py"), run_name="__main__")
    words = Recognizer(tmp_path / "two.asrp", "fr").transcribe(tmp_path / "a.wav", words=True).words
    assert capsys.readouterr().out.split() == [
        part for w in words for part in (f"{w.start:.2f}", f"{w.end:.2f}", w.text)
    ]


def test_the_plan_is_of_all_pathways(pruned: AsrModel, tmp_path: Path) -> None:
    write_bundle(pruned, tmp_path / "two.asrp", "float32")
    plan = Recognizer(tmp_path / "two.asrp", memory=0).plan()
    assert {(product.out, product.into, product.rows) for product in plan} >= {
        (16, 16, 1),
        (32, 16, 256),
        (16, 240, 256),
    }
    assert all(len(timings) > 1 and timings[0].error <= 0.02 for timings in plan.values())


def test_errors_are_one_line(pruned: AsrModel, tmp_path: Path) -> None:
    path = tmp_path / "two.asrp"
    write_bundle(pruned, path)
    recognizer = Recognizer(path)
    for action, line in {
        lambda: Recognizer(path, "de"): "unknown language 'de': this model knows en fr",
        lambda: Recognizer(path, "fr", threads=0): "threads: 0: at least 1 is needed",
        lambda: Recognizer(path, "fr", precision="int4"): "precision: 'int4': choose auto or float32",  # type: ignore[arg-type]
        lambda: Recognizer(path, "fr", beam=0): "beam: 0: at least 1 is needed",
        lambda: Recognizer(path, "fr", beam=4, phrases=["un"]): "phrases: only transducers of this package prefer some",
        lambda: Recognizer(path, languages=[]): "languages: at least one is needed",
        lambda: Recognizer(path, languages="en"): "languages: pass a list of language codes",
        lambda: recognizer.transcribe(sound(0.5)): "language: choose one of en fr",
        lambda: recognizer.stream(): "language: choose one of en fr",
        lambda: recognizer.transcribe(np.zeros((2, 8000), np.float32), language="fr"): "must be a float32 vector",
        lambda: recognizer.transcribe(np.full(8000, np.nan, np.float32), language="fr"): "values that are not finite",
        lambda: recognizer.transcribe(np.zeros(100, np.float32), language="fr"): "only 6 ms of audio",
    }.items():
        with pytest.raises(PathwaysError) as raised:
            action()
        assert line in str(raised.value) and "\n" not in str(raised.value)


def test_threads_may_share_a_model_of_the_hub(hub_folder: Maker, tmp_path: Path) -> None:  # noqa: F811
    """Its weights hold one pathway at a time."""
    asr = load_model(hub_folder("wav2vec2"))
    config = PathwayConfig(sparsity=0.5, exclude=matching(asr.model.network, asr.model.unprunable))
    asr.pathways = Pathways.attach(asr.model.network, config, ["en", "fr"])
    overlapping(asr, 0.5)
    save_model(tmp_path / "two", asr)
    recognizer = Recognizer(tmp_path / "two")
    jobs = [(sound(0.5 + 0.1 * seed, seed), language) for seed in range(8) for language in ("en", "fr")]
    alone = [recognizer.transcribe(samples, language=language).text for samples, language in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: recognizer.transcribe(job[0], language=job[1]).text, jobs))
    assert together == alone
