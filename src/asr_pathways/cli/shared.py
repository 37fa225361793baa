"""What commands share: lists of languages, and lines on stderr."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from asr_pathways.errors import PathwaysError

Languages = Annotated[str | None, typer.Option(help="Language codes with commas between, such as en,fr.")]


def split_languages(languages: str | None) -> list[str] | None:
    """``en,fr`` as a list; None stays None.

    Raises:
        PathwaysError: if there is no code in it, or something else than commas between codes.
    """
    if languages is None:
        return None
    codes = [part.strip() for part in languages.split(",") if part.strip()]
    if not codes:
        raise PathwaysError("--languages: name at least one, such as fr")
    if any(len(code.split()) > 1 for code in codes):
        wanted = ",".join(languages.replace(",", " ").split())
        raise PathwaysError(f"--languages {languages}: commas are wanted between codes: {wanted}")
    return codes


def announce(text: str) -> None:
    """A line on stderr; what takes long begins with one before it imports torch. Of several ranks, the first prints."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)
