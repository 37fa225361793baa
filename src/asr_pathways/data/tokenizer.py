"""Word pieces: one SentencePiece unigram model shared by all languages (Kudo 2018, arXiv 1804.10959)."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from asr_pathways.data.normalize import letters_apart
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path, refuse_pipes

UNKNOWN = 0
"""The id of the unknown piece."""

UNKNOWN_PIECE = "<unk>"
"""As sentencepiece calls it; it stands for no text."""

SPACE = "\u2581"
"""SentencePiece's sign for the space before a word."""


MOST_LOST = 0.2
"""Share of the words of a language that a model's vocabulary may be unable to write; more is a mistake."""

_SAMPLE = 500  # texts of a language that are encoded and decoded
_SHOWN = 20  # characters


class TextCodec(Protocol):
    """Text to token ids and back, for the languages of a model."""

    def encode(self, text: str, language: str, /) -> list[int]: ...
    def decode(self, ids: Sequence[int], language: str, /) -> str: ...
    def unknown(self, texts: Iterable[str], language: str, /) -> list[str]: ...


class Tokenizer:
    """Text to ids 0..V-1 and back. The blank of the transducer is not among them: it is index V.

    Id 0 is the unknown piece: a character that was not in the training texts.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Trains on normalised texts. Deterministic.

        Args:
            texts: one utterance each; repeat or sample lines to balance languages.
            vocab_size: V, the unknown piece included.

        Raises:
            PathwaysError: if there is no text, or ``vocab_size`` does not fit it.
        """
        import sentencepiece

        lines = [text for text in texts if text.strip()]
        if not lines:
            raise PathwaysError("tokenizer: no text to train on")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                unk_id=UNKNOWN,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                unk_surface="",
                max_sentence_length=1 << 16,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            detail = str(error).rsplit("] ", 1)[-1].strip() or str(error)
            raise PathwaysError(f"tokenizer: vocab_size {vocab_size} does not fit the texts: {detail}") from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a model file.

        Raises:
            PathwaysError: if it is missing or not a SentencePiece model.
        """
        refuse_pipes(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PathwaysError(f"{path}: cannot read tokenizer: {error.strerror}") from None
        return cls.read(data, str(path))

    @classmethod
    def read(cls, data: bytes, where: str) -> Tokenizer:
        """From the bytes of a model file, which errors call ``where``.

        Raises:
            PathwaysError: if they are not a SentencePiece model.
        """
        with suppress(RuntimeError, OSError):
            tokenizer = cls(data)
            if data and tokenizer.vocab_size > 0:
                return tokenizer
        raise PathwaysError(f"{where}: not a SentencePiece model")

    def save(self, path: Path) -> None:
        """Writes the model file."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._model)

    @property
    def vocab_size(self) -> int:
        """V: the number of pieces, the unknown piece included, blank not."""
        return int(self._processor.vocab_size())

    def pieces(self) -> list[str]:
        """The V pieces in order of their ids."""
        return list(self._pieces)

    @cached_property
    def _pieces(self) -> list[str]:
        return [str(self._processor.id_to_piece(index)) for index in range(self.vocab_size)]

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of a normalised text; all languages share the pieces."""
        return [int(index) for index in self._processor.encode(text)]

    def decode(self, ids: Sequence[int], language: str | None = None) -> str:
        """The text of ids; the unknown piece adds nothing."""
        return " ".join(str(self._processor.decode([int(index) for index in ids])).split())

    def of(self, language: str) -> Tokenizer:
        """The tokenizer of one language; here that of all."""
        return self

    def unknown(self, texts: Iterable[str], language: str | None = None) -> list[str]:
        """The characters in normalised texts that no piece has, sorted."""
        return [character for character in characters(texts) if UNKNOWN in self.encode(character)]


class ExtendedTokenizer(Tokenizer):
    """The V pieces of a model, its blank (index V), and after it pieces for a language that the V cannot write."""

    def __init__(self, base: Tokenizer, new: Tokenizer) -> None:
        super().__init__(base._model)
        self.new = new

    def unknown(self, texts: Iterable[str], language: str | None = None) -> list[str]:
        """The characters in normalised texts that no new piece has, sorted."""
        return self.new.unknown(texts)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of a normalised text, all of them new ones."""
        return [self.vocab_size + 1 + index for index in self.new.encode(text)]

    def decode(self, ids: Sequence[int], language: str | None = None) -> str:
        """The text of ids, old and new ones."""
        pieces, silent = self.pieces(), (UNKNOWN, self.vocab_size, self.vocab_size + 1 + UNKNOWN)
        text = "".join(pieces[index] for index in ids if index not in silent)
        return " ".join(text.replace(SPACE, " ").split())

    def pieces(self) -> list[str]:
        """All pieces in order of their ids; that of blank is empty."""
        return [*super().pieces(), "", *self.new.pieces()]


