"""Small corpora for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_pathways.data.corpus import SPLITS, build_corpus

SOURCE = {"name": "tones", "licence": "none", "attribution": "nobody"}
WORDS = {"en": ["one two", "three", "four five six"], "fr": ["un deux", "trois", "quatre cinq six"]}


def tone(seconds: float, pitch: float = 440.0, rate: int = 16_000) -> np.ndarray:
    """A sine, with a little noise so that no mel bin is empty."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(int(pitch)).normal(0, 0.01, len(time))
    return (0.3 * np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32)


def make_corpus(out: Path, languages: tuple[str, ...] = ("en", "fr"), train: int = 12, name: str = "tones") -> Path:
    """A data folder with ``train`` utterances of 0.3-1.4 s per language, and three in dev and in test."""
    with build_corpus(out, [{**SOURCE, "name": name}]) as corpus:
        for language in languages:
            for split in SPLITS:
                for index in range(train if split == "train" else 3):
                    seconds = 0.3 + 0.1 * (index % 12)
                    text = WORDS.get(language, WORDS["en"])[index % 3]
                    samples = tone(seconds, 200 + 10 * index)
                    corpus.add(split, f"{language}-{split}-{index:02d}", language, text, samples, "sine")
    return out


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in two languages; do not change it."""
    return make_corpus(tmp_path_factory.mktemp("corpus") / "data")
