"""Charts as inline SVG: text stays text, and colours are the page's own, so that light and dark both work."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from asr_pathways.evaluation.markup import Html, element
from asr_pathways.evaluation.style import SERIES
from asr_pathways.evaluation.wer import Interval, Scores
from asr_pathways.formats import language_name, percent

# Matplotlib is given these stand-ins; in the SVG they become the style sheet's variables.
INK, SOFT, RULE, HEAT = "#010101", "#020202", "#030303", "#050505"
MARKERS = ("o", "s", "^", "D", "v", "P")
_GLYPHS = ("●", "■", "▲", "◆", "▼", "✚")
_WIDTH = 9.6


def colour(series: int) -> str:
    """The CSS variable of a series' colour."""
    return f"var(--s{series % SERIES})"


def legend(names: Sequence[str], series: Mapping[str, int]) -> Html:
    """The names with the marks that the charts draw them with."""
    items = [
        element(
            "li",
            element("span", _GLYPHS[series[name] % SERIES], style=f"--colour: {colour(series[name])}"),
            name,
        )
        for name in names
    ]
    return element("ul", *items, class_="legend")


def wer_chart(systems: Mapping[str, Scores], series: Mapping[str, int]) -> Html:
    """A dot and its 95% interval for every system, by language and for the mean."""
    languages = [entry.language for entry in next(iter(systems.values())).languages]
    rows = [*map(language_name, languages), "Mean"]
    with canvas(0.55 + 0.24 * len(rows) * (len(systems) + 0.8) / 2) as (figure, axes):
        for place, (name, scores) in enumerate(systems.items()):
            rates = [scores.language(language).wer.rate for language in languages] + [scores.mean_wer]
            intervals = [scores.language(language).wer_ci for language in languages] + [scores.mean_wer_ci]
            offset = (place - (len(systems) - 1) / 2) * 0.7 / len(systems)
            _dots(axes, rates, intervals, offset, series[name])
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("WER (%)")
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.axhline(len(rows) - 1.5, color=SOFT, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        means = ", ".join(f"{name} {percent(scores.mean_wer)}%" for name, scores in systems.items())
        return as_svg(figure, "wer", f"Word error rate by language and system; means: {means}.")


def curve_chart(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    levels: Mapping[str, float],
    series: Mapping[str, int],
) -> Html:
    """Mean WER over steps for several systems; ``levels`` are horizontal lines for systems that do not train."""
    with canvas(3.6) as (figure, axes):
        for name, (steps, rates) in curves.items():
            axes.plot(
                steps,
                [100 * rate for rate in rates],
                color=shade(series[name]),
                marker=MARKERS[series[name] % SERIES],
                markersize=5,
                linewidth=1.8,
            )
        for name, rate in levels.items():
            axes.axhline(100 * rate, color=shade(series[name]), linewidth=1.4, linestyle=(0, (5, 3)))
            axes.annotate(
                f"{name} {percent(rate)}",
                (1, 100 * rate),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                parse_math=False,
                color=shade(series[name]),
            )
        axes.set_xlabel("Training step")
        axes.set_ylabel("Mean WER (%)")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        ends = [
            f"{name} from {percent(rates[0])}% to {percent(rates[-1])}% in {steps[-1]} steps"
            for name, (steps, rates) in curves.items()
        ] + [f"{name} {percent(rate)}% throughout" for name, rate in levels.items()]
        return as_svg(figure, "curves", f"Mean word error rate over training steps: {'; '.join(ends)}.")


def _dots(axes: Any, rates: Sequence[float], intervals: Sequence[Interval], offset: float, series: int) -> None:
    for index, (rate, (low, high)) in enumerate(zip(rates, intervals, strict=True)):
        place, drawn = index + offset, shade(series)
        axes.plot([100 * low, 100 * high], [place, place], color=drawn, linewidth=1.6, alpha=0.55)
        axes.plot([100 * rate], [place], color=drawn, marker=MARKERS[series % SERIES], markersize=5.5)


def shade(series: int) -> str:
    """What Matplotlib is to draw a series with."""
    return f"#0404{series % SERIES:02x}"


@contextmanager
def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the report's style, ``height`` inches high, without pyplot's global state.

    Several ``rows`` or ``columns`` give an array of axes; ``options`` are those of `Figure.subplots`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "asr-pathways",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": RULE,
        "xtick.color": SOFT,
        "ytick.color": RULE,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def as_svg(figure: Any, name: str, description: str) -> Html:
    """The figure as part of a page; ``name`` keeps its ids apart from others', ``description`` is read aloud."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # The style inside would hold for the whole page; the report's style sheet has it for its pictures.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    # Several charts share one page: their clip paths and markers must not share names.
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    shades = {INK: "currentColor", SOFT: "var(--soft)", RULE: "var(--rule)", HEAT: "var(--heat)"}
    shades |= {shade(series): colour(series) for series in range(SERIES)}
    for stand_in, variable in shades.items():
        text = text.replace(stand_in, variable)
    start = text.index(">") + 1
    return Html(f'{text[: start - 1]} role="img">{element("title", description)}{text[start:]}')
