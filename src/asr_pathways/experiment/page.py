"""A document as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markdown_it import MarkdownIt

from asr_pathways.evaluation import markup
from asr_pathways.evaluation.markup import Html, element, join
from asr_pathways.evaluation.style import STYLE
from asr_pathways.experiment.document import (
    Bullets,
    Cell,
    Code,
    Heading,
    Paragraph,
    Part,
    Picture,
    Strong,
    Table,
    Text,
    Written,
    inlines,
)

_STYLE = """
main { max-width: 68rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .75rem; }
table { font-size: .85rem; }
caption, thead th { font-size: inherit; }
th, td { padding: .3rem .45rem; }
th[scope=row] { min-width: 9rem; }
th small { display: block; color: var(--soft); font-weight: 400; }
table.rates td { white-space: nowrap; }
ul, ol { max-width: 44rem; }
@media print {
  @page { margin: 15mm; }
  :root { --page: #ffffff; }
  body { font-size: 10pt; }
  h2, h3, caption { break-after: avoid; }
  table { font-size: 7pt; }
  caption { font-size: 9pt; }
  th[scope=row] { min-width: 0; }
  th, td { padding: .15rem .25rem; }
  section { break-inside: auto; }
  figure, tr { break-inside: avoid; }
  .frame { overflow: visible; }
  figure svg { min-width: 0; }
}
"""


def page(title: str, parts: Iterable[Part]) -> str:
    """The document as HTML."""
    return markup.page(title, STYLE + _STYLE, *_sections(parts))


def _sections(parts: Iterable[Part]) -> Iterator[Html]:
    """A section from each heading of the second level to the next."""
    held: list[Html] = []
    for part in parts:
        if isinstance(part, Heading) and part.level == 2 and held:
            yield element("section", *held)
            held = []
        held.append(_part(part))
    yield element("section", *held)


def _part(part: Part) -> Html:
    if isinstance(part, Heading):
        return element(f"h{part.level}", part.text)
    if isinstance(part, Paragraph):
        return element("p", _inline(part.text))
    if isinstance(part, Bullets):
        return element("ul", *(element("li", _inline(item)) for item in part.items))
    if isinstance(part, Picture):
        return markup.figure(part.svg, part.caption)
    return rendered(part.markdown) if isinstance(part, Written) else _table(part)


def _table(table: Table) -> Html:
    body = []
    for name, *cells in table.rows:
        # Columns of words stand to the left, as the name of the row does.
        words = table.numbers_from - 1
        made = [element("td", _cell(cell), class_="words" if i < words else None) for i, cell in enumerate(cells)]
        body.append(markup.row(_cell(name), made))
    head = markup.heading_row(table.columns, numbers_from=table.numbers_from)
    return markup.table(table.caption, [head], body, class_="rates")


def _cell(cell: Cell) -> Html:
    text: str | Html = element("strong", cell.text) if cell.strong else cell.text
    return join([text, element("small", cell.small)] if cell.small else [text])


def _inline(text: Text) -> Html:
    made: list[str | Html] = []
    for part in inlines(text):
        if isinstance(part, Strong):
            made.append(element("strong", part.text))
        else:
            made.append(element("code", part.text) if isinstance(part, Code) else part)
    return join(made)


def rendered(markdown: str) -> Html:
    """CommonMark with tables as HTML; HTML in it is text, and its title is a heading of the second level."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.tag == "h1":
            token.tag = "h2"
    return Html(parser.renderer.render(tokens, parser.options, {}))
