from __future__ import annotations

import json

from benchmarks import performance


def test_the_page_is_made_from_the_figures() -> None:
    figures, growth = (
        json.loads(path.read_text(encoding="utf-8")) for path in (performance.FIGURES, performance.GROWTH)
    )
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(figures, growth)
