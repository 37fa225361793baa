"""The charts of a block, each where there are data for it, drawn by matplotlib as SVG."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from asr_pathways.evaluation.wer import Interval
from asr_pathways.experiment.findings import BlockFinding, Entry, RowFinding, most_seeds
from asr_pathways.formats import language_name, percent, percent_interval

MULTILINGUAL = "B"
"""The table whose rows the charts are about."""

_COLOURS = ("#636b75", "#d55e00", "#00805d", "#0072b2", "#b0558a", "#8a6d00")
"""After Okabe & Ito, "Color Universal Design" (2008), darker: readable for people who are colour-blind."""
_FAMILIES = {"dense": 0, "dynamic": 1, "adaptive": 2, "pathways": 3, "imp": 4}  # a method keeps its colour
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_WIDTH = 9.6  # inches
_SOFT, _RULE = "#5b636d", "#dcdfe3"

_MOST_OVERLAPS = 4  # systems
_LEAST = 1e-4  # share of changed weights below which a logarithm shows nothing of interest
_OPTIONS = {"adapt_every": "steps of a language between two adaptations", "steps": "training steps"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A chart; ``name`` is that of its file, ``description`` says in words what it shows."""

    name: str
    svg: str
    description: str
    caption: str


@dataclass(frozen=True)
class Look:
    """How a system is drawn: distinguished by colour, by marker and, among those of a method, by dashes."""

    colour: str
    marker: str
    dashes: Any


def looks(methods: Sequence[str]) -> list[Look]:
    """A look for each system, by its method."""
    result: list[Look] = []
    for index, method in enumerate(methods):
        colour = _COLOURS[_FAMILIES.get(method, len(_COLOURS) - 1)]
        alike = sum(look.colour == colour for look in result)
        result.append(Look(colour, _MARKERS[index % len(_MARKERS)], _DASHES[alike % len(_DASHES)]))
    return result


@dataclass(frozen=True)
class Line:
    """A curve of the legend.

    Attributes:
        name, look: of its system.
        points: (x, y).
        hollow: of each point, whether its mark is.
        intervals: of each point, whiskers.
        apart: how many points at the end are not joined to the others.
    """

    name: str
    look: Look
    points: Sequence[Point]
    hollow: Sequence[bool] = ()
    intervals: Sequence[Interval] = ()
    apart: int = 0


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
        for index, (row, colour) in enumerate(zip(rows, _COLOURS * len(rows), strict=False)):
            assert row.pooled is not None
            rates = [(rate.wer, rate.wer_ci) for rate in row.pooled.languages.values()]
            rates.append((row.pooled.wer, row.pooled.wer_ci))
            ys = [place + (index - (len(rows) - 1) / 2) * 0.7 / len(rows) for place in range(len(rates))]
            axes.hlines(
                ys, [100 * low for _, (low, _) in rates], [100 * high for _, (_, high) in rates], colour, alpha=0.6
            )
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot([100 * wer for wer, _ in rates], ys, marker, color=colour, label=row.name)
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.axhline(len(places) - 1.5, color=_SOFT, linewidth=0.8)
        axes.grid(axis="x", color=_RULE)
        axes.set_xlabel("WER (%)")
        figure.legend(loc="outside upper left", ncols=4)
        means = ", ".join(f"{row.name} {percent(row.pooled.wer)}%" for row in rows if row.pooled)
        yield _chart(
            figure,
            _name(block, "wer"),
            f"WER by language and system; means: {means}.",
            f"{block.name}: WER on the test split with 95% bootstrap intervals{_seeds(rows)}. The mean is unweighted "
            "over languages.",
        )


