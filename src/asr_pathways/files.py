"""Files are written whole or not at all: into a temporary sibling, then renamed.

A writer holds a lock on its temporary folder, which ends with the process: the next writer of the same path
removes what nobody holds.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from asr_pathways.errors import PathwaysError

MARK = ".tmp-"
"""In every temporary name, before the eight characters that `tempfile` adds."""
_OLD = ".old"
_RANDOM = "[a-z0-9_]{8}"
_LEFTOVER = re.compile(r"\.(.+)" + re.escape(MARK) + _RANDOM + r"(\.[^.]+)?")

_HERE, _EXCHANGE = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises an OSError inside the block, or safetensors' own, as a PathwaysError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise PathwaysError(f"{path}: cannot write: {error.strerror or error}") from None
    except SafetensorError as error:
        raise PathwaysError(f"{path}: cannot write: {error}") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields an empty file in a temporary folder beside ``path``; renamed to ``path`` on success, removed on any error.

    It has the name of ``path`` (writers that look at the suffix go on working).

    Raises:
        PathwaysError: if the file cannot be written (no permission, disk full); what was at ``path`` stays.
    """
    with writing(path):
        path = _behind_links(Path(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, path.name) as folder:  # writers may have temporary files of their own
            temporary = folder / path.name
            temporary.touch()
            yield temporary
            temporary.chmod(0o644)
            flush(temporary)
            temporary.replace(path)


def require_writable(path: Path) -> None:
    """For what takes long before it writes a file.

    Raises:
        PathwaysError: if `atomic_path` could not write it.
    """
    with writing(path):
        place = _behind_links(Path(path))
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(place.parent, place.name):
            pass


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; on success it replaces ``path``.

    On Linux the two are exchanged at once: there is always one of them at ``path``. Where the file system cannot do
    that, the old one is put aside first, and a kill at that moment leaves it there until the next writer of ``path``.

    Raises:
        PathwaysError: if the folder cannot be written; what was at ``path`` stays.
    """
    with writing(path):
        path = _behind_links(Path(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, path.name) as temporary:
            yield temporary
            temporary.chmod(0o755)
            if not os.path.lexists(path):
                temporary.replace(path)
            elif not _exchange(temporary, path):
                _swap(temporary, path)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in ``parent`` for as long as the block takes; those of the same name that kills left go first."""
    _clear(parent, name)
    with _new_folder(parent, name) as temporary:
        try:
            yield temporary
        finally:
            _remove(temporary)


def _behind_links(path: Path) -> Path:
    """Where a link leads, so that it stays; refuses devices and pipes, whose place a file would take."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.exists() and not place.is_file() and not place.is_dir():
        raise PathwaysError(f"{path}: cannot write: neither a file nor a folder")
    return place


@contextmanager
def _new_folder(parent: Path, name: str) -> Iterator[Path]:
    """Makes a folder and locks it; makes another one if somebody took that for a leftover before it was locked."""
    while True:
        path = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}{MARK}"))
        with _locked(path) as free:
            if free is not False and path.exists():
                yield path
                return


@contextmanager
def _locked(path: Path) -> Iterator[bool | None]:
    """Locks a folder if no other process has; yields whether it did, or None where there are no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield None
        else:
            yield True
    finally:
        os.close(descriptor)


def _clear(folder: Path, name: str) -> None:
    """Removes what killed writers of ``name`` left, and brings back what one of them had put aside."""
    pattern = re.compile(rf"\.{re.escape(name)}({re.escape(_OLD)})?{re.escape(MARK)}{_RANDOM}")
    with os.scandir(folder) as entries:
        left = [folder / entry.name for entry in entries if pattern.fullmatch(entry.name)]
    for path in left:
        with _locked(path) as free:
            if free:
                _bring_back(path)
                _remove(path)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two paths at once; False where that cannot be done: on other systems, and on some file systems."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _swap(new: Path, path: Path) -> None:
    """Renames the folder ``new`` to ``path``; what was there is removed, or comes back if that fails."""
    with _new_folder(path.parent, f"{path.name}{_OLD}") as aside:
        old = aside / path.name
        try:
            path.replace(old)
            try:
                new.replace(path)
            except BaseException:
                old.replace(path)
                raise
        except BaseException:
            with suppress(OSError):  # rmdir spares it if the old folder is still inside
                aside.rmdir()
            raise
        _remove(aside)


def _remove(path: Path) -> None:
    """Removes a file or folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _bring_back(aside: Path) -> None:
    """If a folder was put aside and has no successor, it comes back."""
    match = _LEFTOVER.fullmatch(aside.name)
    if match is None or not match[1].endswith(_OLD):
        return
    name = match[1].removesuffix(_OLD)
    if (aside / name).exists() and not (aside.parent / name).exists():
        (aside / name).replace(aside.parent / name)


def flush(path: Path) -> None:
    """Waits until the file is on the disk; raises OSError if it cannot be written, as on a disk that is full."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers of `atomic_path` and `atomic_folder` left in ``folder``; nobody may be writing there.

    A folder that was put aside and has no successor yet comes back.
    """
    for path in sorted(folder.glob(f".*{MARK}*")):
        if _LEFTOVER.fullmatch(path.name):
            _bring_back(path)
            _remove(path)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes UTF-8 text, whole or not at all; ``errors``: what becomes of half a surrogate pair, as of `str.encode`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented UTF-8 JSON, whole or not at all."""
    # half a surrogate pair, as in names of files that are not UTF-8, becomes an escape, which JSON has too
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", "backslashreplace")


def refuse_pipes(path: Path) -> None:
    """Refuses a pipe or a device in place of a file: reading it would wait for ever, or never end.

    Raises:
        PathwaysError: naming it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise PathwaysError(f"{path}: a pipe or a device, not a file")


def read_text(path: Path, what: str = "") -> str:
    """Reads a UTF-8 file; ``what`` it should be is named in errors.

    Raises:
        PathwaysError: if the file is missing or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read {what}".rstrip() + f": {error.strerror}") from None
    except UnicodeDecodeError:
        raise PathwaysError(f"{path}: not UTF-8 text") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is not JSON, or deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        PathwaysError: if the file is missing or is not JSON.
    """
    refuse_pipes(path)
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise PathwaysError(f"{path}: not valid JSON: {error}") from None
