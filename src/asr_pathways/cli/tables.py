"""What commands share: tables on the terminal, lists of languages."""

from __future__ import annotations


def print_table(table: object) -> None:
    """Prints a table of rich's; one that goes into a file or a pipe is not folded to the width of some terminal."""
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)


def split_languages(languages: str | None) -> list[str] | None:
    """``en,fr`` as a list; None stays None."""
    return None if languages is None else [part.strip() for part in languages.split(",") if part.strip()]
