"""Tiny things that many tests share: made in a second, from sines and noise; tests must not change them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

from asr_pathways.data.corpus import SPLITS, build_corpus
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel, ModelCard
from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.models.transducer import Transducer, TransducerConfig

if TYPE_CHECKING:
    from asr_pathways.export.onnx import Exported

LANGUAGES = ("en", "fr")
WORDS = {
    "en": ("one", "two", "three", "four", "five"),
    "fr": ("un", "deux", "trois", "quatre", "cinq"),
}
PIECES = 24

# How long an example takes depends on what else the machine does.
settings.register_profile("asr-pathways", deadline=None)
settings.load_profile("asr-pathways")

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported; no test waits for a network


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests write thousands of files, and whether each is flushed to the disk only a power cut could show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and tests may run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """What a shell starts in the background ignores interrupts, and some tests are about them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def spoken(words: list[str], language: str, seed: int) -> np.ndarray:
    """A sine of its own pitch for each word, with a little noise: (N,) float32 at 16 kHz, 0.15 s a word."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 2400 * len(words))
    time = np.arange(2400) / 16_000
    pitches = [200 + 170 * WORDS[language].index(word) + 60 * LANGUAGES.index(language) for word in words]
    return (np.concatenate([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in pitches]) + noise).astype(np.float32)


def make_speech(out: Path) -> Path:
    """A data folder in two languages: 10 utterances of 0.3-0.75 s each to train on, 2 in dev and in test."""
    with build_corpus(out, [{"name": "sines", "licence": "none", "attribution": "Sines by nobody"}]) as corpus:
        for language in LANGUAGES:
            for split in SPLITS:
                for index in range(10 if split == "train" else 2):
                    words = [WORDS[language][(index + 2 * place) % 5] for place in range(2 + index % 4)]
                    samples = spoken(words, language, index)
                    corpus.add(split, f"{language}-{split}-{index}", language, " ".join(words), samples)
    return out


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_speech` makes; do not change it."""
    return make_speech(tmp_path_factory.mktemp("speech") / "data")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """24 word pieces that spell the words of both languages."""
    words = [word for language in LANGUAGES for word in WORDS[language]]
    return Tokenizer.train([f"{one} {two}" for one in words for two in words], PIECES)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls the command line and returns its exit status."""
    from asr_pathways.cli.main import main

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["asr-pathways", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return call


def tiny_config(**options: object) -> TransducerConfig:
    """About 20 thousand weights; ``options`` replace fields."""
    values: dict[str, object] = {
        "vocab_size": PIECES,
        "encoder": EmformerConfig(
            front_end="conv",
            dim=16,
            ffn_dim=32,
            heads=2,
            layers=2,
            segment=4,
            left_context=8,
            right_context=1,
            conv_kernel=3,
        ),
        "embedding_dim": 16,
        "predictor_dim": 16,
        "predictor_layers": 1,
        "joiner_dim": 16,
        "ctc_weight": 0.3,
    }
    return TransducerConfig.model_validate({**values, **options})


def make_model(tokenizer: Tokenizer, languages: tuple[str, ...] = LANGUAGES, **options: object) -> AsrModel:
    """A dense recogniser of random weights, the same at every call."""
    torch.manual_seed(7)
    model = Transducer(tiny_config(**options))
    model.set_feature_statistics(torch.full((80,), -8.0), torch.full((80,), 4.0))
    torch.nn.init.constant_(model.joiner.output.bias[-1:], 2.0)  # not ten symbols in every frame
    return AsrModel(model.eval(), tokenizer, ModelCard(model=model.config, languages=languages))


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A dense MODEL folder of random weights."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    save_model(folder, make_model(tokenizer))
    return folder


@pytest.fixture(scope="session")
def five(tokenizer: Tokenizer) -> AsrModel:
    """Five languages, sparsity 70%."""
    from tests.pruned import pruned

    return pruned(tokenizer)


@pytest.fixture(scope="session")
def exported_five(five: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """Two of their languages as ONNX graphs, French and English, in a folder each: which takes long."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    from asr_pathways.export.onnx import export_onnx

    before = {name: value.clone() for name, value in five.model.state_dict().items()}
    done = export_onnx(five, tmp_path_factory.mktemp("onnx") / "some", ["fra", "en"])
    assert all(torch.equal(value, before[name]) for name, value in five.model.state_dict().items())
    return done


@pytest.fixture(scope="session")
def five_file(five: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their bundle, exact."""
    from asr_pathways.bundle.bundle import write_bundle

    path = tmp_path_factory.mktemp("bundle") / "five.asrp"
    write_bundle(five, path, "float32")
    return path
