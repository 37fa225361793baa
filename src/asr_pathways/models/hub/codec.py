"""Hugging Face tokenizers as text codecs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from asr_pathways.data.languages import find_language, plain_language
from asr_pathways.data.normalize import UNSPACED
from asr_pathways.data.tokenizer import characters

APOSTROPHES = "’ʼ‘´`"
"""What a vocabulary may have in place of the plain apostrophe of normalised texts."""

JOINERS = "\u200c\u200d"
"""How some languages spell, but not what is spoken: left out where a vocabulary has none."""


class HubTokenizer:
    """Text to token ids and back, with no special tokens.

    Texts are normalised: in lower case, composed (NFC), with plain apostrophes. Each character is written as the
    vocabulary has it (in upper case, decomposed or partly so, with another apostrophe), and comes back as it was.

    Args:
        tokenizer: of Hugging Face.
        space: put before a text: pieces of byte-level vocabularies begin with it.
        options: for the tokenizer's ``decode``.
    """

    def __init__(self, tokenizer: Any, space: str = "", **options: Any) -> None:
        self.tokenizer = tokenizer
        self._space, self._options = space, options
        self._spellings: dict[tuple[int, int, str], _Spelling] = {}

    def encode(self, text: str, language: str) -> list[int]:
        """The ids of a text."""
        spelling = self._spelling(language)
        return self._ids(self._space + "".join(map(spelling.written, text)))

    def decode(self, ids: Sequence[int], language: str) -> str:
        """The text of ids, without special tokens."""
        return self._spelling(language).read(self._text(ids))

    def words(self, ids: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
        """The words of the text of ids, each with the places of its tokens in them.

        In languages that are written without spaces, each letter is one, with its marks.
        """
        text = self.decode(ids, language)
        texts = ["".join(self.decode(ids[:count], language).split()) for count in range(len(ids) + 1)]
        spans = []
        for before, after in pairwise(texts):
            end = min(len(after), len(texts[-1]))
            spans.append((end if before == after else min(len(before), end - 1), end))  # a mark changes a letter
        words, begin = [], 0
        for word in _characters(text) if plain_language(language) in UNSPACED else text.split():
            last = begin + len(word)
            words.append(
                (word, [place for place, (start, end) in enumerate(spans) if max(start, begin) < min(end, last)])
            )
            begin = last
        return words

    def unknown(self, texts: Iterable[str], language: str) -> list[str]:
        """The characters in normalised texts that the vocabulary cannot write, sorted."""
        spelling = self._spelling(language)
        return [character for character in characters(texts) if not spelling.has(character)]

    def free_text(self) -> bool:
        """Whether the vocabulary has both cases, or ends of sentences: what it writes is normalised to be scored."""
        pieces = self.tokenizer.get_vocab()
        letters = [piece for piece in pieces if len(piece) == 1 and piece.isalpha()]
        capitals, small = (any(piece != case(piece) for piece in letters) for case in (str.lower, str.upper))
        return (capitals and small) or not {".", "?"}.isdisjoint(pieces)

    def _turn_to(self, language: str) -> None:
        """For tokenizers with a vocabulary a language."""

    def _spelling(self, language: str) -> _Spelling:
        self._turn_to(language)
        # An MMS tokenizer changes its encoder with the language.
        key = (id(getattr(self.tokenizer, "encoder", None)), len(self.tokenizer), plain_language(language))
        if key not in self._spellings:
            lost = self.tokenizer.unk_token_id
            pieces = self.tokenizer.get_vocab()
            self._spellings[key] = _Spelling(pieces, lost, self._ids, self._text, key[-1])
        return self._spellings[key]

    def _ids(self, text: str) -> list[int]:
        return [int(index) for index in self.tokenizer(text, add_special_tokens=False).input_ids]

    def _text(self, ids: Sequence[int]) -> str:
        decoded = self.tokenizer.decode([int(index) for index in ids], skip_special_tokens=True, **self._options)
        return " ".join(str(decoded).split())


def _characters(text: str) -> list[str]:
    """The letters of a text, each with the marks after it."""
    letters: list[str] = []
    for character in "".join(text.split()):
        if letters and unicodedata.category(character)[0] == "M":
            letters[-1] += character
        else:
            letters.append(character)
    return letters


class _Spelling:
    """How a vocabulary writes normalised text of a language, whose cases may differ from others' (Turkish i).

    Args:
        pieces: of the vocabulary.
        lost: the id of what it cannot write; None: it can write all.
        ids, text: from text to ids and back, as the tokenizer does.
        language: a plain code.
    """

    def __init__(
        self,
        pieces: Iterable[str],
        lost: int | None,
        ids: Callable[[str], list[int]],
        text: Callable[[list[int]], str],
        language: str,
    ) -> None:
        self._lost, self._ids, self._text = lost, ids, text
        self._turkic = language in ("az", "tr")
        self._written: dict[str, str] = {" ": " "}
        self._lacks: set[str] = set()
        letters = [piece for piece in pieces if len(piece) == 1 and piece.isalpha()]
        small = any(piece != piece.upper() and len(piece.upper()) == 1 for piece in letters)  # ß has no capital of one
        self._only_upper = not small and any(piece != piece.lower() for piece in letters)
        self._apostrophe = "'" if self._can_write("'") else next(filter(self._can_write, APOSTROPHES), "'")

    def written(self, character: str) -> str:
        """How the vocabulary has a character; as it is, if it has none such."""
        if character not in self._written:
            options = [option for option in self._options(character) if self._can_write(option)]
            same = (character, "σ") if character == "ς" else (character,)  # which only the end of a word tells apart
            exact = [option for option in options if self.read(self._text(self._ids(option))) in same]
            self._written[character] = [*exact, *options, "" if character in JOINERS else character][0]
            if not exact:
                self._lacks.add(character)
        return self._written[character]

    def has(self, character: str) -> bool:
        """Whether a character comes back as it was."""
        self.written(character)
        return character not in self._lacks

    def read(self, text: str) -> str:
        """Text of the vocabulary, as normalised text has it."""
        text = unicodedata.normalize("NFC", text.replace(self._apostrophe, "'"))
        if not self._only_upper:
            return text
        return (text.replace("I", "ı").replace("İ", "i") if self._turkic else text).lower()

    def _can_write(self, text: str) -> bool:
        ids = self._ids(text)
        return bool(ids) and self._lost not in ids

    def _options(self, character: str) -> Iterator[str]:
        yield character
        yield from _decompositions(character)
        if character == "'":
            yield self._apostrophe
        if self._only_upper:
            upper = "İ" if self._turkic and character == "i" else "ẞ" if character == "ß" else character.upper()
            yield upper
            yield from _decompositions(upper)
            yield character.upper()


def _decompositions(character: str) -> Iterator[str]:
    """The same as a base and combining marks, as many of them composed with the base as can be: ế as ê and ´."""
    base, marks = (decomposed := unicodedata.normalize("NFD", character))[:1], decomposed[1:]
    for count in reversed(range(len(marks))):
        for chosen in combinations(range(len(marks)), count):
            composed = unicodedata.normalize("NFC", base + "".join(marks[place] for place in chosen))
            if len(composed) == 1:
                yield composed + "".join(mark for place, mark in enumerate(marks) if place not in chosen)


class MmsTokenizer(HubTokenizer):
    """A tokenizer with a vocabulary a language.

    Args:
        tokenizer: a `Wav2Vec2CTCTokenizer` whose vocabulary is nested.
        codes: {plain language code: the tokenizer's own}.
    """

    def __init__(self, tokenizer: Any, codes: Mapping[str, str]) -> None:
        super().__init__(tokenizer, group_tokens=False)
        self._codes = codes

    def _turn_to(self, language: str) -> None:
        code = self._codes[find_language(language, self._codes) or language]
        if self.tokenizer.target_lang != code:
            self.tokenizer.set_target_lang(code)
