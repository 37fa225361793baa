"""The charts of a block, each where there are data for it, drawn by matplotlib as SVG."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from asr_pathways.evaluation.wer import Interval
from asr_pathways.experiment.findings import BlockFinding, Entry, RowFinding, most_seeds
from asr_pathways.formats import language_name, percent, percent_interval, share

MULTILINGUAL = "B"
"""The table whose rows the charts are about."""

_COLOURS = ("#636b75", "#d55e00", "#00805d", "#0072b2", "#b0558a", "#8a6d00")
"""After Okabe & Ito, "Color Universal Design" (2008), darker: readable for people who are colour-blind."""
_FAMILIES = {"dense": 0, "dynamic": 1, "adaptive": 2, "pathways": 3, "imp": 4}  # a method keeps its colour
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_SOFT, _RULE = "#5b636d", "#dcdfe3"
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "asr-pathways",  # the same bytes each time
    "font.family": "sans-serif",
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "grid.color": _RULE,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,
}

_MOST_OVERLAPS = 4  # systems
_LEAST = 1e-4  # share of changed weights below which a logarithm shows nothing of interest
_OPTIONS = {"adapt_every": "steps of a language between two adaptations", "steps": "training steps"}
_TYPES = {"attention": r"attention|attn", "feed_forward": r"feed_forward|ffn|mlp|fc\d", "conv": r"\bconv"}

Look = dict[str, Any]  # colour, marker and dashes, as matplotlib names them
Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A chart; ``name`` is that of its file, ``description`` states in words what it shows."""

    name: str
    svg: str
    description: str
    caption: str


def looks(methods: Sequence[str]) -> list[Look]:
    """How systems are drawn: distinguished by colour, by marker and, among those of a method, by dashes."""
    colours = [_COLOURS[_FAMILIES.get(method, len(_COLOURS) - 1)] for method in methods]
    return [
        {
            "color": colour,
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _DASHES[colours[:index].count(colour) % len(_DASHES)],
        }
        for index, colour in enumerate(colours)
    ]


def charts(block: BlockFinding) -> Iterator[Chart]:
    """All charts that the block has data for."""
    rows = block.tables().get(MULTILINGUAL, [])
    if block.block.detailed:
        yield from _rates(block, most_seeds(rows))
    yield from _curves(block, most_seeds(rows))
    yield from _varied(block)
    yield from _overlaps(block, [row for row in rows if row.system.method == "dynamic"][:_MOST_OVERLAPS])
    yield from _changes(block)
    yield from _densities(block, [row for row in rows if row.row.sparsity is not None])


