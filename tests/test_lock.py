from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.lock import LOCK, alone_in, held, is_held

_HOLD = """
import sys, time
from pathlib import Path
from asr_pathways.lock import alone_in
with alone_in(Path(sys.argv[1]), "held"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_ends_with_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(PathwaysError, match="run: somebody is there"), alone_in(folder, "somebody is there"):
            pass
        assert (folder / LOCK).exists()  # the refused one does not take it away
        os.kill(process.pid, signal.SIGKILL)
    with alone_in(folder, "somebody is there"):
        (folder / "file").write_text("")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_it_leaves_no_empty_folders_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "old"):
        with pytest.raises(ValueError, match="no"), alone_in(folder, "busy"):
            raise ValueError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_lock_that_was_just_given_back_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, its holder may remove it: what is locked then keeps nobody out."""
    import fcntl

    flock, calls = fcntl.flock, []

    def late(stream: object, how: int) -> None:
        calls.append(stream)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        flock(stream, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with alone_in(tmp_path, "busy"):
        assert len(calls) == 2
        with pytest.raises(PathwaysError, match="busy"), alone_in(tmp_path, "busy"):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(PathwaysError, match=r"file/run: cannot write: Not a directory"), alone_in(folder, "busy"):
        pass


def test_a_lock_of_a_file_is_held_while_its_block_lasts(tmp_path: Path) -> None:
    path = tmp_path / ".lock-1"
    assert not is_held(path)
    with held(path):
        assert is_held(path)
    assert not is_held(path) and not path.exists()
    path.touch()  # as a killed process leaves it
    assert not is_held(path)