def _curves(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """Dev WER over steps."""
    trained = {row.name: curve for row in rows if row.system.steps and (curve := _history(row))}
    if not trained:
        return
    drawn = dict(zip((row.name for row in rows), looks([row.system.method for row in rows]), strict=True))
    lines = [
        Line(name, drawn[name], [(step, 100 * wer) for step, wer, _ in curve], [early for _, _, early in curve])
        for name, curve in trained.items()
    ]
    sizes = {_dev_size(entry) for row in rows if row.name in trained for entry in _entries(row)}
    levels = [
        (row.name, 100 * fmean(entry["history"][-1]["mean_wer"] for entry in _entries(row)), drawn[row.name])
        for row in rows
        # On more or fewer utterances its WER is another figure.
        if row.system.steps == 0 and all(entry["history"] and {_dev_size(entry)} == sizes for entry in _entries(row))
    ]
    ends = "; ".join(
        f"{name} from {percent(curve[0][1])}% at step {curve[0][0]} to {percent(curve[-1][1])}% at {curve[-1][0]}"
        for name, curve in trained.items()
    )
    early = any(early for curve in trained.values() for _, _, early in curve)
    with _canvas(4.4) as (figure, axes):
        draw_lines(axes, lines, levels, "Training step", "Mean WER on dev (%)")
        yield _chart(
            figure,
            _name(block, "steps"),
            f"WER on dev over training steps: {ends}.",
            f"{block.name}: WER on the dev split over training steps, mean over languages and seeds. "
            + ("Hollow marks: the model is not at its final sparsity yet. " if early else "")
            + f"{_utterances(sizes)}: it shows courses, not who is best.",
        )


def _utterances(sizes: set[int]) -> str:
    if sizes == {0}:
        return "Dev is smaller than the test"
    return f"Of dev, {' or '.join(str(size) if size else 'all' for size in sorted(sizes))} utterances a language"


def _dev_size(entry: Entry) -> int:
    """How many utterances a language its WER on dev is of; 0: all."""
    return int(entry["spec"]["recipe"]["evaluation"]["utterances"])


def _history(row: RowFinding) -> list[tuple[int, float, bool]]:
    """(step, mean WER, whether it is less sparse than in the end) at the steps that all runs have."""
    courses = [{point["step"]: point for point in entry["history"]} for entry in _entries(row)]
    steps = sorted(set.intersection(*(set(course) for course in courses)))
    target = row.row.sparsity or 0.0
    return [
        (
            step,
            fmean(course[step]["mean_wer"] for course in courses),
            any(course[step].get("sparsity", target) < target - 0.005 for course in courses),
        )
        for step in steps
    ]


def _varied(block: BlockFinding) -> Iterator[Chart]:
    """Test WER against each number that rows vary in."""
    rows = [row for row in block.rows.values() if row.pooled and row.row.variant.varied]
    for option in dict.fromkeys(option for row in rows for option in row.row.variant.varied):
        with_option = [row for row in rows if option in row.row.variant.varied]
        values = [row.row.variant.varied[option] for row in with_option]
        if len({*values}) > 1 and all(value is None or _is_number(value) for value in values):
            yield _against(block, option, with_option)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _against(block: BlockFinding, option: str, rows: Sequence[RowFinding]) -> Chart:
    groups: dict[str, list[RowFinding]] = {}
    for row in rows:
        variant = row.row.variant
        others = [f"{name} {_value(name, value)}" for name, value in variant.varied.items() if name != option]
        groups.setdefault(", ".join([variant.base, *others]), []).append(row)
    place = _places([row.row.variant.varied[option] for row in rows])
    drawn = looks([group[0].system.method for group in groups.values()])
    lines = []
    for index, ((name, group), look) in enumerate(zip(groups.items(), drawn, strict=True)):
        aside = (index - (len(groups) - 1) / 2) * 0.05  # whiskers side by side
        ordered = sorted(group, key=lambda row: place[row.row.variant.varied[option]])
        xs = [place[row.row.variant.varied[option]] + aside for row in ordered]
        rates = [(row.pooled.wer, *row.pooled.wer_ci) for row in ordered if row.pooled]
        points = [(x, 100 * wer) for x, (wer, _, _) in zip(xs, rates, strict=True)]
        intervals = [(100 * low, 100 * high) for _, low, high in rates]
        never = sum(row.row.variant.varied[option] is None for row in ordered)
        lines.append(Line(name, look, points, (), intervals, never))
    base, seeds = block.base, {row.seeds for row in rows}
    wer = block.base_wer.get(next(iter(seeds))) if len(seeds) == 1 else None
    level = [(base.name, 100 * wer, looks(["dense"])[0])] if base and wer is not None else []
    against = _OPTIONS.get(option, option.replace("_", " "))
    described = "; ".join(
        f"{row.name} {percent(row.pooled.wer)}% ({percent_interval(row.pooled.wer_ci)})" for row in rows if row.pooled
    )
    with _canvas(4.0) as (figure, axes):
        draw_lines(axes, lines, level, against.capitalize(), "Mean WER (%)")
        axes.set_xticks(list(place.values()), [_value(option, value) for value in place])
        axes.set_xlim(-0.35, max(place.values()) + 0.35)
        return _chart(
            figure,
            _name(block, "by", option),
            f"Mean WER on test against {against}: {described}.",
            f"{block.name}: mean WER on the test split against {against}, with 95% bootstrap intervals{_seeds(rows)}.",
        )


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """The x of each value: by its size, by its logarithm where sizes differ much; None at the right end."""
    numbers = sorted({value for value in values if value is not None})
    wide = numbers[0] > 0 and numbers[-1] >= 8 * numbers[0]
    sizes = [math.log2(number) if wide else float(number) for number in numbers]
    span = (sizes[-1] - sizes[0]) or 1.0
    places = {
        number: (size - sizes[0]) / span * (len(numbers) - 1) for number, size in zip(numbers, sizes, strict=True)
    }
    return {**places, None: len(numbers)} if None in values else places


def _value(option: str, value: Any) -> str:
    if value is None:
        return "never" if option == "adapt_every" else "none"
    if option == "sparsity":
        return f"{percent(value, 0)}%"
    return f"{value:,}" if _is_number(value) else str(value)


def _overlaps(block: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Chart]:
    """IoU of every two pathways, before and after training, of the first seed."""
    panels, summaries = [], []
    for row in rows:
        for entry in row.entries[min(row.seeds)]:
            if entry["first_masks"] and entry["masks"] and entry["masks"]["overlap"]:
                for when, masks in (("before", entry["first_masks"]), ("after", entry["masks"])):
                    summary = f"mean {masks['mean_iou']:.2f}, union {percent(masks['union_density'], 0)}%"
                    summaries.append(f"{row.name} {when}: {summary}")
                    panels.append((f"{_wrapped(row.name, 26)}\n{when}: {summary}", masks))
    if not panels:
        return
    lowest = min(value for _, masks in panels for value in masks["overlap"].values())
    lowest = min(math.floor(10 * lowest) / 10, 0.9)
    height = math.ceil(len(panels) / 4)
    with _canvas(2.75 * height, height, 4, squeeze=False) as (figure, grid):
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, masks) in zip(grid.flat, panels, strict=False):
            languages, pairs = list(masks["sparsity"]), masks["overlap"]
            values = [
                [pairs.get(f"{a} {b}", pairs.get(f"{b} {a}")) if j <= i else None for j, b in enumerate(languages[:-1])]
                for i, a in enumerate(languages[1:])
            ]
            texts = [["" if value is None else f"{value:.2f}" for value in line] for line in values]
            draw_heat(axes, values, texts, languages[1:], languages[:-1], lowest)
            axes.set_aspect("equal")
            axes.set_title(title, fontsize=9, loc="left")
        yield _chart(
            figure,
            _name(block, "overlap"),
            f"IoU of every two languages' masks; {'; '.join(summaries)}.",
            f"{block.name}: overlap (IoU) of the masks of every two languages before and after training; "
            f"seed {min(rows[0].seeds)}. White is {lowest:.1f} or less; union: the share of weights that any language "
            "keeps.",
        )


