"""Reading a bundle: its layout when it is opened, anything else when it is asked for."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from asr_pathways.bits import Bytes, Flags, pack, popcount, unpack
from asr_pathways.bundle import layout
from asr_pathways.bundle.layout import BundleError, language_prefix, read_layout
from asr_pathways.bundle.values import Array, StoredTensor
from asr_pathways.bundle.vocabulary import TOKENIZERS, TokenIds, special_tokens
from asr_pathways.model_folder.card import IDENTIFIER

if TYPE_CHECKING:
    from torch import Tensor

ReaderT = TypeVar("ReaderT", bound="Reader")


def has_identifier(model: Path) -> bool:
    """Whether a language identifier was fitted for a MODEL: it is in the folder, or in the bundle.

    Raises:
        BundleError: if the bundle cannot be read.
    """
    if layout.is_bundle(model):
        return Reader.open(model).has(IDENTIFIER)
    return (model / IDENTIFIER).is_file()


class Reader:
    """An open bundle: what is not asked for is not read, and only bits are kept, of the union and of one mask.

    It is read without torch, which the methods that return torch's tensors import.

    What is read is a copy, and the hash is that of the copy: whoever writes to the file meanwhile, or cuts it short,
    causes a `BundleError`, and never other values or the end of the process, as in a mapped file. That the file has not
    been written to since it was opened is checked at each access, too; a new file put in its place by renaming changes
    nothing.

    Attributes:
        path: of the file.
        layout: what is in the file, and where.
        config: the header.
        languages: in the model's order.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `open`."""
        weakref.finalize(self, os.close, descriptor)
        self.path, self._descriptor = path, descriptor
        self._state = self._present_state()
        self.layout = read_layout(lambda start, size: self._read(start, size).tobytes(), self._state[0], str(path))
        self.config, self.languages = self.layout.header, self.layout.header.pathways.languages
        self._bits: dict[str, Array] = {}

    @classmethod
    def open(cls: type[ReaderT], path: str | os.PathLike[str]) -> ReaderT:
        """Reads the header and compares it with the tensors of the file; no weights are read.

        Raises:
            BundleError: if it is no bundle, truncated, or changed in any byte before the tensors' data.
        """
        path = Path(path)
        try:
            if stat.S_ISDIR(path.stat().st_mode):
                old = (path / layout.OLD_DIGEST).exists()
                raise BundleError(f"{path}: {layout.OLD_FORMAT if old else 'a folder, not a bundle'}")
            if not stat.S_ISREG(path.stat().st_mode):
                raise BundleError(f"{path}: neither a file nor a folder")
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return cls(path, descriptor)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            raise BundleError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None

    def verify(self) -> None:
        """Reads everything, compares all hashes, and the union with its values.

        Raises:
            BundleError: if any byte is another than when it was written; it names the tensor.
        """
        for name in self.layout.slots:
            self._array(name)
        for name in self.layout.prunable:
            self._union(name)
        for language in self.languages:
            self.vocabulary(language)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return layout.FILES + name in self.layout.slots

    def file(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            BundleError: if there is none of that name, or it is broken.
        """
        return self._array(layout.FILES + name).tobytes()

    def vocabulary(self, language: str) -> TokenIds | None:
        """The tokens that a language's pathway may write, sorted: (k,); None: all of the model's.

        Raises:
            BundleError: on an unknown language, if the part is broken, or if a special token is not among them.
        """
        name = layout.VOCABULARY + self.layout.key(language)
        if name not in self.layout.slots:
            return None
        bits, count = self._array(name), self.layout.tokens
        flags = unpack(bits, count)
        names = self.layout.under(layout.FILES + layout.HUB)
        try:
            special = special_tokens({file: self.file(layout.HUB + file) for file in names if file in TOKENIZERS})
        except ValueError as error:
            raise self._broken(name, str(error)) from None
        if popcount(bits) != np.count_nonzero(flags):
            raise self._broken(name, f"has tokens beyond the model's {count:,}")
        if missing := [index for index in special if index < count and not flags[index]]:
            raise self._broken(name, f"lacks the special token {missing[0]}")
        return np.flatnonzero(flags).astype(np.int32)

    def mask(self, language: str) -> dict[str, Tensor]:
        """{name: bool tensor} of a language.

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        import torch

        key = self.layout.key(language)
        shapes = self.layout.prunable
        return {name: torch.from_numpy(self.flags(key, name)[0]).reshape(shape) for name, shape in shapes.items()}

    def packed_masks(self, key: str) -> dict[str, Tensor]:
        """{name: uint8 (ceil(n / 8),)} of a pathway, by the name of its mask."""
        import torch

        return {name: torch.from_numpy(self.mask_bits(key, name)) for name in self.layout.prunable}

    def union_bits(self, name: str) -> Bytes:
        """(ceil(n / 8),): the packed union of a prunable tensor."""
        return self._packed(layout.UNION)[self.layout.bits[name].union]

    def mask_bits(self, key: str, name: str) -> Bytes:
        """(ceil(n / 8),): the packed mask of a prunable tensor, by the name of the mask."""
        return pack(self.flags(key, name)[0])

    def pathway_bits(self, key: str, name: str) -> tuple[Bytes, Bytes]:
        """The packed union of a prunable tensor (ceil(n / 8),), and which of its k values a mask keeps (ceil(k / 8),).

        Raises:
            BundleError: if they do not fit each other, or a part is broken.
        """
        union, within = self.union_bits(name), self._packed(layout.MASKS + key)[self.layout.bits[name].mask]
        if popcount(union) != self.layout.kept_of(name):
            raise self._wrong_union(name)
        return union, within

    def flags(self, key: str, name: str) -> tuple[Flags, Flags]:
        """Which weights (n,) of a prunable tensor a mask keeps, and which values (k,) of the union."""
        union, within = self._union(name), self._within(key, name)
        flags = np.zeros_like(union)
        flags[union] = within
        return flags, within

    def _union(self, name: str) -> Flags:
        """(n,): which weights of a prunable tensor its values are of."""
        count = math.prod(self.layout.prunable[name])
        flags = unpack(self.union_bits(name), count)
        if np.count_nonzero(flags) != self.layout.kept_of(name):
            raise self._wrong_union(name)
        return flags

    def _within(self, key: str, name: str) -> Flags:
        """(k,): which values of a prunable tensor a mask keeps."""
        return unpack(self._packed(layout.MASKS + key)[self.layout.bits[name].mask], self.layout.kept_of(name))

    def values(self, name: str, language: str | None = None) -> StoredTensor:
        """A tensor of the model as it is stored; of a prunable one, the values of the union alone.

        Args:
            name: of the tensor in the model.
            language: that was added: its unmasked tensor of that name.

        Raises:
            BundleError: if there is none of that name, or the part is broken.
        """
        prefix = "" if language is None else language_prefix(language)
        values, scales = f"{prefix}{layout.VALUES}{name}", f"{prefix}{layout.SCALES}{name}"
        if values not in self.layout.slots:
            raise BundleError(f"{self.path}: no tensor {name}")
        array = self._array(values)
        array.flags.writeable = False
        shape = array.shape if prefix else self.layout.tensors[name]
        return StoredTensor(shape, array, self._array(scales) if scales in self.layout.slots else None)

    def weights(self, language: str) -> dict[str, Tensor]:
        """The state_dict of a language: float32, zeros and its unmasked tensors written in.

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        return self.dense(self.layout.key(language)) | self.language_tensors(language)

    def dense(self, key: str | None = None) -> dict[str, Tensor]:
        """All tensors of the model, zeros where the mask ``key`` keeps nothing; None: where none of the masks does."""
        import torch

        state = self.unmasked()
        for name in self.layout.prunable:
            within = None if key is None else self._within(key, name)
            state[name] = torch.from_numpy(self.values(name).dense(self._union(name), within))
        return state

    def unmasked(self) -> dict[str, Tensor]:
        """The tensors that no mask covers, but for those of added languages."""
        import torch

        names = (name for name in self.layout.tensors if name not in self.layout.prunable)
        return {name: torch.from_numpy(self.values(name).dense()) for name in names}

    def language_tensors(self, language: str) -> dict[str, Tensor]:
        """The unmasked tensors of a language that was added; none for another."""
        import torch

        names = self.layout.under_language(language)
        return {name: torch.from_numpy(self.values(name, language).dense()) for name in names}

    def union_array(self, name: str) -> Array:
        """What the union keeps of a prunable tensor: (k,), float32, or float16."""
        if layout.SCALES + name in self.layout.slots:
            return self.values(name).floats(self._union(name))
        return self._array(layout.VALUES + name)

    def _packed(self, name: str) -> Array:
        """The bits of the union or of a mask, which are read a tensor at a time, and so kept until the next mask."""
        self._check_unchanged()
        bits = self._bits.get(name)
        if bits is None:
            bits = self._array(name)
            self._bits = {kept: self._bits[kept] for kept in self._bits.keys() & {layout.UNION}} | {name: bits}
        return bits

    def _array(self, name: str) -> Array:
        """A tensor of the file: a copy.

        Raises:
            BundleError: if there is none, it is not what was written, or the file was written to since it was opened.
        """
        self._check_unchanged()
        slot = self.layout.slots.get(name)
        if slot is None:
            raise self._broken(name, "there is no such part")
        content = self._read(self.layout.start + slot.data_offsets[0], slot.nbytes)
        if hashlib.sha256(content.data).hexdigest() != self.config.sha256[name]:
            raise self._broken(name, "changed since it was written: its SHA-256 is another")
        return content.view(slot.item).reshape(slot.shape)

    def _read(self, start: int, size: int) -> Bytes:
        """Bytes of the file, as many as there are: uint8 (size,)."""
        content, count = np.empty(size, dtype=np.uint8), 0
        try:
            while count < size and (more := os.preadv(self._descriptor, [content[count:].data], start + count)):
                count += more
        except OSError as error:
            raise BundleError(f"{self.path}: cannot read: {error.strerror or error}") from None
        return content[:count]

    def _check_unchanged(self) -> None:
        if self._present_state() != self._state:
            raise BundleError(f"{self.path}: was written to since it was opened: open it again")

    def _present_state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def _wrong_union(self, name: str) -> BundleError:
        return self._broken(layout.UNION, f"of {name}: keeps another number of weights than there are values")

    def _broken(self, name: str, problem: str) -> BundleError:
        return BundleError(f"{self.path}: {name}: {problem}")
