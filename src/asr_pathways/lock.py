"""One process at a time in a folder: a lock that ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asr_pathways.errors import PathwaysError
from asr_pathways.files import writing

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path, message: str) -> Iterator[None]:
    """Makes ``folder`` if need be, and locks it; the lock's file is removed at the end, and so are new, empty folders.

    On file systems that know no locks nobody is kept out.

    Raises:
        PathwaysError: if another process holds it (with this ``message``), or if the folder cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stream = _locked(folder / LOCK)
        except BlockingIOError:
            raise PathwaysError(f"{folder}: {message}") from None
    with stream:
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
                for path in new:
                    path.rmdir()  # spares it if something is inside


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a lock, whose file is there while the block lasts or, after a kill, until somebody removes it."""
    with writing(path), _locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock `held` of this file; on file systems that know no locks, whether it is there."""
    try:
        with path.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _locked(path: Path) -> IO[str]:
    """The open file of the lock, which this process holds now; raises BlockingIOError if another one does."""
    while True:
        stream = path.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        except OSError:  # no locks here
            return stream
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
        stream.close()  # the process that held it has just removed it
