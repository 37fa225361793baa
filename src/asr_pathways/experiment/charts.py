"""The kinds of chart that a report of an experiment is drawn with: lines with their names beside, and heat maps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr_pathways.evaluation.figures import HEAT, INK, MARKERS, RULE, shade
from asr_pathways.evaluation.style import SERIES
from asr_pathways.evaluation.wer import Interval
from asr_pathways.pruning import METHODS

_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_FAMILIES = {"dense": 0, "dynamic": 1, "adaptive": 2, "pathways": 3, "imp": 4}  # a method keeps its colour

Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How a system is drawn: told apart by colour, by marker and, among those of a method, by dashes."""

    series: int
    marker: str
    dashes: Any

    @property
    def colour(self) -> str:
        return shade(self.series)


def looks(methods: Sequence[str]) -> list[Look]:
    """A look for each system, given the methods in order."""
    found: list[Look] = []
    for index, method in enumerate(methods):
        assert method == "dense" or method in METHODS
        series = _FAMILIES.get(method, SERIES - 1)
        same = sum(look.series == series for look in found)
        found.append(Look(series, MARKERS[index % len(MARKERS)], _DASHES[same % len(_DASHES)]))
    return found


@dataclass(frozen=True)
class Line:
    """A curve with its name; ``hollow`` tells of each point whether it is drawn so, ``intervals`` its whiskers."""

    name: str
    look: Look
    points: Sequence[Point]
    hollow: Sequence[bool] = ()
    intervals: Sequence[Interval] = ()
    alone: int = 0  # so many points at the end are not joined to the others


def draw_lines(axes: Any, lines: Sequence[Line], levels: Sequence[tuple[str, float, Look]]) -> None:
    """Lines, and level lines for what does not change; names stand at the right, pushed apart where they would meet."""
    for line in lines:
        xs, ys = zip(*line.points, strict=True)
        joined = len(xs) - line.alone
        style = {"color": line.look.colour, "linewidth": 1.6}
        axes.plot(xs[:joined], ys[:joined], linestyle=line.look.dashes, **style)
        for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
            axes.plot([x, x], [low, high], alpha=0.6, **style)
        for index, (x, y) in enumerate(line.points):
            hollow = bool(line.hollow) and line.hollow[index]
            axes.plot(
                [x],
                [y],
                marker=line.look.marker,
                markersize=5.5,
                color=line.look.colour,
                markerfacecolor="none" if hollow else line.look.colour,
            )
    for _, value, look in levels:
        axes.axhline(value, color=look.colour, linewidth=1.4, linestyle=(0, (6, 3)))
    right = max((x for line in lines for x, _ in line.points), default=1.0)
    ends = [(line.name, line.points[-1], line.look) for line in lines]
    _name_ends(axes, ends + [(name, (right, value), look) for name, value, look in levels])


def _name_ends(axes: Any, ends: Sequence[tuple[str, Point, Look]]) -> None:
    """Writes names beside the ends of their lines."""
    limits = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 0.8
    ends = sorted(ends, key=lambda end: end[1][1])
    inside = axes.transData + axes.transAxes.inverted()  # whatever the scale, and wherever the axes will be
    places = spread([float(inside.transform(point)[1]) for _, point, _ in ends], 0.17 / height)
    for (name, point, look), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            point,
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=look.colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1},
        )
    axes.set_ylim(limits)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to ``wanted`` (rising) that are at least ``gap`` apart, in the sense of least squares."""
    from scipy.optimize import isotonic_regression

    # With i * gap taken off, places must not fall.
    steps = gap * np.arange(len(wanted))
    return list(map(float, isotonic_regression(np.asarray(wanted) - steps).x + steps)) if wanted else []


def decorate(axes: Any, x: str, y: str) -> None:
    """Names of axes, and lines to read values by."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color=RULE, linewidth=0.8)


def heat(
    axes: Any,
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    lowest: float,
    size: float = 9,
) -> None:
    """Values as shaded squares with their texts; ``lowest`` is left white, 1 is darkest, None is left out."""
    from matplotlib.patches import Rectangle

    for i, line in enumerate(values):
        for j, value in enumerate(line):
            if value is None:
                continue
            depth = 0.65 * min(max((value - lowest) / (1 - lowest), 0.0), 1.0)
            axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=HEAT, alpha=depth, linewidth=0))
            axes.text(j, i, texts[i][j], ha="center", va="center", fontsize=size, color=INK, linespacing=1.15)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` letters."""
    return "\n".join(textwrap.wrap(text, width))