class TokenizerFamily(Tokenizer):
    """A tokenizer, and others for some languages: that of a model to which languages were added."""

    def __init__(self, base: Tokenizer, added: Mapping[str, ExtendedTokenizer]) -> None:
        super().__init__(base._model)
        self.added = dict(added)

    def of(self, language: str) -> Tokenizer:
        return self.added.get(language, super().of(language))

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of a normalised text of ``language``."""
        return self.added[language].encode(text) if language in self.added else super().encode(text)

    def decode(self, ids: Sequence[int], language: str | None = None) -> str:
        """The text of ids in ``language``."""
        return self.added[language].decode(ids) if language in self.added else super().decode(ids)

    def unknown(self, texts: Iterable[str], language: str | None = None) -> list[str]:
        """The characters in normalised texts of ``language`` that no piece has, sorted."""
        return self.added[language].unknown(texts) if language in self.added else super().unknown(texts)

    def save(self, path: Path) -> None:
        """Writes the model file, and those of languages beside it."""
        super().save(path)
        for language, tokenizer in self.added.items():
            tokenizer.new.save(added_path(path, language))

    @classmethod
    def load_added(cls, path: Path, languages: Iterable[str]) -> Tokenizer:
        """Reads a model file and those of some languages beside it.

        Raises:
            PathwaysError: if one is missing or not a SentencePiece model.
        """
        base = Tokenizer.load(path)
        added = {code: ExtendedTokenizer(base, Tokenizer.load(added_path(path, code))) for code in languages}
        return cls(base, added) if added else base


def lost_words(codec: TextCodec, texts: Sequence[str], language: str, where: str) -> str | None:
    """What of normalised texts a vocabulary cannot write, in one line; None: it can write all.

    In languages without spaces between words each letter is one, and joiners, which are folded in scores, do not count.
    A word is lost if one of its characters is unknown, or, in a sample of the texts, if it comes back as another word:
    it can neither be learned nor recognised right.

    Raises:
        PathwaysError: if of the words more than :data:`MOST_LOST` are lost; ``where`` the texts are is named.
    """
    words = Counter(word for text in texts for word in letters_apart(text, language).split())
    unknown = codec.unknown(words, language)
    lost = sum(count for word, count in words.items() if not set(unknown).isdisjoint(word))
    share = lost / max(1, words.total())
    sample = texts[:: -(-len(texts) // _SAMPLE) or 1]
    written, back = Counter[str](), Counter[str]()
    for text in sample:
        decoded = codec.decode(codec.encode(text, language), language)
        for counter, one in ((written, text), (back, decoded)):
            counter.update(letters_apart(one, language).split())
    changed = written - back
    share = max(share, changed.total() / max(1, written.total()))
    if not unknown and not changed:
        return None
    shown = " ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
    what = f"the characters {shown}" if unknown else f"words such as {next(iter(changed))!r}"
    line = f"{where}: {language}: the model's vocabulary cannot write {what}, in {100 * share:.2g}% of the words"
    if share > MOST_LOST:
        raise PathwaysError(f"{line}: it is of another language, or the texts are not normalised as it wants them")
    return f"{line}: they can never be right"


def characters(texts: Iterable[str]) -> list[str]:
    """The characters of some texts, without spaces, sorted."""
    return sorted({character for text in texts for character in text if not character.isspace()})


def added_path(path: Path, language: str) -> Path:
    """The file of an added language's pieces: ``tokenizer-it.model`` beside ``tokenizer.model``."""
    return path.with_name(f"{path.stem}-{language}{path.suffix}")
