from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from asr_pathways.evaluation.figures import as_svg, canvas
from asr_pathways.experiment.charts import Line, draw_lines, heat, looks, spread, wrapped
from asr_pathways.pruning import METHODS
from tests.evaluation.test_report import Page

places = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=1, max_size=12).map(sorted)


@given(places, st.sampled_from([0.05, 0.2]))
def test_names_are_pushed_no_further_than_they_must(wanted: list[float], gap: float) -> None:
    found = spread(wanted, gap)
    steps = gap * np.arange(len(wanted))
    assert np.all(np.diff(found) >= gap - 1e-9)
    assert found == pytest.approx(isotonic_regression(np.array(wanted) - steps).x + steps)


def test_names_that_do_not_meet_stay() -> None:
    assert spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])


def test_every_method_is_drawn_and_no_two_alike() -> None:
    methods = ["dense", *METHODS, "dynamic", "dynamic", "dense"]
    found = looks(methods)
    assert len({(look.series, look.marker, str(look.dashes)) for look in found}) == len(methods)
    assert found[-2].series == found[methods.index("dynamic")].series
    assert found[-1].series != found[-2].series


def test_lines_have_their_names_whiskers_and_hollow_marks() -> None:
    look, other = looks(["dynamic", "dense"])
    with canvas(3.0) as (figure, axes):
        line = Line("a $b$", look, [(0, 5), (1, 6), (2, 7)], [True, False, False], [(4, 6), (5, 7), (6, 8)], alone=1)
        draw_lines(axes, [line], [("dense <", 6.5, other)])
        joined, *_ = axes.get_lines()
        assert joined.get_xdata() == pytest.approx([0, 1])
        whiskers = [drawn.get_ydata() for drawn in axes.get_lines()[1:4]]
        assert [tuple(ys) for ys in whiskers] == [(4, 6), (5, 7), (6, 8)]
        assert [drawn.get_markerfacecolor() == "none" for drawn in axes.get_lines()[4:7]] == [True, False, False]
        texts = Page(as_svg(figure, "x", "Lines.")).text("text")
    assert "a $b$" in texts and "dense <" in texts


def test_heat_leaves_out_what_is_missing_and_bounds_the_shade() -> None:
    with canvas(2.0) as (_, axes):
        heat(axes, [[0.2, None], [1.0, 0.6]], [["low", "none"], ["one", "mid"]], ["a", "b"], ["c", "d"], lowest=0.2)
        assert [text.get_text() for text in axes.texts] == ["low", "one", "mid"]
        assert [patch.get_alpha() for patch in axes.patches] == pytest.approx([0, 0.65, 0.325])


def test_wrapped() -> None:
    assert wrapped("dynamic from LAP", 12) == "dynamic from\nLAP"
