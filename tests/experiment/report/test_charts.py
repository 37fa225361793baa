from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from asr_pathways.experiment.findings import gather
from asr_pathways.experiment.report.charts import (
    Chart,
    _canvas,
    charts,
    draw_heat,
    draw_level,
    draw_line,
    layer_of,
    looks,
)
from asr_pathways.pruning import METHODS
from tests.experiment.example import as_data, fill, planned
from tests.experiment.report.page import Page


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chart]:
    root, plan = tmp_path_factory.mktemp("experiment"), planned()
    fill(plan, root)
    found = gather(plan, root / "ledger")
    return {chart.name: chart for block in found.blocks.values() for chart in charts(block)}


def texts(chart: Chart) -> list[str]:
    return Page(chart.svg).text("text")


def test_a_chart_for_everything_there_is(drawn: dict[str, Chart]) -> None:
    assert list(drawn) == [
        "folds-steps",
        "folds-overlap",
        "folds-changes",
        "folds-density",
        "plain-by-sparsity",
        "plain-by-adapt-every",
    ]
    for chart in drawn.values():
        assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|"http://www.w3.org/Graphics/[^"]*"', "", chart.svg)
        assert "fill: #ffffff" in chart.svg and "sans-serif" in chart.svg


def test_steps(drawn: dict[str, Chart]) -> None:
    """The mean over seeds: each fold's WER is 0.1 higher than the one before; fixed, which lacks one, is left out."""
    described = drawn["folds-steps"].description
    assert "dynamic from 42.5% at step 50 to 30.0% at 100" in described
    assert "fixed" not in described
    assert {"dense", "dynamic", "Training step"} <= set(texts(drawn["folds-steps"]))


def test_a_dense_model_seen_on_another_part_of_dev_is_left_out(tmp_path: Path) -> None:
    data = as_data(claims=[])
    data["blocks"]["folds"]["dense"]["finetune"]["evaluation"] = {"utterances": 7, "choose": "last"}
    plan = planned(blocks=data["blocks"], claims=[])
    fill(plan, tmp_path)
    chart = next(charts(gather(plan, tmp_path / "ledger").blocks["folds"]))
    assert "dynamic" in texts(chart) and "dense" not in texts(chart)


def test_overlap(drawn: dict[str, Chart]) -> None:
    chart = drawn["folds-overlap"]
    assert texts(chart).count("0.75") == 2
    assert "dynamic before: mean 0.75, union 40%; dynamic after" in chart.description
    assert "seed 0" in chart.caption


def test_overlaps_of_other_seeds_name_no_single_one(tmp_path: Path) -> None:
    plan = planned()
    fill(plan, tmp_path)
    block = gather(plan, tmp_path / "ledger").blocks["folds"]
    row = block.rows["dynamic"]
    late = replace(
        row, entries={1: row.entries[1]}, row=replace(row.row, variant=replace(row.row.variant, name="late"))
    )
    found = replace(block, rows={**block.rows, "late": late})
    (chart,) = [chart for chart in charts(found) if chart.name == "folds-overlap"]
    assert "late before" in chart.description and "seed 0" not in chart.caption


def test_kept_shares_are_named_in_rising_order(tmp_path: Path) -> None:
    plan = planned()
    fill(plan, tmp_path)
    block = gather(plan, tmp_path / "ledger").blocks["folds"]
    row = block.rows["dynamic"]
    sparse = replace(row, row=replace(row.row, sparsity=0.925))
    found = replace(block, rows={**block.rows, "dynamic": sparse})
    (chart,) = [chart for chart in charts(found) if chart.name == "folds-density"]
    assert "keeps 7.5% or 30% of all" in chart.caption


def test_changes(drawn: dict[str, Chart]) -> None:
    described = drawn["folds-changes"].description
    assert "dynamic from 10.0% to 3.3%" in described and "adaptive from 10.0% to 3.3%" in described


def test_density(drawn: dict[str, Chart]) -> None:
    chart = drawn["folds-density"]
    assert texts(chart).count("40") == 2 * (4 + 5)  # two systems, four layers, five types
    assert {"front end", "1", "2", "predictor", "attention", "conv", "feed", "forward"} <= set(texts(chart))
    assert "a language by itself keeps 30% of all" in chart.caption


