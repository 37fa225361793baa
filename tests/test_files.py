from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder, atomic_path, read_json, remove_leftovers, write_json


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
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


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "mkstemp"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    places = {"fsync": "os.fsync", "replace": "pathlib.Path.replace", "mkstemp": "tempfile.mkstemp"}
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


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"a: 1"])
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
