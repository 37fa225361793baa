"""Which tokens of a Whisper's vocabulary a language needs: what the output layer of its pathway is left with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_text

if TYPE_CHECKING:
    from asr_pathways.model_folder.model import AsrModel

TokenIds = NDArray[np.int32]

TOKENIZERS = ("tokenizer.json", "added_tokens.json")
"""Files of a tokenizer that say which tokens are special: the first that is there."""


def read_texts(path: Path, languages: Sequence[str]) -> dict[str, list[str]]:
    """The texts of languages: those for training of a data folder, or the lines of ``path/LANGUAGE.txt``.

    Raises:
        PathwaysError: if there is no such folder, or a language has no text in it.
    """
    from asr_pathways.data.corpus import is_data_folder, load_cuts, texts_of

    if not path.is_dir():
        raise PathwaysError(f"{path}: no such folder: a data folder is needed, or one of text files such as en.txt")
    if is_data_folder(path):
        return texts_of(load_cuts(path, "train", languages))
    return {language: read_text(path / f"{language}.txt").splitlines() for language in languages}


def tokens_of(asr: AsrModel, texts: Mapping[str, Iterable[str]]) -> dict[str, TokenIds]:
    """{language: the tokens that a pathway needs to write texts, sorted}: theirs, single bytes, and special ones.

    A text counts as it stands and as it is normalised for training. With the bytes any other text can be written, too.

    Raises:
        PathwaysError: if the model is no Whisper, or a language has no words in its texts.
    """
    from asr_pathways.data.normalize import normalize
    from asr_pathways.models.hub.codec import HubTokenizer
    from asr_pathways.models.hub.whisper import Whisper

    if not isinstance(asr.model, Whisper) or not isinstance(asr.tokenizer, HubTokenizer):
        raise PathwaysError("only the vocabulary of a Whisper can be restricted")
    pieces: dict[str, int] = asr.tokenizer.tokenizer.get_vocab()
    always = {index for piece, index in pieces.items() if len(piece) == 1} | set(special_tokens(asr.model.files()))
    found = {}
    for language, lines in texts.items():
        distinct = dict.fromkeys(form for line in lines for form in (line.strip(), normalize(line, language)) if form)
        if not distinct:
            raise PathwaysError(f"vocabulary: no words in the texts in {language!r}")
        written = {index for line in distinct for index in asr.tokenizer.encode(line, language)}
        found[language] = np.array(sorted(always | written), dtype=np.int32)
    return found


def special_tokens(files: Mapping[str, bytes]) -> list[int]:
    """The ids of special tokens, by the files of a tokenizer; time stamps are special where its file says so.

    Raises:
        ValueError: if no file says which they are.
    """
    try:
        if "tokenizer.json" in files:
            added: Any = json.loads(files["tokenizer.json"])["added_tokens"]
            ids = [token["id"] for token in added if token["special"]]
        else:
            ids = list(json.loads(files["added_tokens.json"]).values())
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no list of special tokens: {error}") from None
    if not all(type(index) is int and index >= 0 for index in ids):
        raise ValueError("a special token has no id")
    return ids
