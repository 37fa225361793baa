from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.evaluation.markup import Html, element, join, page, row


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_text_and_attributes_cannot_break_out(text: str, attribute: str) -> None:
    made = element("p", text, title=attribute)
    inside = made[len('<p title="') : -len("</p>")]
    assert inside.count("<") == 0
    assert inside.count('"') == 1
    assert inside.count(">") == 1


def test_html_is_not_escaped_twice() -> None:
    assert element("p", element("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert join(["<", Html("<br>")], ", ") == "&lt;, <br>"


def test_attribute_names_and_values() -> None:
    made = element("td", "x", class_="main", colspan=2, aria_label="l", lang=None, hidden=True, inert=False)
    assert made == '<td class="main" colspan="2" aria-label="l" hidden>x</td>'


def test_row_takes_cells_as_text_or_made() -> None:
    assert row("a", ["1", element("td", "2", class_="main"), "<td>"]) == (
        '<tr><th scope="row">a</th><td>1</td><td class="main">2</td><td>&lt;td&gt;</td></tr>'
    )


def test_page_escapes_its_title() -> None:
    assert "<title>&lt;b&gt;</title>" in page("<b>", "")
