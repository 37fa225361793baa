"""Each row of the table: the command says that line, as its last one, and loses nothing."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

from asr_pathways.cli.main import main
from tests.errors.case import Case
from tests.errors.of_models import HELD
from tests.errors.table import CASES, PAGE, page

EVERY = [(f"{kind}: {case.about}", case) for kind, cases in CASES.items() for case in cases]


def contents(folder: Path) -> dict[str, str]:
    """Each file in a folder, those behind links too, with a checksum."""
    found = {}
    for path in sorted(folder.iterdir()):
        for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
            name = str(file.relative_to(folder))
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return found


@pytest.mark.parametrize("case", [case for _, case in EVERY], ids=[name for name, _ in EVERY])
def test_bad_input_gets_one_clear_line_and_loses_nothing(
    case: Case, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case.make(here)
    before = contents(here)
    monkeypatch.setattr(sys, "argv", ["asr-pathways", *case.command.split()])
    with pytest.raises(SystemExit) as stop:
        main()
        raise SystemExit(0)
    HELD.clear()
    said = capsys.readouterr().err.replace(f"{here}/", "")
    assert "Traceback" not in said
    lines = said.splitlines()
    assert (stop.value.code or 0) == case.status, said
    told = [line for line in lines if line.startswith("asr-pathways: ")]
    assert told == ([] if case.status == 0 else lines[-1:])
    pattern = ".*".join(map(re.escape, case.says.split("...")))
    assert any(re.fullmatch(pattern, line.removeprefix("asr-pathways: ").strip()) for line in told or lines or [""]), (
        said
    )
    after = contents(here)
    mine = (lambda name: name.split("/")[0] == case.leaves) if case.leaves else (lambda _: False)
    assert {name: value for name, value in after.items() if not mine(name)} == {
        name: value for name, value in before.items() if not mine(name)
    }


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == page(), "make it again: python -m tests.errors"


def test_no_row_comes_twice() -> None:
    assert len(EVERY) >= 40
    assert len({name for name, _ in EVERY}) == len(EVERY)
