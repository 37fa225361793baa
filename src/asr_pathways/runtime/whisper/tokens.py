"""Whisper's tokens, read without transformers: text of ids, ids of special tokens, and words.

The vocabulary is byte-level (Radford et al. 2019, GPT-2): each of its letters stands for a byte of UTF-8, so that a
character may be spread over several tokens.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from asr_pathways.data.languages import plain_language
from asr_pathways.data.normalize import UNSPACED
from asr_pathways.errors import PathwaysError

LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
"""Whisper's own codes of languages, in its order."""

_TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")


class Tokens:
    """The vocabulary of a Whisper model.

    Args:
        pieces: {id: piece} of the tokens that are text.
        special: {id: content} of those that are not.
        stamps: {id: content} of time stamps, if they are not special.

    Attributes:
        start, end, transcribe, no_timestamps: ids of special tokens.
        no_speech: of the one whose probability is that of silence; None where there is none.
        languages: {code: id of its token}, in Whisper's order.

    Raises:
        PathwaysError: if a special token is missing.
    """

    def __init__(
        self, pieces: Mapping[int, str], special: Mapping[int, str], stamps: Mapping[int, str] | None = None
    ) -> None:
        self._stamps = dict(stamps or {})
        self._pieces = {index: piece for index, piece in pieces.items() if index not in special}
        ids = {content: index for index, content in (self._stamps | dict(special)).items()}
        if missing := [name for name in ("startoftranscript", "endoftext", *_TASKS) if f"<|{name}|>" not in ids]:
            raise PathwaysError(f"the tokenizer has no <|{missing[0]}|>: not Whisper's")
        self.start, self.end = ids["<|startoftranscript|>"], ids["<|endoftext|>"]
        self.transcribe, self.no_timestamps = (ids[f"<|{name}|>"] for name in _TASKS)
        self.no_speech = ids.get("<|nospeech|>", ids.get("<|nocaptions|>"))
        self.languages = {code: ids[f"<|{code}|>"] for code in LANGUAGES.split() if f"<|{code}|>" in ids}

    @classmethod
    def of(cls, tokenizer: bytes) -> Tokens:
        """From the content of ``tokenizer.json``.

        Raises:
            PathwaysError: if it is no such file, or not Whisper's.
        """
        content = _parse(tokenizer, "tokenizer.json")
        try:
            pieces = _by_id(content["model"]["vocab"].items())
            added = _by_id((token["content"], token["id"]) for token in content["added_tokens"])
            ordinary = {token["id"] for token in content["added_tokens"] if not token["special"]}
        except (KeyError, TypeError, AttributeError):
            raise PathwaysError("tokenizer.json: not a byte-level vocabulary with added tokens") from None
        special = {index: content for index, content in added.items() if index not in ordinary}
        stamps = {index: added[index] for index in ordinary if _TIMESTAMP.fullmatch(added[index])}
        return cls(pieces | {index: added[index] for index in ordinary - stamps.keys()}, special, stamps)

    @classmethod
    def of_vocabulary(cls, vocabulary: bytes, added: bytes) -> Tokens:
        """From the contents of ``vocab.json`` and ``added_tokens.json``, which older folders have instead.

        Raises:
            PathwaysError: if they are no such files, or not Whisper's.
        """
        pieces, more = _parse(vocabulary, "vocab.json"), _parse(added, "added_tokens.json")
        try:
            return cls(_by_id(pieces.items()), _by_id(more.items()))
        except (TypeError, AttributeError):
            raise PathwaysError("vocab.json, added_tokens.json: not a byte-level vocabulary") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without a prompt, composed (NFC): special tokens and time stamps left out, single spaces."""
        parts = (self._stamps.get(index, "").encode() or self._bytes(index) for index in ids)  # stamps part characters
        text = b"".join(parts).decode(errors="replace")
        return _plain(_TIMESTAMP.sub("", text))

    def words(self, ids: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
        """The words of ids, each with the places of its tokens in ``ids``; punctuation belongs to the word it touches.

        Where ``language`` puts no space between words, a word is what makes up whole characters, with their marks.
        """
        spaced = plain_language(language) not in UNSPACED
        words: list[tuple[str, list[int]]] = []
        for piece, places in self._whole_characters(ids):
            goes_on = not piece[:1].isspace() if spaced else words and _goes_on(words[-1][0], piece)
            if words and goes_on:
                words[-1] = words[-1][0] + piece, words[-1][1] + places
            else:
                words.append((piece, places))
        return [(text, places) for piece, places in words if (text := _plain(piece))]

    def _whole_characters(self, ids: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """The text in the smallest parts that neither a token nor a character is cut by, with their tokens' places."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, places = "", list[int]()
        for place, index in enumerate(ids):
            encoded = self._bytes(index)
            begins = index in self._stamps or (bool(encoded) and encoded[0] & 0xC0 != 0x80)
            if places and begins:  # what came before stays incomplete
                yield text + decoder.decode(b"", final=True), places
                text, places = "", []
            if not encoded:
                continue
            text += decoder.decode(encoded)
            places.append(place)
            if not decoder.getstate()[0]:
                yield text, places
                text, places = "", []
        if places:
            yield text + decoder.decode(b"", final=True), places

    def _bytes(self, index: int) -> bytes:
        """The bytes of a token's text; none of a special token, a time stamp or an id that has no token."""
        piece = self._pieces.get(int(index), "")
        try:
            return bytes(map(_BYTES.__getitem__, piece))
        except KeyError:  # an added token, which is text
            return piece.encode()


def _plain(text: str) -> str:
    """As the training side has it: composed (NFC), with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


_TASKS = ("transcribe", "notimestamps")


def _byte_letters() -> dict[str, int]:
    """{letter: the byte that it stands for}: printable ones for themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTES = _byte_letters()


def _parse(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise PathwaysError(f"{name}: not valid JSON") from None


def _by_id(items: Iterable[tuple[str, int]]) -> dict[int, str]:
    """Raises TypeError for what is no text or no id."""
    by_id = {}
    for piece, index in items:
        if type(piece) is not str or type(index) is not int:
            raise TypeError
        by_id[index] = piece
    return by_id


def _goes_on(word: str, piece: str) -> bool:
    """Whether a piece belongs to the word before it, in a language without spaces."""
    latin = word[-1].isascii() and word[-1].isalnum() and piece[0].isascii() and piece[0].isalnum()
    mark = unicodedata.category(piece[0])[0] == "M"
    kinds = {unicodedata.category(letter) for letter in piece if not letter.isspace()}
    closes = all(kind[0] in "PS" for kind in kinds) and not kinds & _OPENING
    return latin or mark or closes or all(unicodedata.category(letter) in _OPENING for letter in word.strip())


_OPENING = {"Ps", "Pi"}
