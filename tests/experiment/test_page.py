from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from asr_pathways.evaluation.markup import Html
from asr_pathways.experiment.document import Bullets, Cell, Code, Heading, Paragraph, Picture, Strong, Table, Written
from asr_pathways.experiment.page import page, rendered
from tests.evaluation.test_report import Page

DISCUSSION = """# Title

What we *found*, **boldly** and `in <code>`: see [this](https://example.org/a_b_c).
It goes on.
## Why
- one `*not emphasis*`
- two
  goes on
- three

1. first
2. second

| what | n |
|:-----|--:|
| **x** & y | 1 |

```sh
make results  # <not HTML>

- nor a list
```
The end of snake_case_names.
"""


def test_every_part_as_html() -> None:
    nasty = "<b>&"
    parts = [
        Heading(1, nasty),
        Paragraph([nasty, Strong("falls"), Code("make")]),
        Heading(2, "Results"),
        Bullets(["one", [Strong("two")]]),
        Table(nasty, ("System", "Method", "WER %"), [[Cell(nasty, "note"), Cell("imp"), Cell("9.1", "8–10", True)]], 2),
        Picture("steps", Html("<svg></svg>"), "Falls.", nasty),
        Written("*ours*"),
    ]
    text = page(nasty, parts)
    found = Page(text)
    assert found.all("b") == []
    assert found.text("title") == [nasty] and found.text("h1") == [nasty] and found.text("h2") == ["Results"]
    assert found.text("caption") == [nasty] and found.text("figcaption") == [nasty]
    assert [attributes.get("class") for attributes in found.all("td")] == ["words", None]
    assert [attributes.get("class") for attributes in found.all("th")] == [None, None, "number", None]
    assert found.text("strong") == ["falls", "two", "9.1"] and found.text("small") == ["note", "8–10"]
    assert found.text("em") == ["ours"] and len(found.all("section")) == 2
    assert page(nasty, parts) == text


def test_a_discussion_is_its_markdown_but_for_the_title() -> None:
    expected = Page(MarkdownIt("commonmark").enable("table").render(DISCUSSION))
    found = Page(rendered(DISCUSSION))
    for tag in ("h2", "p", "ul", "ol", "li", "em", "strong", "code", "pre", "table", "thead", "tbody", "tr", "a"):
        # The page has a title of its own, so the discussion's is one of the second level.
        wanted = expected.all(tag) + (expected.all("h1") if tag == "h2" else [])
        assert len(found.all(tag)) == len(wanted), tag

    def words(page: Page) -> list[str]:
        return " ".join(text for _, text in page.texts).split()

    assert found.all("h1") == [] and found.text("h2") == ["Title", "Why"] and found.text("em") == ["found"]
    assert len(found.all("li")) == 5 and len(found.all("td")) == 2
    assert "make results  # <not HTML>\n\n- nor a list" in [text for _, text in found.texts]
    assert words(found) == words(expected)
    assert found.all("a") == expected.all("a")


@pytest.mark.parametrize("text", ["a < b & c", "<script>x</script>", 'say "it"', "`<i>`"])
def test_nothing_in_it_is_html(text: str) -> None:
    found = Page(rendered(text))
    assert {tag for tag, _ in found.elements} <= {"p", "code"}
    assert found.texts[0][1] == text.strip("`")
