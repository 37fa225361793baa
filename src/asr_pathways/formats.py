"""How numbers are written wherever people read them: terminal, listings, report."""

from __future__ import annotations

import math


def language_name(code: str) -> str:
    """A language's English name, or its code where CLDR has none."""
    from babel import Locale

    return str(Locale("en").languages.get(code, code))


def percent(fraction: float, digits: int = 1) -> str:
    """0.4123 -> "41.2" (the unit is in the heading)."""
    return f"{100 * fraction:.{digits}f}"


def share(fraction: float) -> str:
    """A chosen share, such as a sparsity, with the figures that it has: 0.7 -> "70", 0.925 -> "92.5"."""
    return f"{round(100 * fraction, 2):g}"


def percent_interval(interval: tuple[float, float]) -> str:
    """(0.4, 0.423) -> "40.0–42.3"."""
    return f"{percent(interval[0])}–{percent(interval[1])}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of two rates in percentage points, signed with a true minus: -0.031 -> "−3.1"."""
    text = f"{100 * difference:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def points_interval(interval: tuple[float, float], digits: int = 1) -> str:
    """(-0.05, 0.01) -> "−5.0 to +1.0"; "not known" where there is too little to say."""
    if not all(map(math.isfinite, interval)):
        return "not known"
    return f"{points(interval[0], digits)} to {points(interval[1], digits)}"


def size(count: int) -> str:
    """Bytes in decimal units: 7_600_000 -> "7.6 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration(seconds: float) -> str:
    """760 -> "12 min 40 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def speech(hours: float) -> str:
    """How much speech there is: 2.528 -> "2.53 h", 0.25 -> "15.0 min", 0.005 -> "18 s"."""
    if hours >= 1:
        return f"{hours:.2f} h"
    return f"{60 * hours:.1f} min" if hours * 60 >= 1 else f"{3600 * hours:.0f} s"
