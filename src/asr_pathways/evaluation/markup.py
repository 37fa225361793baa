"""A few functions that make HTML: everything that is not already HTML is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already and is not to be escaped again."""

    __slots__ = ()


def element(tag: str, *children: str | Html, **attributes: str | int | bool | None) -> Html:
    """An element with escaped children and attributes.

    ``class_`` and ``colspan`` become class and colspan, ``aria_label`` becomes aria-label; None and False leave an
    attribute out, True writes it without a value.
    """
    opening = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
    return Html(f"<{opening}>{join(children)}</{tag}>")


def join(children: Iterable[str | Html], separator: str = "") -> Html:
    """Children side by side, escaped where they are not HTML."""
    return Html(separator.join(child if isinstance(child, Html) else html.escape(child) for child in children))


def section(heading: str, *children: str | Html) -> Html:
    """A section under a second-level heading."""
    return element("section", element("h2", heading), *children)


def table(
    caption: str,
    head: Iterable[Html],
    body: Iterable[Html],
    *,
    class_: str | None = None,
    tall: bool = False,
) -> Html:
    """A captioned table in a frame that scrolls sideways on narrow screens; rows are given as <tr> elements.

    A ``tall`` table scrolls downwards too, in a frame of limited height.
    """
    inner = element(
        "table",
        element("caption", caption),
        element("thead", *head),
        element("tbody", *body),
        class_=class_,
    )
    # A scrolling frame must be reachable from the keyboard.
    frame = "frame tall" if tall else "frame"
    return element("div", inner, class_=frame, tabindex=0, role="region", aria_label=caption)


def row(name: str | Html, cells: Iterable[str | Html], *, class_: str | None = None) -> Html:
    """A table row with a heading cell and then data cells; a cell that is a <td> already is taken as it is."""
    return element(
        "tr",
        element("th", name, scope="row"),
        *(cell if cell.startswith("<td") and isinstance(cell, Html) else element("td", cell) for cell in cells),
        class_=class_,
    )


def heading_row(names: Sequence[str | Html], *, numbers_from: int = 1) -> Html:
    """A row of column headings; those from ``numbers_from`` on stand over numbers, to the right."""
    return element(
        "tr",
        *(
            element("th", name, scope="col", class_="number" if index >= numbers_from else None)
            for index, name in enumerate(names)
        ),
    )


def figure(picture: Html, caption: str | Html, *before: Html) -> Html:
    """A picture with its caption below and anything else, such as a legend, above."""
    return element("figure", *before, element("div", picture, class_="frame"), element("figcaption", caption))


def page(title: str, style: str, *body: Html) -> str:
    """A whole document that needs nothing from anywhere else."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{join(body, chr(10))}\n</main>\n</body>\n</html>\n"
    )
