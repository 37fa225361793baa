"""One process at a time in a folder: a lock that ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asr_pathways.errors import PathwaysError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path, message: str) -> Iterator[None]:
    """Makes ``folder`` if need be, and holds it; the lock's file goes in the end, and so do new folders that are empty.

    On file systems that know no locks nobody is kept out.

    Raises:
        PathwaysError: if another process holds it (with this ``message``), or if the folder cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = _locked(folder / LOCK)
    except BlockingIOError:
        raise PathwaysError(f"{folder}: {message}") from None
    except OSError as error:
        raise PathwaysError(f"{folder}: cannot write: {error.strerror}") from None
    with stream:
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
                for path in new:
                    path.rmdir()  # spares it if something is inside


def _locked(path: Path) -> IO[str]:
    """The open file of the lock, which this process has now.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if it cannot be made.
    """
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
        stream.close()  # its last owner has just removed it