def test_varied(drawn: dict[str, Chart]) -> None:
    names = texts(drawn["plain-by-sparsity"])
    assert {"50%", "90%", "grown, adapt_every 5", "grown, adapt_every never", "dense"} <= set(names)
    names = texts(drawn["plain-by-adapt-every"])
    assert {"5", "never", "grown, sparsity 50%", "grown, sparsity 90%"} <= set(names)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("encoder.layers.3.feed_forward.1.weight", ("4", "feed_forward")),
        ("encoder.layers.0.attention.key_value.weight", ("1", "attention")),
        ("encoder.layers.11.conv.inwards.weight", ("12", "conv")),
        ("encoder.front_end.convs.0.weight", ("front_end", "front_end")),
        ("predictor.lstm.weight_hh_l0", ("predictor", "predictor")),
        ("model.encoder.layers.0.self_attn.q_proj.weight", ("1", "attention")),
        ("model.decoder.layers.2.fc1.weight", ("decoder 3", "feed_forward")),
        ("encoder.layers.0.other.weight", ("1", "other")),
    ],
)
def test_layers(tensor: str, expected: tuple[str, str]) -> None:
    assert layer_of(tensor) == expected


def test_rates_of_a_detailed_block(tmp_path: Path) -> None:
    blocks = as_data()["blocks"]
    blocks["folds"]["detailed"] = True
    plan = planned(blocks=blocks)
    fill(plan, tmp_path)
    block = gather(plan, tmp_path / "ledger").blocks["folds"]
    chart = next(charts(block))
    assert chart.name == "folds-wer" and {"English", "French", "Mean", "dense", "dynamic"} <= set(texts(chart))
    pooled = block.rows["dynamic"].pooled
    assert pooled is not None and f"dynamic {100 * pooled.wer:.1f}%" in chart.description
    assert "fixed" not in chart.description  # which lacks a seed


def test_every_method_is_drawn_and_no_two_alike() -> None:
    methods = ["dense", *METHODS, "dynamic", "dynamic", "dense"]
    drawn = looks(methods)
    assert len({str(look) for look in drawn}) == len(methods)
    assert drawn[-2]["color"] == drawn[methods.index("dynamic")]["color"]
    assert drawn[-1]["color"] != drawn[-2]["color"]


def test_lines_have_whiskers_and_hollow_marks() -> None:
    look, other = looks(["dynamic", "dense"])
    with _canvas(3.0) as (_, axes):
        points, intervals = [(0, 5), (1, 6), (2, 7)], [(4, 6), (5, 7), (6, 8)]
        draw_line(axes, "a $b$", look, points, hollow=[True, False, False], intervals=intervals)
        draw_level(axes, "dense <", other, 0.065)
        curve, hollow, level = axes.get_lines()
        assert list(curve.get_xdata()) == [0, 1, 2] and list(curve.get_ydata()) == [5, 6, 7]
        assert list(hollow.get_xdata()) == [0] and hollow.get_markerfacecolor() == "white"
        assert list(level.get_ydata()) == [6.5, 6.5]
        (whiskers,) = axes.collections
        assert [segment[:, 1].tolist() for segment in whiskers.get_segments()] == [[4, 6], [5, 7], [6, 8]]
        _, names = axes.get_legend_handles_labels()
        assert names == ["a $b$", "dense <"]


def test_heat_leaves_out_what_is_missing_and_shades_by_value() -> None:
    with _canvas(2.0) as (_, axes):
        draw_heat(axes, [[0.2, None], [1.0, 0.6]], "{:.1f}".format, ["a", "b"], ["c", "d"], 0.2)
        assert [text.get_text() for text in axes.texts] == ["0.2", "1.0", "0.6"]
        (mesh,) = axes.collections
        assert mesh.get_array().mask.ravel().tolist() == [False, True, False, False]
        low, _, one, mid = (mesh.norm(value) for value in (0.2, 0.0, 1.0, 0.6))
        assert low == 0 and 0 < mid < one < 0.7  # dark text stays readable
        assert axes.get_ylim() == (2, 0)
