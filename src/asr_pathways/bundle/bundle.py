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
from dataclasses import dataclass
from pathlib import Path

from asr_pathways.bundle.building import build
from asr_pathways.bundle.layout import (
    FILES,
    IDENTIFIER,
    MASKS,
    UNION,
    VALUES,
    BundleError,
    Quantity,
    Score,
    language_prefix,
)
from asr_pathways.bundle.reading import Reader
from asr_pathways.bundle.writing import Contents, contents_of, with_languages, write_contents
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel

__all__ = ["Bundle", "BundleError", "BundleSizes", "write_bundle"]


@dataclass(frozen=True)
class BundleSizes:
    """What a bundle takes.

    Attributes:
        total: bytes of the file.
        parts: bytes of the header, of values and scales (``values``), the ``union``, all ``masks``, tensors of added
            ``languages`` and ``files``.
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
) -> BundleSizes:
    """Writes a bundle, whole or not at all; the same model gives the same bytes.

    Weights that none of the languages keeps are left out: the model cannot be trained densely from it.

    Args:
        asr: with pathways.
        out: a file whose name ends in ``.asrp``.
        dtype: of weights; float32 keeps them bit for bit. Vectors (norms, biases) are float32 in any case.
        languages: which ones; None: all.
        scores: by language; kept in the header.
        identifier: the file that tells all of the model's languages apart, if there is one.

    Raises:
        BundleError: if there are no pathways, a language is unknown, or it cannot be written.
    """
    files = {} if identifier is None else {IDENTIFIER: identifier}
    try:
        contents = contents_of(asr, dtype, languages, scores or {}, files)
    except BundleError:
        raise
    except PathwaysError as error:
        raise BundleError(str(error)) from None
    write_contents(contents, Path(out))
    return Bundle.open(Path(out)).sizes()


class Bundle(Reader):
    """An open bundle, mapped into memory: what is not asked for is not read. See `Reader`."""

    def model(self) -> AsrModel:
        """The model with its pathways attached, zeros where no pathway keeps anything.

        Raises:
            BundleError: if a part is broken, or not of the model that the header describes.
        """
        return build(self)

    def sizes(self) -> BundleSizes:
        """Bytes by part and by mask; from the header alone."""
        layout = self.layout
        parts = dict.fromkeys(("header", "values", "union", "masks", "languages", "files"), 0)
        parts["header"] = layout.start
        for name, slot in layout.slots.items():
            kind = name.partition("/")[0]
            parts["values" if kind == "scales" else kind] += slot.nbytes
        masks = {key: layout.slots[MASKS + key].nbytes for key in layout.keys}
        weights = sum(map(math.prod, self.config.pathways.tensors.values()))
        kept = sum(map(layout.kept_of, layout.prunable))
        return BundleSizes(sum(parts.values()), parts, weights, kept, masks)

    def extract(self, language: str, out: str | os.PathLike[str]) -> BundleSizes:
        """Writes a bundle of one language, its values as they are here.

        Raises:
            BundleError: on an unknown language, if a part is broken, or if it cannot be written.
        """
        self.layout.key(language)
        write_contents(with_languages(self._contents(), [language]), Path(out))
        return Bundle.open(out).sizes()

    def _contents(self) -> Contents:
        layout, header = self.layout, self.config
        masks = {key: self.packed_masks(key).values() for key in layout.keys}
        return Contents(
            dtype=header.dtype,
            card=header.card,
            pathways=header.pathways,
            tensors={name: self.values(name) for name in layout.tensors},
            language_tensors={
                language: {
                    name: self.values(name, language) for name in layout.under(language_prefix(language) + VALUES)
                }
                for language in header.pathways.added
            },
            union=[bits.numpy() for bits in self.packed_union().values()],
            masks={key: [bits.numpy() for bits in packed] for key, packed in masks.items()},
            files={name: self.file(name) for name in layout.under(FILES)},
            scores=dict(header.scores),
        )
