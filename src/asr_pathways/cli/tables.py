"""What commands share: lists of languages."""

from __future__ import annotations


def split_languages(languages: str | None) -> list[str] | None:
    """``en,fr`` as a list; None stays None."""
    return None if languages is None else [part.strip() for part in languages.split(",") if part.strip()]
