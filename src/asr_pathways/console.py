"""The terminal: tables, lines and progress bars, in all of which text is text, never markup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asr_pathways.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn
    from rich.table import Table
    from rich.text import Text


def make_console(*, stderr: bool = False, width: int | None = None, highlight: bool = False) -> Console:
    """A console of rich's for which ``[/x]`` and ``:bug:`` in a path are letters, and no sequence is an escape."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    return Plain(stderr=stderr, width=width, highlight=highlight, markup=False, emoji=False)


def text_column(template: str) -> TextColumn:
    """A column of a progress bar, which asks no console about markup."""
    from rich.progress import TextColumn

    return TextColumn(template, style="none", markup=False)


def print_table(table: Table) -> None:
    """Prints a table on stdout; one that goes into a file or a pipe is not folded to the width of some terminal."""
    console = make_console(highlight=True)
    console.print(table) if console.is_terminal else make_console(width=160, highlight=True).print(table)
