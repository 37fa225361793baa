"""A bundle: one model and the pathways of all its languages in one file (``.asrp``).

    write_bundle(asr, Path("five.asrp"))
    bundle = Bundle.open(Path("five.asrp"))
    state = bundle.weights("fr")
    asr = bundle.model()

See docs/bundle.md for the format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr_pathways.bundle.building import build
from asr_pathways.bundle.layout import FILES, MASKS, UNION, BundleError, Quantity, Score
from asr_pathways.bundle.reading import Reader
from asr_pathways.bundle.vocabulary import TokenIds
from asr_pathways.bundle.writing import Contents, contents_of
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import IDENTIFIER
from asr_pathways.model_folder.model import AsrModel

__all__ = ["Bundle", "BundleError", "BundleSizes", "write_bundle"]


@dataclass(frozen=True)
class BundleSizes:
    """Sizes of a bundle.

    Attributes:
        total: bytes of the file.
        parts: bytes of the header, of values and scales (``values``), the ``union``, all ``masks``, tensors of added
            ``languages``, the ``vocabulary`` of each pathway and ``files``.
        weights: prunable ones.
        kept: those that at least one pathway keeps.
        masks: bytes of each pathway's mask.
    """

    total: int
    parts: dict[str, int]
    weights: int
    kept: int
    masks: dict[str, int]

    @property
    def union_density(self) -> float:
        return self.kept / self.weights

    @property
    def mask_bits(self) -> float:
        """Bits a prunable weight of the union and all masks."""
        return 8 * (self.parts[UNION] + sum(self.masks.values())) / self.weights


def write_bundle(
    asr: AsrModel,
    out: Path,
    dtype: Quantity = "float16",
    languages: Sequence[str] | None = None,
    *,
    scores: Mapping[str, Score] | None = None,
    identifier: bytes | None = None,
    vocabularies: Mapping[str, TokenIds] | None = None,
) -> BundleSizes:
    """Writes a bundle, whole or not at all; the same model makes the same bytes.

    Weights that none of the languages keeps are left out: the model cannot be trained densely from it.

    Args:
        asr: with pathways.
        out: a file whose name ends in ``.asrp``.
        dtype: of weights; float32 keeps them bit for bit. Vectors (norms, biases) are float32 in any case.
        languages: which ones; None: all.
        scores: by language; kept in the header.
        identifier: the file of the language identifier of all of the model's languages, if there is one.
        vocabularies: the tokens that each language's pathway of a Whisper may write; see `bundle.vocabulary.tokens_of`.
            None: all.

    Raises:
        BundleError: if there are no pathways, a language is unknown, or it cannot be written.
    """
    try:
        files = {} if identifier is None else {IDENTIFIER: identifier}
        contents = contents_of(asr, dtype, languages, files, vocabularies or {})
    except PathwaysError as error:
        raise BundleError(str(error)) from None
    contents.write(Path(out), dtype, scores or {})
    return Bundle.open(out).sizes()


class Bundle(Reader):
    """An open bundle: what is not asked for is not read. See `Reader`."""

    def model(self) -> AsrModel:
        """The model with its pathways attached, zeros where no pathway keeps anything.

        Raises:
            BundleError: if a part is broken, or not of the model that the header describes.
        """
        return build(self)

    def sizes(self) -> BundleSizes:
        """Bytes by part and by mask; from the header alone."""
        layout = self.layout
        parts = dict.fromkeys(("header", "values", "union", "masks", "languages", "vocabulary", "files"), 0)
        parts["header"] = layout.start
        for name, slot in layout.slots.items():
            kind = name.partition("/")[0]
            parts["values" if kind == "scales" else kind] += slot.nbytes
        masks = {key: layout.slots[MASKS + key].nbytes for key in layout.keys}
        weights = sum(map(math.prod, layout.prunable.values()))
        kept = sum(map(layout.kept_of, layout.prunable))
        return BundleSizes(sum(parts.values()), parts, weights, kept, masks)

    def vocabulary_shares(self) -> dict[str, float]:
        """{language: the share of all tokens that its pathway may write}, of the languages that have a vocabulary."""
        kept = {language: self.vocabulary(language) for language in self.languages}
        return {language: len(tokens) / self.layout.tokens for language, tokens in kept.items() if tokens is not None}

    def extract(self, language: str, out: str | os.PathLike[str]) -> BundleSizes:
        """Writes a bundle of one language, its values as they are here.

        Raises:
            BundleError: on an unknown language, if a part is broken, or if it cannot be written.
        """
        layout, key = self.layout, self.layout.key(language)
        contents = Contents(self.config.card, self.config.pathways, [language])
        for name in layout.prunable:
            kept, within = self.flags(key, name)
            tensor = self.values(name)
            contents.add(name, replace(tensor, values=tensor.values[within]))
            contents.add_bits(kept, {key: kept})
        of_language = layout.under_language(language)
        for name in layout.tensors.keys() - layout.prunable.keys():
            contents.add(name, self.values(name, language if name in of_language else None))
        contents.add_files({name: self.file(name) for name in layout.under(FILES)})
        if (tokens := self.vocabulary(language)) is not None:
            contents.add_vocabularies({language: tokens}, layout.tokens)
        contents.write(Path(out), self.config.dtype, self.config.scores)
        return Bundle.open(out).sizes()
