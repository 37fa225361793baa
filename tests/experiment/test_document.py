from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from asr_pathways.evaluation.markup import Html
from asr_pathways.evaluation.style import STYLE
from asr_pathways.experiment.document import (
    Bullets,
    Cell,
    Code,
    Heading,
    Paragraph,
    Picture,
    Strong,
    Table,
    Written,
    markdown,
    standalone,
)
from tests.evaluation.test_report import Page


def as_html(text: str) -> Page:
    return Page(MarkdownIt("commonmark").enable("table").render(text))


def test_every_part_as_markdown() -> None:
    parts = [
        Heading(2, "Results"),
        Paragraph(["WER ", Strong("falls"), " by ", Code("make results"), "."]),
        Bullets(["one", [Strong("two")]]),
        Table(
            "All of it.", ("System", "Method", "WER %"), [[Cell("IMP", "a note"), Cell("imp"), Cell("9.1", "8–10")]], 2
        ),
        Picture("block-steps", Html("<svg></svg>"), "Falls.", "WER over steps."),
        Written("## Ours\n\n*as it is* <b>\n"),
    ]
    assert markdown(parts, "results").split("\n\n") == [
        "## Results",
        "WER **falls** by `make results`.",
        "- one\n- **two**",
        "| System | Method | WER % |\n| --- | --- | ---: |\n| IMP (a note) | imp | 9.1 (8–10) |",
        "All of it.",
        "![Falls.](results/block-steps.svg)",
        "WER over steps.",
        "## Ours",
        "*as it is* <b>\n",
    ]


@given(st.text(st.sampled_from("ab _*`|<>[]()\\#-+!&;=1."), min_size=1).map(lambda text: f"x{text}x"))
def test_text_stays_text(text: str) -> None:
    parts = [Paragraph([text, Strong(text)]), Table("", (text, "n"), [[Cell(text, text), Cell("1")]])]
    page = as_html(markdown(parts, "f"))
    words = " ".join(text.split())
    assert {tag for tag, _ in page.elements} <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    found = [" ".join(part.split()) for _, part in page.texts]
    assert "".join(found).replace(" ", "") == "".join([words] * 3 + ["n", words, f"({words})", "1"]).replace(" ", "")


@pytest.mark.parametrize("text", ["# no heading", "- no item", "+ none", "> no quote", "p < 0.05, adapt_every −1"])
def test_nothing_begins_a_block(text: str) -> None:
    page = as_html(markdown([Paragraph(text)], "f"))
    assert [tag for tag, _ in page.elements] == ["p"] and page.text("p") == [text]


def test_names_with_underscores_are_left_as_they_are() -> None:
    assert markdown([Paragraph("adapt_every 5, p < 0.05")], "f") == "adapt_every 5, p < 0.05\n"


def test_a_picture_of_its_own_has_colours_and_names() -> None:
    svg = Html('<svg width="9pt" role="img"><path style="fill: var(--s1)" /><text color="currentColor">x</text></svg>')
    text = standalone(svg)
    first = re.search(r"--s1: (#\w+)", STYLE)
    assert first is not None and f"fill: {first[1]}" in text
    assert "var(" not in text and "currentColor" not in text
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    page = Page(text)
    assert [tag for tag, _ in page.elements] == ["svg", "rect", "path", "text"]
    assert page.all("rect")[0]["fill"] == "white"
