"""A report in Markdown as one web page that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Any

from markdown_it import MarkdownIt


def page(title: str, markdown: str, pictures: Mapping[str, str]) -> str:
    """The page, with its style sheet and pictures inside.

    HTML in the Markdown is shown as text, but for comments, which are left out. Tables get frames that scroll
    sideways on narrow screens. Titles after the first are headings of the second level.

    Args:
        title: of the page.
        markdown: CommonMark with tables and struck-out text.
        pictures: SVG by the path that the Markdown names.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    renderer: Any = parser.renderer
    rules = renderer.rules
    rules["image"] = partial(_image, pictures, renderer)
    rules["table_open"] = lambda *_: '<div class="frame" role="region" tabindex="0"><table>\n'
    rules["table_close"] = lambda *_: "</table></div>\n"
    tokens = parser.parse(re.sub(r"<!--[\s\S]*?-->", "", markdown))
    for token in [token for token in tokens if token.tag == "h1"][2:]:  # each heading is opened and closed
        token.tag = "h2"
    style = files("asr_pathways.experiment.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{renderer.render(tokens, parser.options, {})}</main>\n</body>\n</html>\n"
    )


def _image(pictures: Mapping[str, str], renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A picture as part of the page; any other image by its description."""
    token = tokens[index]
    description = html.escape(renderer.renderInlineAsText(token.children, options, env))
    svg = pictures.get(token.attrs["src"])
    if svg is None:
        return description
    return f'<img alt="{description}" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
