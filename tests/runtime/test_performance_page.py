from __future__ import annotations

import json

from benchmarks import performance


def test_the_page_is_made_from_the_figures() -> None:
    figures = json.loads(performance.FIGURES.read_text(encoding="utf-8"))
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(figures)
