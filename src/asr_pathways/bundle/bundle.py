"""A bundle: one model and the pathways of all its languages in one file (``.asrp``) or folder.

    write_bundle(asr, Path("five.asrp"))
    bundle = Bundle.open(Path("five.asrp"))
    state = bundle.weights("fr")
    asr = bundle.model()

See docs/bundle.md for the format.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr_pathways.bundle import coding, layout, tensors
from asr_pathways.bundle.archive import Archive, open_archive
from asr_pathways.bundle.coding import Bits
from asr_pathways.bundle.contents import TOKENIZER, Contents, contents_of, with_languages
from asr_pathways.bundle.layout import BundleError, Header, Part, Quantity, Score, own_name
from asr_pathways.bundle.rans import CodingError
from asr_pathways.bundle.values import StoredTensor
from asr_pathways.bundle.writing import WRITTEN, mask_arrays, mask_slots, weight_slots, write_contents
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel, HubCard

__all__ = ["Bundle", "BundleError", "BundleSizes", "MaskSize", "write_bundle"]

UNION = ""
"""What stands for the union among the names of masks."""


@dataclass(frozen=True)
class MaskSize:
    """What one mask takes.

    Attributes:
        bytes: in ``pathways.safetensors``.
        bits: of those, per prunable weight.
        bound: its empirical conditional entropy given what is known before it, in bits a prunable weight.
    """

    bytes: int
    bits: float
    bound: float


@dataclass(frozen=True)
class BundleSizes:
    """What a bundle takes.

    Attributes:
        total: bytes of all.
        parts: bytes of each file, ``config.json`` and its digest among them.
        weights: prunable ones.
        kept: those that at least one pathway keeps.
        union: of the mask of these, which all others lie within.
        masks: of each pathway's mask.
    """

    total: int
    parts: dict[str, int]
    weights: int
    kept: int
    union: MaskSize
    masks: dict[str, MaskSize]

    @property
    def union_density(self) -> float:
        return self.kept / self.weights if self.weights else 0.0

    @property
    def mask_bits(self) -> float:
        """Bits a prunable weight of the union and all masks."""
        return self.union.bits + sum(mask.bits for mask in self.masks.values())

    @property
    def mask_bound(self) -> float:
        """The sum of their bounds."""
        return self.union.bound + sum(mask.bound for mask in self.masks.values())


def write_bundle(
    asr: AsrModel,
    out: Path,
    dtype: Quantity = "float16",
    languages: Sequence[str] | None = None,
    *,
    scores: Mapping[str, Score] | None = None,
    identifier: bytes | None = None,
) -> BundleSizes:
    """Writes a bundle, whole or not at all.

    Weights that none of the languages keeps are left out: the model cannot be trained densely from it.

    Args:
        asr: with pathways.
        out: one file if it ends in ``.asrp``, else a folder.
        dtype: of weights; float32 keeps them bit for bit. Vectors (norms, biases) are float32 in any case.
        languages: which ones; None: all.
        scores: by language, for the card.
        identifier: the file that tells all of the model's languages apart, if there is one.

    Raises:
        BundleError: if there are no pathways, a language is unknown, or it cannot be written.
    """
    files = {} if identifier is None else {layout.IDENTIFIER: identifier}
    try:
        contents = contents_of(asr, dtype, languages, scores or {}, files)
    except BundleError:
        raise
    except PathwaysError as error:
        raise BundleError(str(error)) from None
    write_contents(contents, Path(out))
    return Bundle.open(Path(out)).sizes()


class Bundle:
    """An open bundle, mapped into memory: what is not asked for is not read.

    A part's hash is compared when it is first read; see `verify`.
    """

    def __init__(self, path: Path, archive: Archive, header: Header, head: dict[str, int]) -> None:
        """Use `open`."""
        self._path, self._archive, self._header, self._head = path, archive, header, head
        self._checked: dict[str, memoryview] = {}
        self._weights: dict[str, tensors.Array] | None = None
        self._decoded: dict[str, list[Bits]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the header and compares with it what there is, sizes and names; no weights are read.

        Raises:
            BundleError: if it is no bundle, truncated, or changed in any byte outside the parts.
        """
        path = Path(path)
        archive = open_archive(path)
        config = archive.config()
        header = layout.parse_header(config, f"{path}: {layout.CONFIG}")
        archive.check(header.parts)
        bundle = cls(path, archive, header, {layout.CONFIG: len(config), layout.DIGEST: layout.DIGEST_SIZE})
        bundle._check_tokenizers()
        for name, slots in ((layout.WEIGHTS, weight_slots(header)), (layout.PATHWAYS, mask_slots(header))):
            if header.part(name).size != tensors.size_of(slots):
                raise bundle._broken(name, "its size is not what its tensors take")
        return bundle

    @property
    def path(self) -> Path:
        return self._path

    @property
    def config(self) -> Header:
        """The header."""
        return self._header

    @property
    def languages(self) -> tuple[str, ...]:
        return self._header.languages

    def verify(self) -> None:
        """Reads everything and compares all hashes.

        Raises:
            BundleError: if any byte is another than when it was written; it names the part.
        """
        for part in self._header.parts:
            self._content(part.name)
        self._all_weights()
        for key in self._header.masks:
            self._within(key)

    def sizes(self) -> BundleSizes:
        """Bytes by part and by mask, beside the least that masks could take; decodes all masks."""
        parts = self._head | {part.name: part.size for part in self._header.parts}
        weights = self._header.weights

        def measured(key: str) -> MaskSize:
            entry = self._header.masks[key] if key else self._header.union
            held = entry.bits + entry.levels + entry.stream
            given = [self._within(other) for other in entry.given]
            bound = coding.entropy(self._within(key) if key else self._union(), given)
            return MaskSize(held, 8 * held / weights, bound / weights)

        masks = {key: measured(key) for key in self._header.masks}
        total = self._path.stat().st_size if self._path.is_file() else sum(parts.values())
        return BundleSizes(total, parts, weights, self._header.kept, measured(UNION), masks)

    # --- masks ----------------------------------------------------------------------------------------------

    def union(self) -> dict[str, Tensor]:
        """{name: bool tensor}: the prunable weights whose values are there."""
        return self._shaped(bits.view(np.bool_) for bits in self._union())

    def mask(self, language: str) -> dict[str, Tensor]:
        """{name: bool tensor} of a language; decodes, beside it, the masks by which it is coded (four at most).

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        return self._shaped(self._flags(self._header.key(language)))

    def _flags(self, key: str) -> Any:
        for union, within in zip(self._union(), self._within(key), strict=True):
            flags = np.zeros(len(union), dtype=np.bool_)
            flags[union.view(np.bool_)] = within.view(np.bool_)
            yield flags

    def _shaped(self, flags: Any) -> dict[str, Tensor]:
        shapes = self._header.pathways.tensors
        return {name: torch.from_numpy(own).reshape(shapes[name]) for name, own in zip(shapes, flags, strict=True)}

    def _union(self) -> list[Bits]:
        return self._within(UNION)

    def _within(self, key: str) -> list[Bits]:
        """0 and 1 of a mask for each weight of the union (of the union: for each weight), by tensor."""
        if key not in self._decoded:
            header = self._header
            entry = header.masks[key] if key else header.union
            given = [self._within(other) for other in entry.given]
            arrays = tensors.view(self._content(layout.PATHWAYS), mask_slots(header), self._where(layout.PATHWAYS))
            told = [header.tensors[name] for name in header.prunable]
            lengths = [tensor.kept or 0 if key else tensor.elements for tensor in told]
            try:
                found = coding.decode(mask_arrays(key, arrays, entry), lengths, given)
            except CodingError as error:
                raise self._broken(layout.PATHWAYS, f"mask of {key or 'the union'}: {error}") from None
            if not key and any(np.count_nonzero(bits) != tensor.kept for bits, tensor in zip(found, told, strict=True)):
                raise self._broken(layout.PATHWAYS, "the union does not keep as many weights as there are values")
            self._decoded[key] = found
        return self._decoded[key]

    # --- weights --------------------------------------------------------------------------------------------

    def values(self, name: str) -> StoredTensor:
        """A tensor as it lies there, mapped into memory; of a prunable one, the values of the union alone.

        Raises:
            BundleError: if there is none of that name, or the part is broken.
        """
        entries = dict(self._header.entries())
        if name not in entries:
            raise BundleError(f"{self._path}: no tensor {name}")
        arrays = self._all_weights()
        return StoredTensor(entries[name], arrays[f"values/{name}"], arrays.get(f"scales/{name}"))

    def weights(self, language: str) -> dict[str, Tensor]:
        """The state_dict of a language: float32, zeros and its own tensors written in.

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        mask = dict(zip(self._header.prunable, self._flags(self._header.key(language)), strict=True))
        own = self._header.own.get(language, {})
        state = {}
        for name, dense in self._dense(own_of=language if own else None).items():
            if name in mask:
                dense.view(-1)[~torch.from_numpy(mask[name])] = 0
            state[name] = dense
        return state

    def _dense(self, own_of: str | None = None) -> dict[str, Tensor]:
        """All tensors of the model; zeros where no pathway keeps anything."""
        union = dict(zip(self._header.prunable, self._union(), strict=True))
        found = {}
        for name in self._header.tensors:
            kept = union[name].view(np.bool_) if name in union else None
            source = own_name(own_of, name) if own_of and name in self._header.own[own_of] else name
            found[name] = torch.from_numpy(self.values(source).dense(kept))
        return found

    def unmasked(self) -> dict[str, Tensor]:
        """The tensors that no mask covers, as the languages have them that were there from the start."""
        prunable = set(self._header.prunable)
        return {
            name: torch.from_numpy(self.values(name).dense()) for name in self._header.tensors if name not in prunable
        }

    def own(self, language: str) -> dict[str, Tensor]:
        """The tensors of its own of a language that was added; none for another."""
        own = self._header.own.get(language, {})
        return {name: torch.from_numpy(self.values(own_name(language, name)).dense()) for name in own}

    def compact(self, name: str, union: Tensor) -> Tensor:
        """What the union (packed bits) keeps of a prunable tensor: (k,), float32, or float16 mapped from the file."""
        stored = self.values(name)
        if stored.scales is not None:
            flags = np.unpackbits(union.numpy(), count=stored.entry.elements, bitorder="little")
            return torch.from_numpy(stored.floats(flags.view(np.bool_)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of memory that must not be written, and nobody will
            return torch.from_numpy(stored.values)

    def forget_masks(self) -> None:
        """Frees what decoding masks has left in memory; who asks again decodes again."""
        self._decoded.clear()

    def _own(self) -> dict[str, dict[str, Tensor]]:
        return {
            language: {name: torch.from_numpy(self.values(own_name(language, name)).dense()) for name in own}
            for language, own in self._header.own.items()
        }

    def _all_weights(self) -> dict[str, tensors.Array]:
        if self._weights is None:
            content = self._content(layout.WEIGHTS)
            self._weights = tensors.view(content, weight_slots(self._header), self._where(layout.WEIGHTS))
        return self._weights

    # --- other forms ----------------------------------------------------------------------------------------

    def extract(self, language: str, out: str | os.PathLike[str]) -> BundleSizes:
        """Writes a bundle of one language, its values as they are here.

        Raises:
            BundleError: on an unknown language, if a part is broken, or if it cannot be written.
        """
        self._header.key(language)
        write_contents(with_languages(self.contents(), [language]), Path(out))
        return Bundle.open(out).sizes()

    def model(self) -> AsrModel:
        """The model with its pathways attached, zeros where no pathway keeps anything.

        Raises:
            BundleError: if a part is broken, or not of the model that the header describes.
        """
        from asr_pathways.bundle.building import build

        return build(self._header, str(self._path), self._dense, self._own, self._packed, self.file)

    def contents(self) -> Contents:
        """All of it, to be written anew."""
        header = self._header
        union = [np.packbits(bits, bitorder="little") for bits in self._union()]
        names = [part.name for part in header.parts if part.name not in WRITTEN]
        return Contents(
            dtype=header.dtype,
            card=header.card,
            pathways=header.pathways,
            tensors={name: self.values(name) for name in header.tensors},
            own={
                language: {name: self.values(own_name(language, name)) for name in own}
                for language, own in header.own.items()
            },
            union=union,
            masks={key: [np.packbits(f, bitorder="little") for f in self._flags(key)] for key in header.masks},
            files={name: self.file(name) for name in names},
            scores=dict(header.scores),
        )

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return any(part.name == name for part in self._header.parts)

    def file(self, name: str) -> bytes:
        """The bytes of a part, their hash compared.

        Raises:
            BundleError: if there is none of that name, or it is broken.
        """
        return bytes(self._content(name))

    # --- inside ---------------------------------------------------------------------------------------------

    def _packed(self) -> dict[str, dict[str, NDArray[np.uint8]]]:
        return {
            key: {
                name: np.packbits(flags, bitorder="little")
                for name, flags in zip(self._header.prunable, self._flags(key), strict=True)
            }
            for key in self._header.masks
        }

    def _check_tokenizers(self) -> None:
        there = {part.name for part in self._header.parts if part.name.startswith("tokenizer")}
        added = {f"tokenizer-{language}.model" for language in self._header.card.added}
        hub = isinstance(self._header.card, HubCard)
        for name in sorted(there ^ (set() if hub else {TOKENIZER, *added})):
            raise self._broken(name, "missing" if name not in there else "is of no language in the header")

    def _content(self, name: str) -> memoryview:
        if name not in self._checked:
            part = next((part for part in self._header.parts if part.name == name), None)
            if part is None:
                raise self._broken(name, "there is no such part")
            self._checked[name] = self._compared(part)
        return self._checked[name]

    def _compared(self, part: Part) -> memoryview:
        content = self._archive.read(part)
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise self._broken(part.name, "changed since it was written: its SHA-256 is another")
        return content

    def _where(self, name: str) -> str:
        return f"{self._path}: {name}"

    def _broken(self, name: str, problem: str) -> BundleError:
        return BundleError(f"{self._where(name)}: {problem}")
