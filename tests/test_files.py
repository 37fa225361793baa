from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from asr_pathways import files
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder, atomic_path, read_json, remove_leftovers, temporary_folder, write_json


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent.parent == path.parent
        assert temporary.name == "a.txt"
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), PathwaysError("bad")])
def test_an_error_keeps_the_old_file(tmp_path: Path, old: str | None, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise error
    assert names(tmp_path) == (["a.txt"] if old else [])
    assert not old or path.read_text() == old


def test_an_error_of_safetensors_is_one_line(tmp_path: Path) -> None:
    line = r"a\.safetensors: cannot write: .*Is a directory"
    with pytest.raises(PathwaysError, match=line), atomic_path(tmp_path / "a.safetensors") as temporary:
        temporary.unlink()
        temporary.mkdir()
        save_file({"a": torch.zeros(1)}, temporary)
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "mkdtemp"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    places = {"fsync": "os.fsync", "replace": "pathlib.Path.replace", "mkdtemp": "tempfile.mkdtemp"}
    if call in places:
        monkeypatch.setattr(places[call], full_disk)
    with pytest.raises(PathwaysError) as caught, atomic_path(path) as temporary:
        temporary.write_text("new")
        if call == "write":
            full_disk()
    monkeypatch.undo()
    assert str(caught.value) == f"{path}: cannot write: No space left on device"
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PathwaysError, match=r"file/a.txt: cannot write: "), atomic_path(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(PathwaysError, match=r"file/a: cannot write: "), atomic_folder(tmp_path / "file" / "a"):
        pass


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "deep" / "folder"
    if old:
        (path / "inside").mkdir(parents=True)
        (path / "gone.txt").write_text("old")
    with atomic_folder(path) as temporary:
        assert names(temporary) == []
        (temporary / "a.txt").write_text("new")
        assert path.exists() == old
    assert names(path) == ["a.txt"]
    assert names(path.parent) == ["folder"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), PathwaysError("bad")])
def test_an_error_keeps_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.txt").write_text("old")
    with pytest.raises(type(error)), atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("new")
        raise error
    assert names(tmp_path) == ["folder"]
    assert (path / "a.txt").read_text() == "old"


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other systems than Linux, and on some file systems."""
    monkeypatch.setattr("asr_pathways.files._exchange", lambda *_: False)


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_moved_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.txt").write_text("old")
    replace, calls = Path.replace, []

    def fail(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            full_disk()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PathwaysError, match="cannot write: No space left"), atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("new")
    monkeypatch.undo()
    assert names(tmp_path) == ["folder"]
    assert (path / "a.txt").read_text() == "old"


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_the_old_folder_is_put_aside(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "a.txt").write_text(text)
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "a.txt").read_text() == "new"


def killed(write: Callable[[Path], AbstractContextManager[Path]], path: Path, at: str | None = None) -> None:
    """A process that is killed while it writes, or before or after the call ``at`` of `files`."""
    child = os.fork()
    if child == 0:
        try:
            if at is not None:
                name, when = at.split()
                owner: Any = Path if name == "replace" else files
                plain = getattr(owner, name)

                def dying(*arguments: Any) -> Any:
                    result = plain(*arguments) if when == "after" else None
                    os.kill(os.getpid(), signal.SIGKILL)
                    return result

                setattr(owner, name, dying)
            with write(path) as temporary:
                (temporary / "a.txt" if temporary.is_dir() else temporary).write_text("new")
                if at is None:
                    os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("at", ["_exchange before", "_exchange after", "_remove before"])
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(tmp_path: Path, at: str) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.txt").write_text("old")
    killed(atomic_folder, path, at)
    assert (path / "a.txt").read_text() == ("old" if at == "_exchange before" else "new")
    assert len(names(tmp_path)) == 2
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("newer")
    assert names(tmp_path) == ["folder"]
    assert (path / "a.txt").read_text() == "newer"


@pytest.mark.usefixtures("no_exchange")
def test_the_next_writer_brings_back_what_was_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.txt").write_text("old")
    killed(atomic_folder, path, "replace after")
    assert not path.exists()
    with pytest.raises(ValueError, match="no"), atomic_folder(path):
        raise ValueError("no")
    assert names(tmp_path) == ["folder"]
    assert (path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("name", ["a.txt", "a[1].b.txt", "folder", "no suffix."])
def test_a_writer_removes_what_killed_ones_of_the_same_path_left(tmp_path: Path, name: str) -> None:
    write = atomic_folder if name == "folder" else atomic_path
    others = [".other.tmp-a1b2c3d4", ".a.txt.tmp-short", "a.txt.tmp-a1b2c3d4"]
    for other in others:
        (tmp_path / other).write_text("somebody's")
    for _ in range(3):
        killed(write, tmp_path / name)
    assert len(names(tmp_path)) == len(others) + 1  # each has removed what the one before left
    with write(tmp_path / name):
        pass
    assert names(tmp_path) == sorted([*others, name])


def test_writers_of_the_same_path_leave_each_other_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as first, atomic_path(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"
    with temporary_folder(tmp_path, "model") as one, temporary_folder(tmp_path, "model") as two:
        assert one.is_dir() and two.is_dir() and one != two
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("dangling", [True, False])
def test_links_stay_and_what_they_lead_to_is_written(tmp_path: Path, dangling: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in ("folder", "a.json"):
        (tmp_path / name).symlink_to(Path("disk") / name)
    for _ in range(1 if dangling else 2):
        with atomic_folder(tmp_path / "folder") as temporary:
            assert temporary.parent == disk
            (temporary / "a.txt").write_text("new")
        write_json(tmp_path / "a.json", "new")
    assert names(tmp_path) == ["a.json", "disk", "folder"] and names(disk) == ["a.json", "folder"]
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "a.json").is_symlink()
    assert names(disk / "folder") == ["a.txt"] and read_json(disk / "a.json") == "new"


def test_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        for write in (atomic_path, atomic_folder):
            line = f"/{name}: cannot write: neither a file nor a folder"
            with pytest.raises(PathwaysError, match=line), write(tmp_path / name):
                pass
    assert names(tmp_path) == ["link", "pipe"]


def test_half_a_character_is_written_as_an_escape(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name\udcff": "\ud800"})
    assert read_json(tmp_path / "a.json") == {"name\udcff": "\ud800"}


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"text": "съешь ещё", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "съешь" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_that_cannot_be_written_keeps_the_old(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"a: 1", b"[" * 100_000, b'{"":' * 100_000])
def test_broken_json_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(PathwaysError, match=r"a.json: not (valid JSON: |UTF-8 text)") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match=r"a.json: cannot read: No such file or directory"):
        read_json(tmp_path / "a.json")
    with pytest.raises(PathwaysError, match="cannot read: Is a directory"):
        read_json(tmp_path)


def test_a_folder_that_a_kill_put_aside_comes_back(tmp_path: Path) -> None:
    for name in ("lost", "kept"):
        aside = tmp_path / f".{name}.old.tmp-a1b2c3d4" / name
        aside.mkdir(parents=True)
        (aside / "a.txt").write_text("old")
    (tmp_path / "kept").mkdir()
    (tmp_path / ".lost.tmp-a1b2c3d4").mkdir()
    (tmp_path / ".lost.tmp-short").mkdir()  # not of our making
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".lost.tmp-short", "kept", "lost"]
    assert names(tmp_path / "lost") == ["a.txt"] and names(tmp_path / "kept") == []
    remove_leftovers(tmp_path / "nowhere")
