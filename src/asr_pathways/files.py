"""Files are written whole or not at all: into a temporary sibling, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from asr_pathways.errors import PathwaysError

MARK = ".tmp-"
"""In every temporary name, before the eight characters that `tempfile` adds."""
_OLD = ".old"
_LEFTOVER = re.compile(r"\.(.+)" + re.escape(MARK) + r"[a-z0-9_]{8}(\.[^.]+)?")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises an OSError inside the block as a PathwaysError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise PathwaysError(f"{path}: cannot write: {error.strerror or error}") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary file path beside ``path``; renamed to ``path`` on success, removed on any error.

    The temporary name keeps the suffix of ``path`` (writers that look at the suffix go on working).

    Raises:
        PathwaysError: if the file cannot be written (no permission, disk full); what was at ``path`` stays.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}{MARK}", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; on success it replaces ``path``.

    Raises:
        PathwaysError: if the folder cannot be written; what was at ``path`` stays.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{MARK}"))
        try:
            yield temporary
            temporary.chmod(0o755)
            _swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Renames the folder ``new`` to ``path``; what was there is removed, or comes back if that fails."""
    if not path.exists():
        new.replace(path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{_OLD}{MARK}"))
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
    shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Waits until the file is on the disk; raises OSError if it cannot be written, as on a disk that is full."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers of `atomic_path` and `atomic_folder` left in ``folder``; nobody may be writing there.

    A folder that was put aside and has no successor yet comes back.
    """
    for path in sorted(folder.glob(f".*{MARK}*")):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        name = match[1].removesuffix(_OLD)
        if match[1].endswith(_OLD) and (path / name).exists() and not (folder / name).exists():
            (path / name).replace(folder / name)
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented UTF-8 JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # half a surrogate pair, as in names of files that are not UTF-8, becomes an escape, which JSON has too
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


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
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise PathwaysError(f"{path}: not valid JSON: {error}") from None
