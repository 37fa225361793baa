"""The figures of a block, each where there are data for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from asr_pathways.evaluation.figures import as_svg, canvas
from asr_pathways.experiment.charts import Line, Look, Point, decorate, draw_lines, heat, looks, wrapped
from asr_pathways.experiment.document import Picture
from asr_pathways.experiment.findings import BlockFinding, Entry, RowFinding, most_seeds
from asr_pathways.formats import percent, percent_interval

MULTILINGUAL = "B"
"""The table whose rows the figures are about."""

_HEATED = 4  # systems at most of which overlaps are shown
_LEAST = 1e-4  # share of changed weights below which a logarithm shows nothing of interest


_OPTIONS = {"adapt_every": "steps of a language between two adaptations", "steps": "training steps"}


def pictures(found: BlockFinding) -> Iterator[Picture]:
    """All figures that the block has data for."""
    rows = found.tables().get(MULTILINGUAL, [])
    yield from _curves(found, most_seeds(rows))
    yield from _varied(found)
    yield from _overlaps(found, [row for row in rows if row.system.method == "dynamic"][:_HEATED])
    yield from _changes(found)
    yield from _densities(found, [row for row in rows if row.row.sparsity is not None])


def _name(found: BlockFinding, *parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join((found.name, *parts)).lower()).strip("-")


def _picture(figure: Any, name: str, description: str, caption: str) -> Picture:
    return Picture(name, as_svg(figure, name, description), description, caption)


def _entries(row: RowFinding) -> list[Entry]:
    return [entry for entries in row.entries.values() for entry in entries]


def _curves(found: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Picture]:
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
    with canvas(4.4) as (figure, axes):
        draw_lines(axes, lines, levels)
        decorate(axes, "Training step", "Mean WER on dev (%)")
        ends = "; ".join(
            f"{name} from {percent(curve[0][1])}% at step {curve[0][0]} to {percent(curve[-1][1])}% at {curve[-1][0]}"
            for name, curve in trained.items()
        )
        hollow = any(early for curve in trained.values() for _, _, early in curve)
        yield _picture(
            figure,
            _name(found, "steps"),
            f"WER on dev over training steps: {ends}.",
            f"{found.name}: WER on the dev split over training steps, mean over languages and seeds. "
            + ("Hollow marks: the model is not at its final sparsity yet. " if hollow else "")
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


def _seeds(rows: Iterable[RowFinding]) -> str:
    """How many seeds a figure's rows have, where they differ."""
    counts = sorted({len(row.seeds) for row in rows})
    return f" ({counts[0]} to {counts[-1]} seeds)" if len(counts) > 1 else ""


def _varied(found: BlockFinding) -> Iterator[Picture]:
    """Test WER against each number that rows vary in."""
    rows = [row for row in found.rows.values() if row.pooled and row.row.variant.varied]
    options = dict.fromkeys(option for row in rows for option in row.row.variant.varied)
    for option in options:
        own = [row for row in rows if option in row.row.variant.varied]
        values = [row.row.variant.varied[option] for row in own]
        if len({*values}) > 1 and all(value is None or _is_number(value) for value in values):
            yield _against(found, option, own)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _against(found: BlockFinding, option: str, rows: Sequence[RowFinding]) -> Picture:
    groups: dict[str, list[RowFinding]] = {}
    for row in rows:
        variant = row.row.variant
        others = [f"{name} {_value(name, value)}" for name, value in variant.varied.items() if name != option]
        groups.setdefault(", ".join([variant.base, *others]), []).append(row)
    place = _places([row.row.variant.varied[option] for row in rows])
    drawn = looks([own[0].system.method for own in groups.values()])
    lines = []
    for index, ((name, own), look) in enumerate(zip(groups.items(), drawn, strict=True)):
        aside = (index - (len(groups) - 1) / 2) * 0.05  # whiskers side by side
        lines.append(_line(name, own, option, place, aside, look))
    against = _OPTIONS.get(option, option.replace("_", " "))
    with canvas(4.0) as (figure, axes):
        base, seeds = found.base, {row.seeds for row in rows}
        wer = found.base_wer.get(next(iter(seeds))) if len(seeds) == 1 else None
        level = [(base.name, 100 * wer, looks(["dense"])[0])] if base and wer is not None else []
        draw_lines(axes, lines, level)
        axes.set_xticks(list(place.values()), [_value(option, value) for value in place])
        axes.set_xlim(-0.35, max(place.values()) + 0.35)
        decorate(axes, against.capitalize(), "Mean WER (%)")
        told = "; ".join(
            f"{row.name} {percent(row.pooled.wer)}% ({percent_interval(row.pooled.wer_ci)})"
            for row in rows
            if row.pooled
        )
        return _picture(
            figure,
            _name(found, "by", option),
            f"Mean WER on test against {against}: {told}.",
            f"{found.name}: mean WER on the test split against {against}, with 95% bootstrap intervals{_seeds(rows)}.",
        )


