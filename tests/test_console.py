from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from asr_pathways.console import make_console, print_table, text_column
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.training.progress import TrainingProgress

ODD = "a[/x]b[red]c:bug:d\\[e]"
SOURCE = Path(__file__).parents[1] / "src" / "asr_pathways"


def test_text_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(ODD, title=ODD)
    table.add_row(ODD)
    print_table(table)
    make_console().print(ODD)
    assert list(track([1, 2], ODD)) == [1, 2]
    printed = capsys.readouterr()
    assert printed.out.count(ODD) == 4
    assert ODD in printed.err


def test_no_text_orders_a_terminal_about(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("\x1b[2Jname", title="\x1b]0;title\x07")
    table.add_row("two\nlines\x9b31m")
    print_table(table)
    make_console().print("\x1b[31mred", "\x00")
    printed = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\x00") & set(printed)
    for shown in (r"\x1b[2Jname", r"\x1b]0;title\x07", r"lines\x9b31m", r"\x1b[31mred \x00"):
        assert shown in printed


def test_a_column_of_a_progress_bar_is_no_markup() -> None:
    console = make_console()
    console.file = StringIO()
    with Progress(text_column("{task.description}"), console=console) as bar:
        bar.add_task(ODD)
    assert ODD in console.file.getvalue()


def test_what_a_run_reports_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(None, ODD, 0, 3) as progress:
        progress.warning(f"left out: {ODD}")
    assert f"left out: {ODD}" in capsys.readouterr().err


def test_no_other_file_makes_a_console() -> None:
    made = re.compile(r"\b(Console|TextColumn)\(|import .*\b(Console|TextColumn|RichHandler)\b|rich\.print")
    files = [path for path in SOURCE.rglob("*.py") if made.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in files] == ["console.py"]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\n  two\r\n\nthree\n", "one two three"),
        ("a\u2028b\x0bc", "a b c"),
        ("\x1b[31mred\x07\t\x7f\x9b", r"\x1b[31mred\x07\t\x7f\x9b"),
        ("съешь\u00a0ещё  этих", "съешь\u00a0ещё  этих"),
    ],
)
def test_an_error_is_one_line_that_no_terminal_obeys(message: str, line: str) -> None:
    assert str(PathwaysError(message)) == line
