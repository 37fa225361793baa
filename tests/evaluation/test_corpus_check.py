from __future__ import annotations

from pathlib import Path

import numpy as np

from asr_pathways.data.corpus import build_corpus
from asr_pathways.evaluation.corpus_check import concerns, smallest_difference

SILENT = np.zeros(1600, dtype=np.int16)


def test_what_a_user_is_to_know_of_a_data_folder(tmp_path: Path) -> None:
    with build_corpus(tmp_path / "data", [{"name": "n", "licence": "l", "attribution": "a"}]) as corpus:
        for index in range(6):
            corpus.add("train", f"t{index}", "fr", f"un {'deux ' * index}".strip(), SILENT, "anna")
            corpus.add("train", f"i{index}", "it", "uno due", SILENT, "berta")
        corpus.add("train", "long", "it", "uno", np.zeros(31 * 16_000, dtype=np.int16))
        corpus.add("test", "one", "fr", "un deux", SILENT, "anna")
        corpus.add("test", "two", "fr", "trois", SILENT, "carla")
        corpus.add("dev", "three", "it", "tre", SILENT)
    assert concerns(tmp_path / "data") == [
        "fr: no dev utterances: models are chosen by the other languages, or not at all; "
        "add 'split' to rows of the manifest",
        "it: no test utterances: nothing can be scored; add 'split' to rows of the manifest",
        "fr: 3 words in test: differences below 80.9 points of WER are not shown",
        "fr: 1 of 2 texts of test are in train too: WER will flatter",
        "it: 1 utterances of train are longer than 30 s: Whisper is trained without them",
        "1 of 2 speakers of test are in train too: WER of other voices will be higher",
    ]


def test_nothing_is_said_of_a_corpus_that_tells_enough(tmp_path: Path) -> None:
    with build_corpus(tmp_path / "data", [{"name": "n", "licence": "l", "attribution": "a"}]) as corpus:
        for split, words in (("train", 10), ("dev", 10), ("test", 800)):
            corpus.add(split, split, "fr", f"{split} " * words, SILENT)
    assert concerns(tmp_path / "data") == []
    assert smallest_difference(800) == "5.0 points"


def test_a_split_that_is_missing_is_one_line_for_all_languages(tmp_path: Path) -> None:
    with build_corpus(tmp_path / "data", [{"name": "n", "licence": "l", "attribution": "a"}]) as corpus:
        corpus.add("train", "one", "fr", "un", SILENT)
        corpus.add("train", "two", "en", "one", SILENT)
    without_dev, without_test = concerns(tmp_path / "data")
    assert without_dev.startswith("en, fr: no dev utterances: ") and without_test.startswith("en, fr: no test")
