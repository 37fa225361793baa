"""docs/architecture.md names what is there, all of it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "asr_pathways"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE))
    assert len(named) > 30
    assert [name for name in named if not (SOURCE / name).exists()] == []


def test_every_room_is_on_a_floor() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    table = PAGE[PAGE.index("| floor") : PAGE.index("`pruning` knows")]
    assert rooms - set(re.findall(r"`(\w+)/?`", table)) == {"__init__", "__main__"}


def test_nothing_of_source_outgrows_its_file_or_its_folder() -> None:
    files = [path for suffix in ("py", "cpp", "h") for path in SOURCE.rglob(f"*.{suffix}")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert [path.name for path, count in lines.items() if count > 600] == []
    for room in {path.parent for path in files}:
        inside = sum(count for path, count in lines.items() if path.parent == room)
        assert inside <= 0.15 * sum(lines.values()), room.name
