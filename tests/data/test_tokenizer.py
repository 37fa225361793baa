from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily, lost_words
from asr_pathways.errors import PathwaysError

TEXTS = ["hello world", "please leave a message", "l'eau d'ici", "привет мир", "número dos", "the world is here"] * 3


def test_round_trip_and_layout(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 36)
    tokenizer.save(tmp_path / "tokenizer.model")
    assert tokenizer.vocab_size == 36 == len(tokenizer.pieces())
    assert tokenizer.pieces()[0] == "<unk>"
    for text in [*TEXTS, "hello мир l'eau"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 < index < 36 for index in ids)
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    loaded = Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.encode("hello world") == tokenizer.encode("hello world")


def test_training_is_deterministic(tmp_path: Path) -> None:
    for name in "ab":
        Tokenizer.train(TEXTS, 36).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unknown_characters_decode_to_nothing() -> None:
    tokenizer = Tokenizer.train(TEXTS, 36)
    ids = tokenizer.encode("hello ξ")
    assert 0 in ids and tokenizer.decode(ids) == "hello"


def test_errors_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no text"):
        Tokenizer.train([" "], 36)
    with pytest.raises(PathwaysError, match="vocab_size 10000 does not fit"):
        Tokenizer.train(TEXTS, 10_000)
    with pytest.raises(PathwaysError, match="vocab_size 3 does not fit"):
        Tokenizer.train(TEXTS, 3)
    with pytest.raises(PathwaysError, match="cannot read"):
        Tokenizer.load(tmp_path / "none.model")
    for content in (b"", b"not a model at all"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(PathwaysError, match="not a SentencePiece model"):
            Tokenizer.load(tmp_path / "bad.model")


def test_characters_that_added_pieces_lack_are_known() -> None:
    texts = ["eins zwei drei vier", "fünf sechs sieben acht"]
    old, new = Tokenizer.train(["one two three four five"], 14), Tokenizer.train(texts, 20)
    family = TokenizerFamily(old, {"de": ExtendedTokenizer(old, new)})
    assert family.unknown(["ein jahr", "fünf"], "de") == family.of("de").unknown(["ein jahr", "fünf"]) == ["j"]
    assert family.unknown(["fünf"], "en") == ["ü"]
    rare = ["eins"] * 2000  # the sample of texts that are decoded again has none of it
    rare[7] = "ja"
    line = lost_words(family, rare, "de", "here")
    assert line is not None and line.startswith(
        "here: de: the model's vocabulary cannot write the characters j, in 0.05%"
    )
