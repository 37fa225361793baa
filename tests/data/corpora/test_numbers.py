from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.data.corpora.numbers import number_lines, write_numbers
from asr_pathways.data.corpora.texts import read_texts
from asr_pathways.errors import PathwaysError


@pytest.mark.parametrize("language", ["en", "es", "fr", "it", "ru", "cs", "nl", "de", "pt", "th"])
def test_lines_are_distinct_words_and_the_same_every_time(language: str) -> None:
    lines = number_lines(language, 200)
    assert len(set(lines)) == 200 and lines == number_lines(language, 200)
    assert number_lines(language, 50) == lines[:50]
    assert not any(character.isdigit() for line in lines for character in line)


def test_numbers_in_words() -> None:
    words = {word for line in number_lines("en", 2000) for word in line.split()}
    assert {"zero", "nineteen", "ninety", "hundred", "thousand"} <= words
    assert len(words) < 40


def test_files_that_synth_reads(tmp_path: Path) -> None:
    write_numbers(tmp_path, ["en", "fr"], 20)
    assert read_texts(tmp_path) == {"en": number_lines("en", 20), "fr": number_lines("fr", 20)}


def test_unknown_language(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="xx"):
        write_numbers(tmp_path, ["en", "xx"], 2)
    with pytest.raises(PathwaysError, match="numbers are not spelled out in 'ja': choose among be, ca, cs"):
        write_numbers(tmp_path, ["en", "ja"], 2)
    assert not list(tmp_path.iterdir())
