from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from asr_pathways.experiment.report.markdown import bullets, cell, escape, strong, table
from tests.experiment.report.page import Page


def as_html(text: str) -> Page:
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def test_tables_cells_and_lists() -> None:
    rows = [[cell("IMP", "a note"), "imp", cell("9.1", "8–10", bold=True)]]
    assert table(("System", "Method", "WER %"), rows, numbers_from=2, caption="All of it.") == (
        "| System | Method | WER % |\n| --- | --- | ---: |\n| IMP (a note) | imp | **9.1** (8–10) |\n\nAll of it."
    )
    assert table(("n",), [["1"]], numbers_from=0) == "| n |\n| ---: |\n| 1 |"
    assert bullets(["one", strong("two")]) == "- one\n- **two**"


@given(st.text(st.sampled_from("ab _*`|~<>[]()\\#-+!&;=1."), min_size=1).map(lambda text: f"x{text}x"))
def test_text_stays_text(text: str) -> None:
    shown = table((text, "n"), [[cell(text, text), "1"]], numbers_from=1)
    page = as_html(f"{escape(text)}{strong(text)}\n\n{shown}")
    words = " ".join(text.split())
    assert {tag for tag, _ in page.elements} <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    shown_texts = [" ".join(part.split()) for _, part in page.texts]
    expected = "".join([words] * 3 + ["n", words, f"({words})", "1"])
    assert "".join(shown_texts).replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize("text", ["# no heading", "- no item", "+ none", "> no quote", "p < 0.05, adapt_every −1"])
def test_nothing_begins_a_block(text: str) -> None:
    page = as_html(escape(text))
    assert [tag for tag, _ in page.elements] == ["p"] and page.text("p") == [text]


def test_names_with_underscores_are_left_as_they_are() -> None:
    assert escape("adapt_every 5, p < 0.05") == "adapt_every 5, p < 0.05"
