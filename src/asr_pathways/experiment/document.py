"""A document as plain parts, and those parts as Markdown with its figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr_pathways.evaluation.markup import Html
from asr_pathways.evaluation.style import STYLE


@dataclass(frozen=True)
class Strong:
    """Words that stand out."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command or a name."""

    text: str


Inline = str | Strong | Code
Text = Inline | Sequence[Inline]


@dataclass(frozen=True)
class Cell:
    """What a table says in one place, with something smaller below it."""

    text: str
    small: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Text]


@dataclass(frozen=True)
class Table:
    """The first column names the row; columns from ``numbers_from`` on hold numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers_from: int = 1


@dataclass(frozen=True)
class Picture:
    """A chart in the colours of a page; ``description`` says in words what it shows."""

    name: str
    svg: Html
    description: str
    caption: str


@dataclass(frozen=True)
class Written:
    """Markdown by a person, taken in as it is."""

    markdown: str


Part = Heading | Paragraph | Bullets | Table | Picture | Written


def inlines(text: Text) -> Sequence[Inline]:
    """Text as a sequence, however it was given."""
    return [text] if isinstance(text, str | Strong | Code) else text


def markdown(parts: Iterable[Part], figures: str) -> str:
    """The document as Markdown; its pictures are SVG files in the folder ``figures``, a relative path."""
    return "\n\n".join(_part(part, figures) for part in parts) + "\n"


def standalone(svg: Html) -> str:
    """A chart of a page as a file of its own: with the light colours of the style sheet, on white."""
    colours = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", STYLE.partition("@media")[0]))
    text = re.sub(r"var\((--\w+)\)", lambda match: colours[match[1]], svg)
    text = text.replace("currentColor", colours["--ink"])
    opening, _, rest = text.partition(">")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round"'
    return f'{opening.replace("<svg", f"<svg {names}", 1)}><rect width="100%" height="100%" fill="white"/>{rest}\n'


def _part(part: Part, figures: str) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {_escaped(part.text)}"
    if isinstance(part, Paragraph):
        return _inline(part.text)
    if isinstance(part, Bullets):
        return "\n".join(f"- {_inline(item)}" for item in part.items)
    if isinstance(part, Picture):
        return f"![{_escaped(part.description)}]({figures}/{part.name}.svg)\n\n{_escaped(part.caption)}"
    return part.markdown.strip() if isinstance(part, Written) else markdown_table(part)


def markdown_table(table: Table) -> str:
    """A table with its caption below."""
    align = ["---" if index < table.numbers_from else "---:" for index in range(len(table.columns))]
    rows = [[_escaped(name) for name in table.columns], align, *([_cell(cell) for cell in row] for row in table.rows)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n{_escaped(table.caption)}" if table.caption else lines


def _cell(cell: Cell) -> str:
    text = f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text)
    return f"{text} ({_escaped(cell.small)})" if cell.small else text


def _inline(text: Text) -> str:
    made = []
    for part in inlines(text):
        if isinstance(part, Strong):
            made.append(f"**{_escaped(part.text)}**")
        else:
            made.append(f"`{part.text}`" if isinstance(part, Code) else _escaped(part))
    return "".join(made)


def _escaped(text: str) -> str:
    """Text that Markdown takes for text; underscores inside words, and a sign between spaces, mean nothing to it."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*|\[\]])|<(?=\S)|(?<!\w)_|_(?!\w)|^[#+>-](?=\s)", lambda match: f"\\{match[0]}", text)
