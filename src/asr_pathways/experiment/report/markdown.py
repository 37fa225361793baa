"""Pieces of Markdown: text that stays text, table cells, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence


def escape(text: str) -> str:
    """Text that Markdown takes for text; underscores inside words, and a sign between spaces, mean nothing to it."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*|~\[\]])|<(?=\S)|(?<!\w)_|_(?!\w)|^[#+>-](?=\s)", lambda match: f"\\{match[0]}", text)


def strong(text: str) -> str:
    """Bold text."""
    return f"**{escape(text)}**"


def cell(text: str, note: str = "", *, bold: bool = False) -> str:
    """A table's cell, with a note in brackets."""
    text = strong(text) if bold else escape(text)
    return f"{text} ({escape(note)})" if note else text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int, caption: str = "") -> str:
    """A table with its caption below; columns from ``numbers_from`` on are aligned to the right.

    Args:
        columns: headings, as text.
        rows: cells, as Markdown.
        numbers_from: index of the first column of numbers.
        caption: text.
    """
    align = ["---" if index < numbers_from else "---:" for index in range(len(columns))]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in ([escape(name) for name in columns], align, *rows))
    return f"{lines}\n\n{escape(caption)}" if caption else lines


def bullets(items: Sequence[str]) -> str:
    """A list of items, each one line of Markdown."""
    return "\n".join(f"- {item}" for item in items)
