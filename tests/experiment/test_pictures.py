from __future__ import annotations

import re
from pathlib import Path

import pytest

from asr_pathways.experiment.document import Picture
from asr_pathways.experiment.findings import gather
from asr_pathways.experiment.pictures import layer_of, pictures
from tests.evaluation.test_report import Page
from tests.experiment.example import as_data, fill, planned


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Picture]:
    root, plan = tmp_path_factory.mktemp("experiment"), planned()
    fill(plan, root)
    found = gather(plan, root / "ledger")
    return {picture.name: picture for block in found.blocks.values() for picture in pictures(block)}


def texts(picture: Picture) -> list[str]:
    return Page(picture.svg).text("text")


def test_a_figure_for_everything_there_is(drawn: dict[str, Picture]) -> None:
    assert list(drawn) == [
        "folds-steps",
        "folds-overlap",
        "folds-changes",
        "folds-density",
        "plain-by-sparsity",
        "plain-by-adapt-every",
    ]
    for picture in drawn.values():
        assert re.findall(r"#[0-9a-f]{6}\b", picture.svg) == []  # the page's colours only
        assert picture.description in Page(picture.svg).text("title")


def test_steps(drawn: dict[str, Picture]) -> None:
    """The mean over seeds: each fold's WER is 0.1 higher than the one before; fixed, which lacks one, is left out."""
    told = drawn["folds-steps"].description
    assert "dynamic from 42.5% at step 50 to 30.0% at 100" in told
    assert "fixed" not in told
    assert {"dense", "dynamic", "Training step"} <= set(texts(drawn["folds-steps"]))


def test_a_dense_model_seen_on_another_part_of_dev_is_left_out(tmp_path: Path) -> None:
    data = as_data(claims=[])
    data["blocks"]["folds"]["dense"]["finetune"]["evaluation"] = {"utterances": 7, "choose": "last"}
    plan = planned(blocks=data["blocks"], claims=[])
    fill(plan, tmp_path)
    picture = next(pictures(gather(plan, tmp_path / "ledger").blocks["folds"]))
    assert "dynamic" in texts(picture) and "dense" not in texts(picture)


def test_overlap(drawn: dict[str, Picture]) -> None:
    picture = drawn["folds-overlap"]
    assert texts(picture).count("0.75") == 2
    assert "dynamic before: mean 0.75, union 40%; dynamic after" in picture.description
    assert "seed 0" in picture.caption


def test_changes(drawn: dict[str, Picture]) -> None:
    told = drawn["folds-changes"].description
    assert "dynamic from 10.0% to 3.3%" in told and "adaptive from 10.0% to 3.3%" in told


def test_density(drawn: dict[str, Picture]) -> None:
    picture = drawn["folds-density"]
    assert texts(picture).count("40") == 2 * (4 + 5)  # two systems, four layers, five types
    assert {"front end", "1", "2", "predictor", "attention", "conv", "feed", "forward"} <= set(texts(picture))
    assert "a language by itself keeps 30 everywhere" in picture.caption


def test_varied(drawn: dict[str, Picture]) -> None:
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
