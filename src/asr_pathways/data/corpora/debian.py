"""Debian packages as a source of data: fetched with apt-get and unpacked with dpkg-deb, without root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from asr_pathways.errors import PathwaysError

TIMEOUT = 900  # seconds that one apt-get may take


@contextmanager
def unpacked(packages: Sequence[str], source: Path | None) -> Iterator[Path]:
    """Yields the root of a tree with ``packages`` unpacked in it (``usr/share/...``).

    Args:
        packages: names of Debian packages.
        source: a tree already unpacked, or a folder of ``.deb`` files; None fetches the packages.

    Raises:
        PathwaysError: if ``source`` is no such folder, or the packages cannot be fetched.
    """
    if source is not None:
        if not source.is_dir():
            raise PathwaysError(f"{source}: no such folder of unpacked packages")
        if (source / "usr").is_dir() or not any(source.glob("*.deb")):
            yield source
            return
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        folder = Path(temporary)
        if source is None:
            _download(packages, folder)
            archives = sorted(folder.glob("*.deb"))
        else:
            archives = sorted(path for name in packages for path in source.glob(f"{name}_*.deb"))
        for archive in archives:
            if problem := _run(["dpkg-deb", "-x", str(archive), str(folder / "tree")], folder):
                raise PathwaysError(f"dpkg-deb -x: {problem}")
        (folder / "tree").mkdir(exist_ok=True)
        yield folder / "tree"


def _download(packages: Sequence[str], folder: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PathwaysError(
                f"cannot fetch {packages[0]}: this system has no {tool}: pass --from DIR of unpacked "
                "packages, or make speech with `asr-pathways data synth`"
            )
    if not _run(["apt-get", "download", "-q", *packages], folder):
        return
    # Package lists may be empty or old, as on a bare machine: fetch others, which needs no root.
    lists = folder / "apt"
    (lists / "lists" / "partial").mkdir(parents=True)
    (lists / "cache" / "archives" / "partial").mkdir(parents=True)
    apt = ["apt-get", "-o", f"Dir::State::lists={lists / 'lists'}", "-o", f"Dir::Cache={lists / 'cache'}"]
    problem = _run([*apt, "update", "-q"], folder) or _run([*apt, "download", "-q", *packages], folder)
    shutil.rmtree(lists)
    if problem:
        raise PathwaysError(
            f"apt-get cannot fetch {', '.join(packages)}: {problem}: run `apt-get update` as root first, "
            "pass --from DIR of unpacked packages, or make speech with `asr-pathways data synth`"
        )


def _run(command: Sequence[str], folder: Path) -> str:
    """Runs a command silently in ``folder``; the last line of its errors, empty if it succeeded."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return (errors or lines or [f"exit status {done.returncode}"])[-1].removeprefix("E:").strip()
