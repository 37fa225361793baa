from __future__ import annotations

import pytest

from asr_pathways import formats


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7_640_000, "7.6 MB"), (999_700, "1.0 MB"), (3e9, "3.0 GB")],
)
def test_size(count: int, text: str) -> None:
    assert formats.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (760, "12 min 40 s"), (7325, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(("difference", "text"), [(-0.0312, "−3.1"), (0.05, "+5.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_points(difference: float, text: str) -> None:
    assert formats.points(difference) == text


def test_more_digits() -> None:
    assert formats.percent(0.01234, 2) == "1.23"
    assert formats.points(-0.00004, 2) == "0.00"
    assert formats.points_interval((-0.0123, 0.0009), 2) == "−1.23 to +0.09"
    assert formats.points_interval((-float("inf"), float("inf"))) == "not known"


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.7, "70"), (1 - 0.7, "30"), (0.925, "92.5"), (0.0, "0"), (1.0, "100")]
)
def test_share(fraction: float, text: str) -> None:
    assert formats.share(fraction) == text


def test_percent() -> None:
    assert formats.percent(1.234) == "123.4"
    assert formats.percent_interval((0.4, 0.423)) == "40.0–42.3"


def test_language_name_falls_back_to_the_code() -> None:
    assert formats.language_name("it") == "Italian"
    assert formats.language_name("xx") == "xx"