def _rates(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """WER of each language and their mean, with intervals."""
    if not rows:
        return
    places = [*map(language_name, block.languages), "Mean"]
    with _canvas(1.2 + 0.13 * len(places) * (len(rows) + 1)) as (figure, axes):
        for index, row in enumerate(rows):
            assert row.pooled is not None
            rates = [(rate.wer, rate.wer_ci) for rate in row.pooled.languages.values()]
            rates.append((row.pooled.wer, row.pooled.wer_ci))
            ys = [place + (index - (len(rows) - 1) / 2) * 0.7 / len(rows) for place in range(len(rates))]
            colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
            axes.hlines(ys, *([100 * ci[end] for _, ci in rates] for end in (0, 1)), colour, alpha=0.6)
            axes.plot([100 * wer for wer, _ in rates], ys, marker, color=colour, label=row.name)
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.axhline(len(places) - 1.5, color=_SOFT, linewidth=0.8)
        axes.grid(axis="x")
        axes.set_xlabel("WER (%)")
        figure.legend(loc="outside upper left", ncols=4)
        means = ", ".join(f"{row.name} {percent(row.pooled.wer)}%" for row in rows if row.pooled)
        caption = (
            f"WER on the test split with 95% bootstrap intervals{_seeds(rows)}. The mean over languages is unweighted."
        )
        yield _chart(figure, block, "wer", f"WER by language and system; means: {means}.", caption)


def _curves(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """Dev WER over steps."""
    trained = {row.name: curve for row in rows if row.system.steps and (curve := _history(row))}
    if not trained:
        return
    sizes = {_dev_size(entry) for row in rows if row.name in trained for entry in _entries(row)}
    with _canvas(4.4) as (figure, axes):
        for row, look in zip(rows, looks([row.system.method for row in rows]), strict=True):
            if row.name in trained:
                points = [(step, 100 * wer) for step, wer, _ in trained[row.name]]
                draw_line(axes, row.name, look, points, hollow=[early for _, _, early in trained[row.name]])
            # On more or fewer utterances an untrained model's WER is another figure.
            elif row.system.steps == 0 and all(e["history"] and {_dev_size(e)} == sizes for e in _entries(row)):
                draw_level(axes, row.name, look, fmean(e["history"][-1]["mean_wer"] for e in _entries(row)))
        _label(axes, "Training step", "Mean WER on dev (%)")
        ends = "; ".join(
            f"{name} from {percent(curve[0][1])}% at step {curve[0][0]} to {percent(curve[-1][1])}% at {curve[-1][0]}"
            for name, curve in trained.items()
        )
        counted = " or ".join(str(size) if size else "all" for size in sorted(sizes))
        seen = "Dev is smaller than the test" if sizes == {0} else f"Of dev, {counted} utterances a language"
        early = any(early for curve in trained.values() for _, _, early in curve)
        caption = (
            "WER on the dev split over training steps, mean over languages and seeds. "
            + ("Hollow marks: the model is not at its final sparsity yet. " if early else "")
            + f"{seen}: it shows courses, not who is best."
        )
        yield _chart(figure, block, "steps", f"WER on dev over training steps: {ends}.", caption)


def _dev_size(entry: Entry) -> int:
    """How many utterances a language its WER on dev is of; 0: all."""
    return int(entry["spec"]["recipe"]["evaluation"]["utterances"])


def _history(row: RowFinding) -> list[tuple[int, float, bool]]:
    """(step, mean WER, whether it is less sparse than in the end) at the steps that all runs have."""
    courses = [{point["step"]: point for point in entry["history"]} for entry in _entries(row)]
    target = row.row.sparsity or 0.0
    return [
        (
            step,
            fmean(course[step]["mean_wer"] for course in courses),
            any(course[step].get("sparsity", target) < target - 0.005 for course in courses),
        )
        for step in sorted(set.intersection(*(set(course) for course in courses)))
    ]


def _varied(block: BlockFinding) -> Iterator[Chart]:
    """Test WER against each number that rows vary in."""
    rows = [row for row in block.rows.values() if row.pooled and row.row.variant.varied]
    for option in dict.fromkeys(option for row in rows for option in row.row.variant.varied):
        with_option = [row for row in rows if option in row.row.variant.varied]
        values = {row.row.variant.varied[option] for row in with_option}
        if len(values) > 1 and all(value is None or _is_number(value) for value in values):
            yield _against(block, option, with_option, sorted(values, key=lambda v: math.inf if v is None else v))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _against(block: BlockFinding, option: str, rows: Sequence[RowFinding], values: Sequence[Any]) -> Chart:
    """WER at each of ``values`` in rising order, None last; a line for each combination of the other options."""
    groups: dict[str, list[RowFinding]] = {}
    for row in sorted(rows, key=lambda row: values.index(row.row.variant.varied[option])):
        variant = row.row.variant
        others = [f"{name} {_value(name, value)}" for name, value in variant.varied.items() if name != option]
        groups.setdefault(", ".join([variant.base, *others]), []).append(row)
    with _canvas(4.0) as (figure, axes):
        drawn = looks([group[0].system.method for group in groups.values()])
        for index, ((name, group), look) in enumerate(zip(groups.items(), drawn, strict=True)):
            aside = (index - (len(groups) - 1) / 2) * 0.05  # whiskers side by side
            xs = [values.index(row.row.variant.varied[option]) + aside for row in group]
            rates = [(100 * row.pooled.wer, *(100 * end for end in row.pooled.wer_ci)) for row in group if row.pooled]
            points = [(x, wer) for x, (wer, _, _) in zip(xs, rates, strict=True)]
            draw_line(axes, name, look, points, intervals=[(low, high) for _, low, high in rates])
        seeds = {row.seeds for row in rows}
        if block.base and len(seeds) == 1 and (wer := block.base_wer.get(*seeds)) is not None:
            draw_level(axes, block.base.name, looks(["dense"])[0], wer)
        against = _OPTIONS.get(option, option.replace("_", " "))
        _label(axes, against.capitalize(), "Mean WER (%)")
        axes.set_xticks(range(len(values)), [_value(option, value) for value in values])
        axes.set_xlim(-0.35, len(values) - 0.65)
        described = "; ".join(
            f"{row.name} {percent(row.pooled.wer)}% ({percent_interval(row.pooled.wer_ci)})"
            for row in rows
            if row.pooled
        )
        caption = f"mean WER on the test split against {against}, with 95% bootstrap intervals{_seeds(rows)}."
        return _chart(figure, block, f"by {option}", f"Mean WER on test against {against}: {described}.", caption)


def _value(option: str, value: Any) -> str:
    if value is None:
        return "never" if option == "adapt_every" else "none"
    if option == "sparsity":
        return f"{share(value)}%"
    return f"{value:,}" if _is_number(value) else str(value)


def _overlaps(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """IoU of every two pathways, before and after training, of the first seed."""
    panels = [
        (row.name, when, entry[key])
        for row in rows
        for entry in row.entries[min(row.seeds)]
        if entry["first_masks"] and entry["masks"] and entry["masks"]["overlap"]
        for when, key in (("before", "first_masks"), ("after", "masks"))
    ]
    if not panels:
        return
    lowest = min(value for _, _, masks in panels for value in masks["overlap"].values())
    lowest = min(math.floor(10 * lowest) / 10, 0.9)
    height = math.ceil(len(panels) / 4)
    seeds = {min(row.seeds) for row in rows}
    seed = f"seed {min(seeds)}" if len(seeds) == 1 else "of each, its first seed"
    summaries = []
    with _canvas(2.75 * height, height, 4, squeeze=False) as (figure, grid):
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (name, when, masks) in zip(grid.flat, panels, strict=False):
            languages, pairs = list(masks["sparsity"]), masks["overlap"]
            values = [
                [pairs.get(f"{a} {b}", pairs.get(f"{b} {a}")) if j <= i else None for j, b in enumerate(languages[:-1])]
                for i, a in enumerate(languages[1:])
            ]
            draw_heat(axes, values, "{:.2f}".format, languages[1:], languages[:-1], lowest)
            axes.set_aspect("equal")
            summary = f"{when}: mean {masks['mean_iou']:.2f}, union {percent(masks['union_density'], 0)}%"
            summaries.append(f"{name} {summary}")
            axes.set_title(f"{_wrapped(name, 26)}\n{summary}")
        caption = (
            f"overlap (IoU) of the masks of every two languages before and after training; {seed}. "
            f"White is {lowest:.1f} or less; union: the share of weights that any language keeps."
        )
        described = f"IoU of every two languages' masks; {'; '.join(summaries)}."
        yield _chart(figure, block, "overlap", described, caption)


def _changes(block: BlockFinding) -> Iterator[Chart]:
    """Share of weights that each adaptation changed."""
    shown = [row for row in block.rows.values() if row.pooled and row.system.table and not row.row.variant.varied]
    shown = [row for row in shown if row.system.method in ("dynamic", "adaptive")]
    courses = {row.name: course for row in shown if (course := _churn(row))}
    rows = most_seeds([row for row in shown if row.name in courses])
    if not rows:
        return
    with _canvas(3.8) as (figure, axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        for row, look in zip(rows, looks([row.system.method for row in rows]), strict=True):
            points = [(step, 100 * max(share, _LEAST)) for step, share in courses[row.name]]
            draw_line(axes, row.name, look, points)
        _label(axes, "Training step", "Weights changed (%)")
        axes.set_xlim(left=0)
        ends = {row.name: [percent(courses[row.name][end][1]) for end in (0, -1)] for row in rows}
        shares = "; ".join(f"{name} from {first}% to {last}%" for name, (first, last) in ends.items())
        caption = (
            "share of the prunable weights that an adaptation puts into a mask or takes out of it; mean over languages "
            f"and seeds. Logarithmic: what is below {percent(_LEAST, 2)}% is drawn there."
        )
        yield _chart(figure, block, "changes", f"Share of weights changed at each adaptation: {shares}.", caption)


def _churn(row: RowFinding) -> list[Point]:
    """(mean step, mean share) of the first adaptations of all masks, the second ones, and so on."""
    courses: dict[tuple[int, str | None], list[Point]] = {}
    for index, entry in enumerate(_entries(row)):
        for event in entry["events"]:
            if event["kind"] == "adapt":
                courses.setdefault((index, event.get("language")), []).append((event["step"], event["changed"]))
    together = zip(*courses.values(), strict=False)
    return [(fmean(step for step, _ in points), fmean(share for _, share in points)) for points in together]


def layer_of(tensor: str) -> tuple[str, str]:
    """The layer that a tensor belongs to, and its type: ``encoder.layers.3.feed_forward.1.weight`` -> 4, feed_forward.

    What is in no numbered layer is a layer and a type by itself: ``front_end``, ``predictor``.
    """
    match = re.search(r"(.*?)\blayers\.(\d+)\.(.*)", tensor)
    if match is None:
        names = tensor.split(".")
        part = names[1] if names[0] == "encoder" and len(names) > 2 else names[0]
        return part, part
    number = int(match[2]) + 1
    layer = f"decoder {number}" if "decoder" in match[1] else str(number)
    kind = next((kind for kind, pattern in _TYPES.items() if re.search(pattern, match[3])), match[3].split(".")[0])
    return layer, kind


def _densities(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """Union density by layer and by type of layer."""
    tables = {row.name: table for row in rows if (table := _density(row))}
    if not tables:
        return
    first = next(iter(tables.values()))
    tables = {name: table for name, table in tables.items() if [*map(list, table)] == [*map(list, first)]}
    sparsities = sorted({row.row.sparsity or 0.0 for row in rows if row.name in tables}, reverse=True)
    kept = [share(1 - sparsity) for sparsity in sparsities]
    widths = {"width_ratios": [len(part) for part in first]}
    with _canvas(0.8 + 0.36 * len(tables), 1, 2, sharey=True, gridspec_kw=widths) as (figure, both):
        for index, (axes, title) in enumerate(zip(both, ("Layer", "Type of layer"), strict=True)):
            values = [[*table[index].values()] for table in tables.values()]
            columns = [_wrapped(column.replace("_", " "), 9) for column in first[index]]
            draw_heat(axes, values, lambda u: percent(u, 0), [_wrapped(n, 22) for n in tables], columns, 0.0, size=8)
            axes.set_title(title)
        unions = "; ".join(
            f"{name}: " + ", ".join(f"{part} {percent(union, 0)}%" for part, union in table[0].items())
            for name, table in tables.items()
        )
        caption = (
            f"percentage of weights that any language keeps, where a language by itself keeps {'% or '.join(kept)}% of "
            "all; unweighted mean over the weight matrices of each group, and over seeds" + _seeds(rows) + "."
        )
        yield _chart(figure, block, "density", f"Union density by layer: {unions}.", caption)


def _density(row: RowFinding) -> tuple[dict[str, float], dict[str, float]] | None:
    """{layer: union density} and the same by type; means over tensors and seeds."""
    layers: dict[str, list[float]] = {}
    types: dict[str, list[float]] = {}
    for entry in _entries(row):
        if not entry["masks"]:
            return None
        for tensor, union in entry["masks"]["union"].items():
            layer, kind = layer_of(tensor)
            layers.setdefault(layer, []).append(union)
            types.setdefault(kind, []).append(union)
    return {name: fmean(part) for name, part in layers.items()}, {name: fmean(part) for name, part in types.items()}


def draw_line(
    axes: Any,
    name: str,
    look: Look,
    points: Sequence[Point],
    *,
    hollow: Sequence[bool] = (),
    intervals: Sequence[Interval] = (),
) -> None:
    """A curve through ``points``, with ``intervals`` as whiskers; marks that are ``hollow`` are white inside."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, label=name, **look)
    if intervals:
        axes.vlines(xs, *zip(*intervals, strict=True), color=look["color"], alpha=0.6)
    if any(hollow):
        white = [point for point, is_hollow in zip(points, hollow, strict=True) if is_hollow]
        axes.plot(*zip(*white, strict=True), **look | {"linestyle": "none"}, markerfacecolor="white")


def draw_level(axes: Any, name: str, look: Look, rate: float) -> None:
    """A level line, in percent, for what does not change."""
    axes.axhline(100 * rate, color=look["color"], linestyle=(0, (6, 3)), label=name)


def _label(axes: Any, x_label: str, y_label: str) -> None:
    """Labels the axes, and puts the legend at the right."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, [_wrapped(label, 30) for label in labels], loc="outside right upper")


def draw_heat(
    axes: Any,
    values: Sequence[Sequence[float | None]],
    text: Callable[[float], str],
    rows: Sequence[str],
    columns: Sequence[str],
    lowest: float,
    size: float = 9,
) -> None:
    """Values as shaded squares with their texts; ``lowest`` is white, 1 is darkest, None is left out."""
    import numpy as np

    shades = np.ma.masked_invalid(np.array(values, dtype=float))
    highest = lowest + (1 - lowest) / 0.6  # so that dark squares let their texts be read
    axes.pcolormesh(shades, cmap="Blues", vmin=lowest, vmax=highest, edgecolors="white", linewidth=2)
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value is not None:
                axes.text(x + 0.5, y + 0.5, text(value), ha="center", va="center", fontsize=size)
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, fontsize=size)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` letters."""
    return "\n".join(textwrap.wrap(text, width))


def _entries(row: RowFinding) -> list[Entry]:
    return [entry for entries in row.entries.values() for entry in entries]


def _seeds(rows: Iterable[RowFinding]) -> str:
    """How many seeds a chart's rows have, where they differ."""
    counts = sorted({len(row.seeds) for row in rows})
    return f" ({counts[0]} to {counts[-1]} seeds)" if len(counts) > 1 else ""


@contextmanager
def _canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure ``height`` inches high and its axes, in the report's style, without pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def _chart(figure: Any, block: BlockFinding, name: str, description: str, caption: str) -> Chart:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    name = re.sub(r"[^a-z0-9]+", "-", f"{block.name} {name}".lower()).strip("-")
    return Chart(name, stream.getvalue(), description, f"{block.name}: {caption}")
