from __future__ import annotations

import base64
import re

import pytest
from markdown_it import MarkdownIt

from asr_pathways.experiment.report.html import page
from tests.experiment.report.page import Page

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


def test_a_page_needs_no_other_file() -> None:
    text = page(
        "<b>&", "# T\n\n![Falls & <rises>.](x/a.svg)\n\n![Not ours](https://example.org/b.png)\n", {"x/a.svg": "<svg/>"}
    )
    shown = Page(text)
    assert shown.text("title") == ["<b>&"] and shown.all("b") == []
    (image,) = shown.all("img")
    assert image["alt"] == "Falls & <rises>."
    assert base64.b64decode((image["src"] or "").partition("base64,")[2]) == b"<svg/>"
    assert "Not ours" in shown.text("p") and "example.org" not in text
    assert not {"script", "link"} & {tag for tag, _ in shown.elements} and "@import" not in text
    assert shown.all("html") == [{"lang": "en"}] and len(shown.text("style")) == 1


def test_the_style_sheet_defines_its_colours_for_light_and_dark() -> None:
    (style,) = Page(page("", "", {})).text("style")
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in style.split("@media (prefers-color-scheme: dark)"))
    assert set(re.findall(r"var\((--\w+)\)", style)) == light == dark


def test_tables_scroll_and_the_title_is_the_only_one() -> None:
    shown = Page(page("x", "# One\n\n# Two\n\n| a | b |\n| --- | ---: |\n| ~~c~~ | 1 |\n", {}))
    assert shown.text("h1") == ["One"] and shown.text("h2") == ["Two"] and shown.text("s") == ["c"]
    assert shown.all("div") == [{"class": "frame", "role": "region", "tabindex": "0"}]
    assert shown.all("td")[1] == {"style": "text-align:right"}


def test_a_discussion_is_its_markdown_but_for_the_title() -> None:
    expected = Page(MarkdownIt("commonmark").enable("table").render(DISCUSSION))
    shown = Page(page("", "# Report\n\n" + DISCUSSION, {}))
    for tag in ("h2", "p", "ul", "ol", "li", "em", "strong", "code", "pre", "table", "thead", "tbody", "tr", "a"):
        # The page has a title of its own, so the discussion's is one of the second level.
        wanted = expected.all(tag) + (expected.all("h1") if tag == "h2" else [])
        assert len(shown.all(tag)) == len(wanted), tag

    def words(page: Page) -> list[str]:
        return " ".join(text for tag, text in page.texts if tag not in ("style", "title")).split()

    assert shown.text("h1") == ["Report"] and shown.text("h2") == ["Title", "Why"] and shown.text("em") == ["found"]
    assert len(shown.all("li")) == 5 and len(shown.all("td")) == 2
    assert "make results  # <not HTML>\n\n- nor a list" in [text for _, text in shown.texts]
    assert words(shown) == ["Report", *words(expected)]
    assert shown.all("a") == expected.all("a")


@pytest.mark.parametrize("text", ["a < b & c", "<script>x</script>", 'say "it"', "`<i>`"])
def test_html_in_it_is_text(text: str) -> None:
    shown = Page(page("", text, {}))
    assert {tag for tag, _ in shown.elements} <= {"html", "head", "meta", "title", "style", "body", "main", "p", "code"}
    assert text.strip("`") in [shown_text for _, shown_text in shown.texts]


def test_comments_are_left_out() -> None:
    assert Page(page("", "a\n\n<!-- results -->\n\nb\n", {})).text("p") == ["a", "b"]
