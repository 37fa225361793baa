"""Word pieces: one SentencePiece unigram model shared by all languages (Kudo 2018, arXiv 1804.10959)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path


class TextCodec(Protocol):
    """Text to token ids and back, for the languages that a model knows."""

    def encode(self, text: str, language: str, /) -> list[int]: ...
    def decode(self, ids: Sequence[int], language: str, /) -> str: ...


class Tokenizer:
    """Text to ids 0..V-1 and back. The blank of the transducer is not among them: it is index V.

    Id 0 is the unknown piece: a character that was not in the training texts.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, path: Path | None = None) -> Tokenizer:
        """Trains on normalised texts, and writes the model to ``path`` if given. Deterministic.

        Args:
            texts: one utterance each; repeat or sample lines to balance languages.
            vocab_size: V, the unknown piece included.
            path: where to write the model.

        Raises:
            PathwaysError: if there is no text, or ``vocab_size`` does not fit the texts.
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
                unk_id=0,
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
        tokenizer = cls(model.getvalue())
        if path is not None:
            tokenizer.save(path)
        return tokenizer

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a model file.

        Raises:
            PathwaysError: if it is missing or not a SentencePiece model.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PathwaysError(f"{path}: cannot read tokenizer: {error.strerror}") from None
        try:
            tokenizer = cls(data)
            if not data or tokenizer.vocab_size < 1:
                raise RuntimeError
        except (RuntimeError, OSError):
            raise PathwaysError(f"{path}: not a SentencePiece model") from None
        return tokenizer

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
        return [str(self._processor.id_to_piece(index)) for index in range(self.vocab_size)]

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of a normalised text; all languages share the pieces."""
        return [int(index) for index in self._processor.encode(text)]

    def decode(self, ids: Sequence[int], language: str | None = None) -> str:
        """The text of ids; the unknown piece adds nothing."""
        return " ".join(str(self._processor.decode([int(index) for index in ids])).split())
