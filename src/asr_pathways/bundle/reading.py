"""Reading a bundle: its layout when it is opened, anything else from the mapped file when it is asked for."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from asr_pathways.bundle import layout
from asr_pathways.bundle.layout import BundleError, Header, Layout, language_prefix, read_layout
from asr_pathways.bundle.values import Array, Flags, StoredTensor, pack, unpack

ReaderT = TypeVar("ReaderT", bound="Reader")


class Reader:
    """An open bundle, mapped into memory: what is not asked for is not read, and nothing is kept.

    A tensor's hash is compared when it is first read; see `verify`. That the file has not been written to since it was
    opened is checked at each access; a new file put in its place by renaming changes nothing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `open`."""
        weakref.finalize(self, os.close, descriptor)
        self._path, self._descriptor = path, descriptor
        self._state = self._present_state()
        # private: whoever writes to a view of it, as torch may, changes no file
        self._map = mmap.mmap(descriptor, self._state[0], access=mmap.ACCESS_COPY) if self._state[0] else b""
        self._layout = read_layout(memoryview(self._map), str(path))
        self._checked: set[str] = set()

    @classmethod
    def open(cls: type[ReaderT], path: str | os.PathLike[str]) -> ReaderT:
        """Reads the header and compares with it what there is; no weights are read.

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
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte, or cut short while it is mapped
            raise BundleError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None

    @property
    def path(self) -> Path:
        return self._path

    @property
    def config(self) -> Header:
        """The header."""
        return self._layout.header

    @property
    def layout(self) -> Layout:
        """What lies in the file."""
        return self._layout

    @property
    def languages(self) -> tuple[str, ...]:
        return self._layout.languages

    def verify(self) -> None:
        """Reads everything, compares all hashes, and the union with its values.

        Raises:
            BundleError: if any byte is another than when it was written; it names the tensor.
        """
        for name in self._layout.slots:
            self._array(name)
        for name in self._layout.prunable:
            self._union(name)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return layout.FILES + name in self._layout.slots

    def file(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            BundleError: if there is none of that name, or it is broken.
        """
        return self._array(layout.FILES + name).tobytes()

    # --- masks ----------------------------------------------------------------------------------------------

    def mask(self, language: str) -> dict[str, Tensor]:
        """{name: bool tensor} of a language.

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        key = self._layout.key(language)
        return {name: torch.from_numpy(flags).reshape(self._shape(name)) for name, flags in self._flags(key)}

    def packed_union(self) -> dict[str, Tensor]:
        """{name: uint8 (ceil(n / 8),)}: one bit a weight, as `pruning.masks.pack` packs them; mapped from the file."""
        packed = self._array(layout.UNION)
        return {name: torch.from_numpy(packed[bits.union]) for name, bits in self._layout.bits.items()}

    def packed_masks(self, key: str) -> dict[str, Tensor]:
        """{name: uint8 (ceil(n / 8),)} of a pathway, by the name of its mask."""
        return {name: torch.from_numpy(pack(flags)) for name, flags in self._flags(key)}

    def _flags(self, key: str) -> Iterator[tuple[str, Flags]]:
        """(n,) of each prunable tensor."""
        for name in self._layout.prunable:
            union = self._union(name)
            flags = np.zeros_like(union)
            flags[union] = self._within(key, name)
            yield name, flags

    def _union(self, name: str) -> Flags:
        """(n,): which weights of a prunable tensor its values are of."""
        shape = self._shape(name)
        flags = unpack(self._array(layout.UNION)[self._layout.bits[name].union], math.prod(shape))
        if np.count_nonzero(flags) != self._layout.kept_of(name):
            raise self._broken(layout.UNION, f"of {name}: keeps another number of weights than there are values")
        return flags

    def _within(self, key: str, name: str) -> Flags:
        """(k,): which values of a prunable tensor a mask keeps."""
        return unpack(self._array(layout.MASKS + key)[self._layout.bits[name].mask], self._layout.kept_of(name))

    # --- weights --------------------------------------------------------------------------------------------

    def values(self, name: str, language: str | None = None) -> StoredTensor:
        """A tensor of the model as it lies there, mapped into memory; of a prunable one, the values of the union alone.

        Args:
            name: of the tensor in the model.
            language: that was added: the unmasked tensor of that name is its.

        Raises:
            BundleError: if there is none of that name, or the part is broken.
        """
        stored = self._stored(name, language)
        stored.values.flags.writeable = False
        return stored

    def _stored(self, name: str, language: str | None = None) -> StoredTensor:
        prefix = "" if language is None else language_prefix(language)
        values, scales = f"{prefix}{layout.VALUES}{name}", f"{prefix}{layout.SCALES}{name}"
        if values not in self._layout.slots:
            raise BundleError(f"{self._path}: no tensor {name}")
        array = self._array(values)
        shape = array.shape if prefix else self._shape(name)
        return StoredTensor(shape, array, self._array(scales) if scales in self._layout.slots else None)

    def weights(self, language: str) -> dict[str, Tensor]:
        """The state_dict of a language: float32, zeros and its unmasked tensors written in.

        Raises:
            BundleError: on an unknown language, or if a part is broken.
        """
        key = self._layout.key(language)
        return self._dense(key) | self.language_tensors(language)

    def dense(self) -> dict[str, Tensor]:
        """All tensors of the model; zeros where no pathway keeps anything."""
        return self._dense(None)

    def unmasked(self) -> dict[str, Tensor]:
        """The tensors that no mask covers, as the languages have them that were there from the start."""
        names = (name for name in self._layout.tensors if name not in self.config.pathways.tensors)
        return {name: torch.from_numpy(self.values(name).dense()) for name in names}

    def language_tensors(self, language: str) -> dict[str, Tensor]:
        """The unmasked tensors of a language that was added; none for another."""
        names = self._layout.under(language_prefix(language) + layout.VALUES)
        return {name: torch.from_numpy(self.values(name, language).dense()) for name in names}

    def union_values(self, name: str) -> Tensor:
        """What the union keeps of a prunable tensor: (k,), float32, or float16; mapped from the file but for int8."""
        stored = self._stored(name)
        return torch.from_numpy(stored.values if stored.scales is None else stored.floats(self._union(name)))

    def _dense(self, key: str | None) -> dict[str, Tensor]:
        state = self.unmasked()
        for name in self._layout.prunable:
            within = None if key is None else self._within(key, name)
            state[name] = torch.from_numpy(self.values(name).dense(self._union(name), within))
        return state

    # --- inside ---------------------------------------------------------------------------------------------

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._layout.tensors[name]

    def _array(self, name: str) -> Array:
        """A tensor of the file, mapped into memory.

        Raises:
            BundleError: if there is none, it is not what was written, or the file was written to since it was opened.
        """
        if self._present_state() != self._state:
            raise BundleError(f"{self._path}: was written to since it was opened: open it again")
        slot = self._layout.slots.get(name)
        if slot is None:
            raise self._broken(name, "there is no such part")
        start = self._layout.start + slot.data_offsets[0]
        if name not in self._checked:
            part = memoryview(self._map)[start : start + slot.nbytes]
            if hashlib.sha256(part).hexdigest() != self.config.sha256[name]:
                raise self._broken(name, "changed since it was written: its SHA-256 is another")
            self._checked.add(name)
        if not slot.elements:
            return np.zeros(slot.shape, dtype=slot.item)
        return np.frombuffer(self._map, slot.item, slot.elements, start).reshape(slot.shape)

    def _present_state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def _broken(self, name: str, problem: str) -> BundleError:
        return BundleError(f"{self._path}: {name}: {problem}")
