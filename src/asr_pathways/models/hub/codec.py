"""Hugging Face tokenizers as text codecs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asr_pathways.data.languages import find_language
from asr_pathways.data.tokenizer import characters


class HubTokenizer:
    """Text to token ids and back, with no special tokens.

    A vocabulary without lower-case letters gets texts in upper case.

    Args:
        tokenizer: a Hugging Face tokenizer.
        space: put before a text: pieces of byte-level vocabularies begin with it.
        options: for the tokenizer's ``decode``.
    """

    def __init__(self, tokenizer: Any, space: str = "", **options: Any) -> None:
        self.tokenizer = tokenizer
        self._space, self._options = space, options
        self._upper: dict[int, bool] = {}

    def encode(self, text: str, language: str) -> list[int]:
        """The ids of a text."""
        self._turn_to(language)
        text = self._space + (text.upper() if self._only_upper() else text)
        return [int(index) for index in self.tokenizer(text, add_special_tokens=False).input_ids]

    def decode(self, ids: Sequence[int], language: str) -> str:
        """The text of ids, without special tokens."""
        self._turn_to(language)
        decoded = self.tokenizer.decode([int(index) for index in ids], skip_special_tokens=True, **self._options)
        text = " ".join(str(decoded).split())
        return text.lower() if self._only_upper() else text

    def unknown(self, texts: Iterable[str], language: str) -> list[str]:
        """The characters in normalised texts that the vocabulary lacks, sorted."""
        lost = self.tokenizer.unk_token_id
        return [c for c in characters(texts) if lost is not None and lost in self.encode(c, language)]

    def _turn_to(self, language: str) -> None:
        """For tokenizers with a vocabulary a language."""

    def _only_upper(self) -> bool:
        key = id(getattr(self.tokenizer, "encoder", None))  # an MMS tokenizer changes it with the language
        if key not in self._upper:
            letters = [piece for piece in self.tokenizer.get_vocab() if len(piece) == 1 and piece.isalpha()]
            self._upper[key] = bool(letters) and not any(piece != piece.upper() for piece in letters)
        return self._upper[key]


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
