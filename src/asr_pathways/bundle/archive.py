"""A bundle's files: in a folder, or one after the other in a zip file of which every byte is fixed by the header.

A zip file here has one form: entries stored, in the header's order, no comments, times or flags, the data of each at a
multiple of 64 bytes (so that they can be mapped into memory), filled up by an extra field as zipalign does. A reader
works out all bytes between the data from the header and compares them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asr_pathways.bundle.layout import BUNDLE_SUFFIX as SUFFIX
from asr_pathways.bundle.layout import CONFIG, DIGEST, HUB, MAX_CONFIG, BundleError, Part
from asr_pathways.bundle.tensors import ALIGNMENT
from asr_pathways.files import atomic_folder, atomic_path

Pieces = Sequence[bytes | memoryview]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_EXTRA = struct.Struct("<3H")
_ALIGNED = 0xD935  # the extra field of zipalign
_DATE = 0x0021  # 1980-01-01, the first that zip knows
_MAX_ZIP = (1 << 32) - 1


class Archive(Protocol):
    """Where parts are read from."""

    def config(self) -> bytes:
        """``config.json``; its digest fits."""

    def check(self, parts: Sequence[Part]) -> None:
        """Raises BundleError unless there is just what the header says."""

    def read(self, part: Part) -> memoryview:
        """A part, mapped into memory, its hash not yet compared."""


def describe(name: str, pieces: Pieces) -> Part:
    """Size and hashes of a part."""
    sha, crc, size = hashlib.sha256(), 0, 0
    for piece in pieces:
        sha.update(piece)
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    return Part(name=name, size=size, sha256=sha.hexdigest(), crc32=crc)


def digest_of(config: bytes) -> bytes:
    """What the digest file says of a ``config.json``, as ``sha256sum`` writes it."""
    return f"{hashlib.sha256(config).hexdigest()}  {CONFIG}\n".encode()


def open_archive(path: Path) -> Archive:
    """The files of a bundle.

    Raises:
        BundleError: if there is no bundle at ``path``.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return FolderArchive(path)
        if stat.S_ISREG(mode):
            return ZipArchive(path, _map(path))
    except OSError as error:
        raise BundleError(f"{path}: cannot read: {error.strerror}") from None
    raise BundleError(f"{path}: neither a file nor a folder")