def _line(
    name: str, rows: Sequence[RowFinding], option: str, place: Mapping[Any, float], aside: float, look: Look
) -> Line:
    rows = sorted(rows, key=lambda row: place[row.row.variant.varied[option]])
    points: list[Point] = []
    intervals = []
    for row in rows:
        assert row.pooled is not None
        points.append((place[row.row.variant.varied[option]] + aside, 100 * row.pooled.wer))
        intervals.append((100 * row.pooled.wer_ci[0], 100 * row.pooled.wer_ci[1]))
    never = sum(row.row.variant.varied[option] is None for row in rows)
    return Line(name, look, points, intervals=intervals, alone=never)


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands: by its size, by its logarithm where sizes differ much; None at the right end."""
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


def _overlaps(found: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Picture]:
    """IoU of every two pathways, before and after training, of the first seed."""
    held = []
    for row in rows:
        seed = min(row.seeds)
        for entry in row.entries[seed]:
            if entry["first_masks"] and entry["masks"] and entry["masks"]["overlap"]:
                held.append((row.name, seed, entry["first_masks"], entry["masks"]))
    if not held:
        return
    lowest = min(value for _, _, *both in held for masks in both for value in masks["overlap"].values())
    lowest = min(math.floor(10 * lowest) / 10, 0.9)
    lines = math.ceil(len(held) / 2)
    told = []
    with canvas(2.75 * lines, lines, 4, squeeze=False) as (figure, grid):
        spare = list(grid.flat)
        for name, _, *both in held:
            for when, masks in zip(("before", "after"), both, strict=True):
                axes = spare.pop(0)
                _triangle(axes, masks, lowest)
                summary = f"mean {masks['mean_iou']:.2f}, union {percent(masks['union_density'], 0)}%"
                axes.set_title(f"{wrapped(name, 26)}\n{when}: {summary}", fontsize=9, loc="left")
                told.append(f"{name} {when}: {summary}")
        for axes in spare:
            axes.set_visible(False)
        yield _picture(
            figure,
            _name(found, "overlap"),
            f"IoU of every two languages' masks; {'; '.join(told)}.",
            f"{found.name}: overlap (IoU) of the masks of every two languages before and after training; seed "
            f"{held[0][1]}. White is {lowest:.1f} or less; union: the share of weights that any language keeps.",
        )


def _triangle(axes: Any, masks: Mapping[str, Any], lowest: float) -> None:
    languages = list(masks["sparsity"])
    pairs = masks["overlap"]
    values = [
        [pairs.get(f"{a} {b}", pairs.get(f"{b} {a}")) if j <= i else None for j, b in enumerate(languages[:-1])]
        for i, a in enumerate(languages[1:])
    ]
    texts = [["" if value is None else f"{value:.2f}" for value in line] for line in values]
    heat(axes, values, texts, languages[1:], languages[:-1], lowest=lowest)
    axes.set_aspect("equal")


def _changes(found: BlockFinding) -> Iterator[Picture]:
    """Share of weights that each adaptation changed."""
    rows = [
        row
        for row in found.rows.values()
        if row.pooled
        and row.system.table
        and row.system.method in ("dynamic", "adaptive")
        and not row.row.variant.varied
    ]
    courses = {row.name: course for row in rows if (course := _churn(row))}
    if not courses:
        return
    rows = most_seeds([row for row in rows if row.name in courses])
    drawn = looks([row.system.method for row in rows])
    lines = [
        Line(row.name, look, [(step, 100 * max(share, _LEAST)) for step, share in courses[row.name]])
        for row, look in zip(rows, drawn, strict=True)
    ]
    with canvas(3.8) as (figure, axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        draw_lines(axes, lines, [])
        axes.set_xlim(left=0)
        decorate(axes, "Training step", "Weights changed (%)")
        told = "; ".join(
            f"{row.name} from {percent(courses[row.name][0][1])}% to {percent(courses[row.name][-1][1])}%"
            for row in rows
        )
        yield _picture(
            figure,
            _name(found, "changes"),
            f"Share of weights changed at each adaptation: {told}.",
            f"{found.name}: share of the prunable weights that an adaptation puts into a mask or takes out of it; mean "
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
        own = names[1] if names[0] == "encoder" and len(names) > 2 else names[0]
        return own, own
    number = int(match[2]) + 1
    layer = f"decoder {number}" if "decoder" in match[1] else str(number)
    kind = next((kind for kind, pattern in _TYPES.items() if re.search(pattern, match[3])), match[3].split(".")[0])
    return layer, kind


def _densities(found: BlockFinding, rows: Sequence[RowFinding]) -> Iterator[Picture]:
    """Density by layer and by type of layer."""
    tables = {row.name: table for row in rows if (table := _density(row))}
    if not tables:
        return
    first = next(iter(tables.values()))
    tables = {name: table for name, table in tables.items() if [*map(list, table)] == [*map(list, first)]}
    names = [wrapped(name, 22) for name in tables]
    densities = {percent(own, 0) for table in tables.values() for part in table for own, _ in part.values()}
    alike = len(densities) == 1
    widths = {"width_ratios": [len(part) for part in first]}
    with canvas(0.8 + (0.36 if alike else 0.5) * len(tables), 1, 2, sharey=True, gridspec_kw=widths) as (figure, both):
        for index, (axes, title) in enumerate(zip(both, ("Layer", "Type of layer"), strict=True)):
            parts = [table[index] for table in tables.values()]
            values = [[union for _, union in part.values()] for part in parts]
            texts = [
                [percent(union, 0) + ("" if alike else f"\n({percent(own, 0)})") for own, union in part.values()]
                for part in parts
            ]
            columns = [wrapped(column.replace("_", " "), 9) for column in parts[0]]
            heat(axes, values, texts, names, columns, lowest=0.0, size=8)
            axes.set_title(title, fontsize=9, loc="left")
        told = "; ".join(
            f"{name}: " + ", ".join(f"{part} {percent(union, 0)}%" for part, (_, union) in table[0].items())
            for name, table in tables.items()
        )
        own = f", of which a language by itself keeps {min(densities)} everywhere" if alike else ""
        own = own or " and, in brackets, that one language keeps on average"
        yield _picture(
            figure,
            _name(found, "density"),
            f"Union density by layer: {told}.",
            f"{found.name}: percentage of weights that any language keeps{own}; unweighted mean over the weight "
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
            own = 1 - fmean(shares[tensor] for shares in masks["tensors"].values())
            layer, kind = layer_of(tensor)
            layers.setdefault(layer, []).append((own, union))
            types.setdefault(kind, []).append((own, union))
    return _means(layers), _means(types)


def _means(groups: Mapping[str, Sequence[Point]]) -> dict[str, Point]:
    return {
        name: (fmean(own for own, _ in found), fmean(union for _, union in found)) for name, found in groups.items()
    }
