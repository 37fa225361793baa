"""With stand-ins for apt-get and dpkg-deb, so that the tests need no network and no Debian."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.data.corpora.debian import unpacked
from asr_pathways.errors import PathwaysError

# `update` works with lists of its own only; `download` works once $STATE/lists exists and makes NAME_1_all.deb.
APT_GET = """#!/bin/sh
echo "$@" >> "$STATE/calls"
case "$*" in
  *update*) [ -e "$STATE/offline" ] && { echo "E: no network" >&2; exit 100; }; touch "$STATE/lists";;
  *download*)
    [ -e "$STATE/lists" ] || { echo "W: odd" >&2; echo "E: Unable to locate package $3" >&2; exit 100; }
    for name in "$@"; do case "$name" in pkg-*) echo "$name" > "${name}_1_all.deb";; esac; done;;
esac
"""
DPKG_DEB = """#!/bin/sh
[ "$1" = -x ] && mkdir -p "$3/usr" && cp "$2" "$3/usr/"
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("STATE", str(tmp_path))
    return tmp_path


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "usr").iterdir())


def test_fetches_and_unpacks_then_cleans_up(state: Path) -> None:
    (state / "lists").touch()
    with unpacked(["pkg-a", "pkg-b"], None) as root:
        assert names(root) == ["pkg-a_1_all.deb", "pkg-b_1_all.deb"]
    assert not root.exists()
    assert (state / "calls").read_text().count("\n") == 1


def test_empty_package_lists_are_fetched_without_root(state: Path) -> None:
    with unpacked(["pkg-a"], None) as root:
        assert names(root) == ["pkg-a_1_all.deb"]
    calls = (state / "calls").read_text().splitlines()
    assert [call.split()[-2] for call in calls] == ["-q", "update", "-q"]
    assert all("Dir::State::lists=" in call for call in calls[1:])


def test_failure_says_what_to_do(state: Path) -> None:
    (state / "offline").touch()
    with (
        pytest.raises(PathwaysError, match="no network: run `apt-get update` as root first") as caught,
        unpacked(["pkg-a"], None),
    ):
        pass
    assert "--from DIR" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_no_debian(state: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("PATH", str(state / "tools"))
    (state / "tools" / missing).unlink()
    with pytest.raises(PathwaysError, match=f"no {missing}: pass --from DIR"), unpacked(["pkg-a"], None):
        pass


def test_a_tree_or_a_folder_of_debs_needs_no_fetching(state: Path) -> None:
    debs = state / "debs"
    debs.mkdir()
    for name in ("pkg-a", "other"):
        (debs / f"{name}_1_all.deb").touch()
    with unpacked(["pkg-a"], debs) as root:
        assert names(root) == ["pkg-a_1_all.deb"]
    tree = state / "tree"
    (tree / "usr").mkdir(parents=True)
    with unpacked(["pkg-a"], tree) as root:
        assert root == tree
    assert tree.exists() and not (state / "calls").exists()


def test_broken_archive_is_named(state: Path) -> None:
    debs = state / "debs"
    debs.mkdir()
    (debs / "pkg-a_1_all.deb").touch()
    (state / "tools/dpkg-deb").write_text("#!/bin/sh\necho 'dpkg-deb: error: not a Debian archive' >&2\nexit 2\n")
    with pytest.raises(PathwaysError, match="not a Debian archive"), unpacked(["pkg-a"], debs):
        pass
