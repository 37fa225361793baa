"""Tokens against transformers' tokenizer, on a vocabulary of whole words, pieces of characters and bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from asr_pathways.data.normalize import UNSPACED
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.codec import HubTokenizer
from asr_pathways.models.hub.whisper import language_tokens
from asr_pathways.runtime.whisper.tokens import LANGUAGES, Tokens

TEXTS = {
    "en": "Hello, it's me (again) - 3.5% of them!",
    "fr": "C'est l'été : « bonjour » !",
    "de": "Schöne Grüße aus Köln.",
    "ru": "Привет, мир! Как дела?",
    "ar": "مرحبا بالعالم",
    "hi": "नमस्ते दुनिया",
    "ka": "გამარჯობა მსოფლიო",
    "zh": "我喜欢iPhone 15，「真的」。你好！",
    "ja": "今日はいい天気ですね。",
    "th": "สวัสดีครับ ผมชื่อ",
    "km": "ភាសាខ្មែរ",
}
SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES.split()), "<|translate|>"),
    *("<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
SIZE = 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer.json and the same as vocab.json, merges.txt and added_tokens.json in a folder in it."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([" " + text for text in TEXTS.values() for _ in range(3)], trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>", special=False) for step in range(51)])
    tokenizer.add_tokens([AddedToken("two words", special=False), AddedToken("ça", special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    return folder


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Tokens:
    return Tokens.of((folder / "tokenizer.json").read_bytes())


def stamp(tokens: Tokens) -> int:
    """A time stamp."""
    return next(iter(tokens._stamps))


@pytest.fixture(scope="module")
def reference(folder: Path) -> HubTokenizer:
    return HubTokenizer(AutoTokenizer.from_pretrained(folder), space=" ")


def test_ids_of_special_tokens_are_the_vocabularys(tokens: Tokens, reference: HubTokenizer) -> None:
    vocabulary = reference.tokenizer.get_vocab()
    found = [tokens.end, tokens.start, tokens.transcribe, tokens.no_speech, tokens.no_timestamps]
    names = ["endoftext", "startoftranscript", "transcribe", "nospeech", "notimestamps"]
    assert found == [vocabulary[f"<|{name}|>"] for name in names]
    assert list(tokens.languages.items()) == list(language_tokens(reference.tokenizer).items())
    assert len(tokens.languages) == 100


@given(data=st.data())
def test_any_ids_are_decoded_as_by_transformers(tokens: Tokens, reference: HubTokenizer, data: st.DataObject) -> None:
    bound = data.draw(st.sampled_from([256, SIZE, 800]))
    ids = data.draw(st.lists(st.integers(0, bound - 1), max_size=40))
    if ids[:1] != [reference.tokenizer.get_vocab()["<|startofprev|>"]]:  # it begins a prompt
        assert tokens.decode(ids) == reference.decode(ids, "en")


def test_marks_are_in_their_canonical_order_as_on_the_training_side(tokens: Tokens, reference: HubTokenizer) -> None:
    ids = [149, 234, 149, 233]  # the bytes of U+064C U+064B
    (word,) = tokens.words(ids, "ar")
    assert tokens.decode(ids) == word[0] == reference.decode(ids, "ar") == "\u064b\u064c"


@pytest.mark.parametrize("language", TEXTS)
def test_texts_come_back(language: str, tokens: Tokens, reference: HubTokenizer) -> None:
    ids = reference.encode(TEXTS[language], language)
    assert tokens.decode(ids) == reference.decode(ids, language) == " ".join(TEXTS[language].split())
    assert tokens.decode([tokens.start, tokens.languages[language], *ids, tokens.end]) == tokens.decode(ids)


@given(st.lists(st.integers(0, 800), max_size=40))
def test_words_are_the_text_split_at_spaces(tokens: Tokens, ids: list[int]) -> None:
    words = tokens.words(ids, "en")
    places = [place for _, of_word in words for place in of_word]
    assert places == sorted(set(places))
    text = "".join(word for word, _ in words).replace(" ", "")
    assert "<|0." in text or text == tokens.decode(ids).replace(" ", "")
    for word, of_word in words:
        assert word
        assert of_word


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["Hello,", "it's", "me", "(again)", "-", "3.5%", "of", "them!"]),
        ("fra", ["C'est", "l'été", ":", "«", "bonjour", "»", "!"]),
        ("ru", ["Привет,", "мир!", "Как", "дела?"]),
    ],
)
def test_words_of_a_text(language: str, words: list[str], tokens: Tokens, reference: HubTokenizer) -> None:
    ids = reference.encode(" ".join(words), language)
    found = tokens.words([tokens.start, *ids, stamp(tokens), tokens.end], language)
    assert [word for word, _ in found] == words
    assert [place for _, places in found for place in places] == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("language", sorted(UNSPACED & TEXTS.keys()))
def test_no_character_is_cut_where_there_are_no_spaces(language: str, tokens: Tokens, reference: HubTokenizer) -> None:
    ids = reference.encode(TEXTS[language], language)
    words = [word for word, _ in tokens.words(ids, language)]
    assert "".join(words) == TEXTS[language].replace(" ", "")
    assert "\ufffd" not in "".join(words)


def test_marks_and_punctuation_stay_with_their_character(tokens: Tokens) -> None:
    letters = {piece: index for index, piece in tokens._pieces.items() if index < 256}
    names = {byte: letter for letter, byte in _letters().items()}

    def bytewise(text: str) -> list[int]:
        return [letters[names[byte]] for byte in text.encode()]

    words = [word for word, _ in tokens.words(bytewise("我用iPhone 15，「真」。ผมชื่"), "zh")]
    assert words == ["我", "用", "iPhone", "15，", "「真」。", "ผ", "ม", "ชื่"]
    first, second = bytewise("é")
    assert tokens.decode([first, tokens.end, second]) == "é"
    assert tokens.decode([first, stamp(tokens), second]) == "\ufffd\ufffd"
    halves = tokens.words(bytewise("é")[:1], "zh")
    assert halves == [("\ufffd", [0])]


def _letters() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def test_older_folders_have_the_same_in_other_files(folder: Path, tokens: Tokens) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}
    vocabulary = json.dumps(content["model"]["vocab"])
    found = Tokens.of_vocabulary(vocabulary.encode(), json.dumps(added).encode())
    ids = [*range(SIZE), *added.values()]
    assert found.decode(ids) == tokens.decode(ids)
    assert (found.start, found.languages) == (tokens.start, tokens.languages)


def test_a_token_of_silence_may_have_its_older_name_or_be_absent() -> None:
    names = ["<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"]
    special = dict(enumerate(names))
    assert Tokens({}, special).no_speech is None
    assert Tokens({}, special | {9: "<|nocaptions|>"}).no_speech == 9


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "tokenizer.json: not valid JSON"),
        (b"[" * 100_000, "tokenizer.json: not valid JSON"),
        (b"\xff", "tokenizer.json: not valid JSON"),
        (b"[]", "tokenizer.json: not a byte-level vocabulary"),
        (json.dumps({"model": {"vocab": []}, "added_tokens": []}), "tokenizer.json: not a byte-level vocabulary"),
        (json.dumps({"model": {"vocab": {"a": "0"}}, "added_tokens": []}), "tokenizer.json: not a byte-level"),
        (json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": [3]}), "tokenizer.json: not a byte-level"),
        (json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}), "no <|startoftranscript|>: not Whisper's"),
    ],
)
def test_other_files_are_refused(content: Any, problem: str) -> None:
    with pytest.raises(PathwaysError, match=problem.replace("|", r"\|")):
        Tokens.of(content)