class FolderArchive:
    """A folder with the parts as files, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def config(self) -> bytes:
        if self._size(CONFIG) > MAX_CONFIG:
            raise BundleError(f"{self._path / CONFIG}: larger than {MAX_CONFIG:,} bytes")
        content = bytes(self._read(CONFIG))
        digest = digest_of(content)
        if self._size(DIGEST) != len(digest) or self._read(DIGEST) != digest:
            raise BundleError(f"{self._path / CONFIG}: changed since it was written: {DIGEST} does not fit it")
        return content

    def check(self, parts: Sequence[Part]) -> None:
        names = {CONFIG, DIGEST, *(part.name for part in parts)}
        folders = {HUB.rstrip("/")} if any(name.startswith(HUB) for name in names) else set()
        for name in sorted(self._names(folders) ^ (names | folders)):
            if name in names or name in folders:
                raise BundleError(f"{self._path / name}: missing")
            raise BundleError(f"{self._path / name}: is no part of the bundle: take it out")
        for part in parts:
            if self._size(part.name) != part.size:
                raise BundleError(f"{self._path / part.name}: has {self._size(part.name):,} bytes, not {part.size:,}")

    def read(self, part: Part) -> memoryview:
        content = self._read(part.name)
        if len(content) != part.size:
            raise BundleError(f"{self._path / part.name}: has {len(content):,} bytes, not {part.size:,}")
        return content

    def _names(self, folders: set[str]) -> set[str]:
        try:
            found = {entry.name for entry in os.scandir(self._path)}
            for folder in found & folders:
                if (self._path / folder).is_symlink():
                    raise BundleError(f"{self._path / folder}: a link: a bundle holds files only")
                found |= {f"{folder}/{entry.name}" for entry in os.scandir(self._path / folder)}
        except OSError as error:
            raise BundleError(f"{self._path}: cannot read: {error.strerror}") from None
        return found

    def _size(self, name: str) -> int:
        try:
            found = (self._path / name).lstat()
        except OSError as error:
            raise BundleError(f"{self._path / name}: cannot read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{self._path / name}: not a plain file: a bundle holds files only")
        return found.st_size

    def _read(self, name: str) -> memoryview:
        self._size(name)
        return _map(self._path / name)


class ZipArchive:
    """One file."""

    def __init__(self, path: Path, content: memoryview) -> None:
        self._path, self._content = path, content
        self._places: dict[str, int] = {}

    def config(self) -> bytes:
        start, size = self._config_place()
        content = bytes(self._content[start : start + size])
        digest = digest_of(content)
        places, _ = _skeleton(_first(content))
        if self._content[places[DIGEST] : places[DIGEST] + len(digest)] != digest:
            raise BundleError(f"{self._path}: {CONFIG}: changed since it was written: {DIGEST} does not fit it")
        return content

    def check(self, parts: Sequence[Part]) -> None:
        start, size = self._config_place()
        every = [*_first(bytes(self._content[start : start + size])), *parts]
        self._places, fixed = _skeleton(every)
        end = max(place + len(piece) for place, piece in fixed)
        if len(self._content) != end:
            raise BundleError(f"{self._path}: has {len(self._content):,} bytes, not {end:,}: truncated or changed")
        for place, piece in fixed:
            if self._content[place : place + len(piece)] != piece:
                raise BundleError(f"{self._path}: changed near byte {place:,}: not the zip file that was written")

    def read(self, part: Part) -> memoryview:
        start = self._places[part.name]
        return self._content[start : start + part.size]

    def _config_place(self) -> tuple[int, int]:
        """Where ``config.json`` begins, and its size: the only length that is not from the header."""
        head = self._content[: _LOCAL.size]
        if len(head) < _LOCAL.size or bytes(head[:4]) != b"PK\x03\x04":
            raise BundleError(f"{self._path}: not a bundle: it does not begin as a zip file does")
        size = _LOCAL.unpack(head)[7]
        start = _aligned(_LOCAL.size + len(CONFIG))
        if size > min(MAX_CONFIG, len(self._content) - start):
            raise BundleError(f"{self._path}: {CONFIG}: {size:,} bytes cannot be: not a bundle, or truncated")
        return start, size


def write_archive(path: Path, config: bytes, parts: Sequence[Part], contents: Mapping[str, Pieces]) -> None:
    """Writes a bundle, whole or not at all: one file if ``path`` ends in ``.asrp``, else a folder.

    Raises:
        BundleError: if it would be larger than zip allows, or if a folder is there that is no bundle.
        PathwaysError: if it cannot be written.
    """
    every = [*_first(config), *parts]
    pieces = {CONFIG: [config], DIGEST: [digest_of(config)], **contents}
    if path.suffix == SUFFIX:
        _write_zip(path, every, pieces)
        return
    if path.is_dir() and any(path.iterdir()) and not (path / DIGEST).is_file():
        raise BundleError(f"{path}: a folder with other things in it: choose another, or a file {path.name}{SUFFIX}")
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: a file: choose a folder, or a name that ends in {SUFFIX}")
    with atomic_folder(path) as folder:
        for part in every:
            (folder / part.name).parent.mkdir(exist_ok=True)
            with (folder / part.name).open("wb") as stream:
                stream.writelines(pieces[part.name])


def _write_zip(path: Path, every: Sequence[Part], pieces: Mapping[str, Pieces]) -> None:
    if path.is_dir():
        raise BundleError(f"{path}: a folder: choose a name for a file")
    places, fixed = _skeleton(every)
    if max(place for place, _ in fixed) > _MAX_ZIP:
        raise BundleError(f"{path}: more than 4 GiB, which one file cannot hold: write a folder (no {SUFFIX})")
    data = [(places[part.name], piece) for part in every for piece in _placed(places[part.name], pieces[part.name])]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for _, (place, piece) in sorted([*((p, (p, b)) for p, b in fixed), *data], key=lambda item: item[0]):
            stream.seek(place)
            stream.write(piece)


def _placed(place: int, pieces: Pieces) -> Iterator[tuple[int, bytes | memoryview]]:
    for piece in pieces:
        yield place, piece
        place += len(piece)


def _first(config: bytes) -> list[Part]:
    return [describe(CONFIG, [config]), describe(DIGEST, [digest_of(config)])]


@dataclass(frozen=True)
class _Entry:
    part: Part
    offset: int

    @property
    def _fields(self) -> tuple[int, ...]:
        part = self.part
        crc, size = part.crc32, part.size & _MAX_ZIP
        return 0, 0, 0, _DATE, crc, size, size, len(part.name)

    def local(self) -> bytes:
        name = self.part.name.encode("ascii")
        extra = _aligned(self.offset + _LOCAL.size + len(name)) - (self.offset + _LOCAL.size + len(name))
        field = _EXTRA.pack(_ALIGNED, extra - 4, ALIGNMENT) + bytes(extra - _EXTRA.size)
        return _LOCAL.pack(b"PK\x03\x04", 20, *self._fields, extra) + name + field

    def central(self) -> bytes:
        name = self.part.name.encode("ascii")
        mode = (stat.S_IFREG | 0o644) << 16
        fixed = _CENTRAL.pack(b"PK\x01\x02", 3 << 8 | 20, 20, *self._fields, 0, 0, 0, 0, mode, self.offset & _MAX_ZIP)
        return fixed + name


def _aligned(place: int) -> int:
    """The first multiple of ALIGNMENT after an extra field that begins at ``place``."""
    return -(-(place + _EXTRA.size) // ALIGNMENT) * ALIGNMENT


def _skeleton(parts: Sequence[Part]) -> tuple[dict[str, int], list[tuple[int, bytes]]]:
    """Where the data of each part begin, and all other bytes of the zip file with their places."""
    places: dict[str, int] = {}
    fixed: list[tuple[int, bytes]] = []
    central, end = [], 0
    for part in parts:
        entry = _Entry(part, end)
        local = entry.local()
        fixed.append((end, local))
        central.append(entry.central())
        places[part.name] = end + len(local)
        end += len(local) + part.size
    directory = b"".join(central)
    tail = _END.pack(b"PK\x05\x06", 0, 0, len(parts), len(parts), len(directory), end & _MAX_ZIP, 0)
    return places, [*fixed, (end, directory + tail)]


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
