"""Tables on the terminal."""

from __future__ import annotations


def print_table(table: object) -> None:
    """Prints a table of rich's; one that goes into a file or a pipe is not folded to the width of some terminal."""
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)