def _changes(block: BlockFinding) -> Iterator[Chart]:
    """Share of weights that each adaptation changed."""
    rows = [
        row
        for row in block.rows.values()
        if row.pooled
        and row.system.table
        and row.system.method in ("dynamic", "adaptive")
        and not row.row.variant.varied
    ]
    courses = {row.name: course for row in rows if (course := _churn(row))}
    if not courses:
        return
    rows = most_seeds([row for row in rows if row.name in courses])
    lines = [
        Line(row.name, look, [(step, 100 * max(share, _LEAST)) for step, share in courses[row.name]])
        for row, look in zip(rows, looks([row.system.method for row in rows]), strict=True)
    ]
    shares = "; ".join(
        f"{row.name} from {percent(courses[row.name][0][1])}% to {percent(courses[row.name][-1][1])}%" for row in rows
    )
    with _canvas(3.8) as (figure, axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        draw_lines(axes, lines, [], "Training step", "Weights changed (%)")
        axes.set_xlim(left=0)
        yield _chart(
            figure,
            _name(block, "changes"),
            f"Share of weights changed at each adaptation: {shares}.",
            f"{block.name}: share of the prunable weights that an adaptation puts into a mask or takes out of it; mean "
            f"over languages and seeds. Logarithmic: what is below {percent(_LEAST, 2)}% is drawn there.",
        )


def _churn(row: RowFinding) -> list[Point]:
    """(mean step, mean share) of the first adaptations of all masks, the second ones, and so on."""
    courses: dict[tuple[int, str | None], list[Point]] = {}
    for index, entry in enumerate(_entries(row)):
        for event in entry["events"]:
            if event["kind"] == "adapt":
                courses.setdefault((index, event.get("language")), []).append((event["step"], event["changed"]))
    count = min((len(course) for course in courses.values()), default=0)
    return [
        (fmean(course[k][0] for course in courses.values()), fmean(course[k][1] for course in courses.values()))
        for k in range(count)
    ]


_TYPES = {"attention": r"attention|attn", "feed_forward": r"feed_forward|ffn|mlp|fc\d", "conv": r"\bconv"}


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
    """Density by layer and by type of layer."""
    tables = {row.name: table for row in rows if (table := _density(row))}
    if not tables:
        return
    first = next(iter(tables.values()))
    tables = {name: table for name, table in tables.items() if [*map(list, table)] == [*map(list, first)]}
    names = [_wrapped(name, 22) for name in tables]
    densities = {percent(one, 0) for table in tables.values() for part in table for one, _ in part.values()}
    alike = len(densities) == 1
    widths = {"width_ratios": [len(part) for part in first]}
    unions = "; ".join(
        f"{name}: " + ", ".join(f"{part} {percent(union, 0)}%" for part, (_, union) in table[0].items())
        for name, table in tables.items()
    )
    each = f", of which a language by itself keeps {min(densities)} everywhere" if alike else ""
    each = each or " and, in brackets, that one language keeps on average"
    with _canvas(0.8 + (0.36 if alike else 0.5) * len(tables), 1, 2, sharey=True, gridspec_kw=widths) as (figure, both):
        for index, (axes, title) in enumerate(zip(both, ("Layer", "Type of layer"), strict=True)):
            parts = [table[index] for table in tables.values()]
            values = [[union for _, union in part.values()] for part in parts]
            texts = [
                [percent(union, 0) + ("" if alike else f"\n({percent(one, 0)})") for one, union in part.values()]
                for part in parts
            ]
            columns = [_wrapped(column.replace("_", " "), 9) for column in parts[0]]
            draw_heat(axes, values, texts, names, columns, 0.0, size=8)
            axes.set_title(title, fontsize=9, loc="left")
        yield _chart(
            figure,
            _name(block, "density"),
            f"Union density by layer: {unions}.",
            f"{block.name}: percentage of weights that any language keeps{each}; unweighted mean over the weight "
            f"matrices of each group, and over seeds{_seeds(rows)}.",
        )


def _density(row: RowFinding) -> tuple[dict[str, Point], dict[str, Point]] | None:
    """{layer: (mean density of a language, union density)} and the same by type; means over tensors and seeds."""
    layers: dict[str, list[Point]] = {}
    types: dict[str, list[Point]] = {}
    for entry in _entries(row):
        masks = entry["masks"]
        if not masks:
            return None
        for tensor, union in masks["union"].items():
            one = 1 - fmean(shares[tensor] for shares in masks["tensors"].values())
            layer, kind = layer_of(tensor)
            layers.setdefault(layer, []).append((one, union))
            types.setdefault(kind, []).append((one, union))
    return _means(layers), _means(types)


def _means(groups: Mapping[str, Sequence[Point]]) -> dict[str, Point]:
    return {
        name: (fmean(one for one, _ in pairs), fmean(union for _, union in pairs)) for name, pairs in groups.items()
    }


def draw_lines(
    axes: Any, lines: Sequence[Line], levels: Sequence[tuple[str, float, Look]], x_label: str, y_label: str
) -> None:
    """Lines, level lines for what does not change, and the legend at the right."""
    for line in lines:
        xs, ys = zip(*line.points, strict=True)
        joined = len(xs) - line.apart
        style = {"color": line.look.colour, "marker": line.look.marker, "linestyle": line.look.dashes}
        axes.plot(xs[:joined], ys[:joined], label=line.name if joined else None, **style)
        axes.plot(xs[joined:], ys[joined:], label=None if joined else line.name, **style | {"linestyle": "none"})
        if line.intervals:
            axes.vlines(xs, *zip(*line.intervals, strict=True), color=line.look.colour, alpha=0.6)
        hollow = [point for point, is_hollow in zip(line.points, line.hollow, strict=False) if is_hollow]
        if hollow:
            axes.plot(*zip(*hollow, strict=True), **style | {"linestyle": "none"}, markerfacecolor="white")
    for name, value, look in levels:
        axes.axhline(value, color=look.colour, linewidth=1.4, linestyle=(0, (6, 3)), label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=_RULE)
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, [_wrapped(label, 30) for label in labels], loc="outside right upper")


def draw_heat(
    axes: Any,
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
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
    for y, line in enumerate(texts):
        for x, text in enumerate(line):
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=size, linespacing=1.15)
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, fontsize=size)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` letters."""
    return "\n".join(textwrap.wrap(text, width))


def _name(block: BlockFinding, *parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join((block.name, *parts)).lower()).strip("-")


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

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "asr-pathways",  # the same bytes each time
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.labelcolor": _SOFT,
        "axes.edgecolor": _RULE,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "xtick.labelcolor": "black",
        "ytick.labelcolor": "black",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "lines.markersize": 5.5,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def _chart(figure: Any, name: str, description: str, caption: str) -> Chart:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(name, stream.getvalue(), description, caption)
