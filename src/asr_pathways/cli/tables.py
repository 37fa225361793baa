"""What commands share: lists of languages, and lines on stderr."""

from __future__ import annotations

import os

import typer


def split_languages(languages: str | None) -> list[str] | None:
    """``en,fr`` as a list; None stays None."""
    return None if languages is None else [part.strip() for part in languages.split(",") if part.strip()]


def announce(text: str) -> None:
    """A line on stderr; what takes long begins with one before it imports torch. Of several ranks, the first prints."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)
