from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.recipe import Block, ExperimentRecipe, SystemSpec
from tests.experiment.conftest import as_data


def test_vary_makes_a_row_of_each_combination() -> None:
    spec = SystemSpec(method="dynamic", table="x", steps=8, pathways={"score": "magnitude"})
    (only,) = spec.variants("one")
    assert (only.name, only.base, only.varied, only.system) == ("one", "one", {}, spec)
    rows = list(spec.model_copy(update={"vary": {"sparsity": (0.5, 0.9), "adapt_every": (None, 4)}}).variants("one"))
    assert [row.name for row in rows] == [
        "one, sparsity 0.5, adapt_every none",
        "one, sparsity 0.5, adapt_every 4",
        "one, sparsity 0.9, adapt_every none",
        "one, sparsity 0.9, adapt_every 4",
    ]
    last = rows[-1]
    assert (last.base, last.varied) == ("one", {"sparsity": 0.9, "adapt_every": 4})
    assert last.system.sparsity == 0.9 and last.system.steps == 8 and not last.system.vary
    assert last.system.pathways == {"score": "magnitude", "adapt_every": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds: 1: seed k tests fold k"),
        ({"seeds": [0, 2]}, "folds: 2: seed k tests fold k"),
        ({"test": ["dev", "eval"]}, "test: unknown split 'eval'"),
        ({"data": "other"}, "blocks.sines: no corpus 'other'; there are: sines"),
        ({"compare": [["fixed", "LTH"]]}, "compare: there is no system 'LTH'"),
        ({"systems": {"a": {"method": "prune", "table": "B"}}, "compare": []}, "unknown method 'prune'"),
        (
            {"systems": {"a": {"method": "dynamic", "table": "B", "init": "lsp"}}, "compare": []},
            "systems.a: init 'lsp' is neither omp nor a system that prunes",
        ),
        ({"systems": {"a": {"method": "dynamic", "table": "B", "init": "a"}}, "compare": []}, "start from its own"),
        ({"systems": {"a": {"method": "imp", "table": "B", "seeds": [7]}}, "compare": []}, "seed 7 is none"),
        ({"systems": {"a": {"method": "dense", "table": "B", "sparsity": 0.5}}, "compare": []}, "dense has no masks"),
        ({"epochs": 3}, "blocks.sines.epochs: unknown key"),
        (
            {"systems": {"a": {"method": "dense", "table": "B", "data": "sines"}}, "compare": []},
            "systems.a: data: the block's folds are of its own corpus: leave it out",
        ),
        (
            {"systems": {"a": {"method": "dense", "table": "B", "data": "x"}}, "compare": [], "folds": 0, "seeds": [0]},
            "blocks.sines.a: no corpus 'x'; there are: sines",
        ),
    ],
)
def test_what_does_not_fit_is_named(sines: Path, dense_model: Path, change: dict[str, Any], message: str) -> None:
    data = copy.deepcopy(as_data(sines, dense_model))
    data["blocks"]["sines"] |= change
    with pytest.raises(PathwaysError) as caught:
        parse_config(ExperimentRecipe, data, "recipe.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_two_rows_of_one_name_are_refused(sines: Path, dense_model: Path) -> None:
    """The second would stand in the first one's place."""
    block = copy.deepcopy(as_data(sines, dense_model)["blocks"]["sines"])
    varied = {"method": "dynamic", "table": "B", "steps": 1, "vary": {"sparsity": [0.5, 0.6]}}
    block["systems"] |= {"grown": varied, "grown, sparsity 0.5": {**varied, "vary": {}}}
    with pytest.raises(PathwaysError, match=r"systems: two rows have the name 'grown, sparsity 0\.5'"):
        parse_config(Block, block, "recipe.yaml")


def test_merged_corpora_are_made_of_others(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    for of, message in (
        (["sines", "other"], "data.both.of.1: no corpus 'other'; there are: sines, both"),
        (["sines", "both"], "data.both: 'both' is merged itself: name what it is made of"),
    ):
        merged = {**data["data"], "both": {"kind": "merged", "of": of}}
        with pytest.raises(PathwaysError) as caught:
            parse_config(ExperimentRecipe, {**data, "data": merged}, "recipe.yaml")
        assert message in str(caught.value)


def test_a_corpus_to_train_on_tests_what_the_block_tests(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    spoken = {"kind": "synth", "texts": "numbers", "hours": 0.1}
    block = {**data["blocks"]["sines"], "folds": 0, "seeds": [0], "compare": []}
    block["systems"] = {"more": {"method": "dynamic", "table": "B", "steps": 1, "data": "both"}}
    for held_out, of, message in (
        (0, ["sines", "spoken"], None),
        (0.1, ["sines", "spoken"], "blocks.sines.more: data 'both' is to be merged of 'sines', on which the block is"),
        (0, ["spoken"], "blocks.sines.more: data 'both' is to be merged of 'sines', on which the block is"),
    ):
        corpora = {"spoken": {**spoken, "held_out": held_out}, "both": {"kind": "merged", "of": of}}
        values = {**data, "data": {**data["data"], **corpora}, "blocks": {"sines": block}, "claims": []}
        if message is None:
            parse_config(ExperimentRecipe, values, "recipe.yaml")
            continue
        with pytest.raises(PathwaysError) as caught:
            parse_config(ExperimentRecipe, values, "recipe.yaml")
        assert message in str(caught.value)
    circle = {"spoken": {**spoken, "exclude": "both"}, "both": {"kind": "merged", "of": ["spoken"]}}
    with pytest.raises(PathwaysError, match=r"data\.spoken: exclude: 'both' is itself, or merged"):
        parse_config(ExperimentRecipe, {**data, "data": {**data["data"], **circle}}, "recipe.yaml")


def test_claims_and_main_name_what_is_there(sines: Path, dense_model: Path) -> None:
    data = as_data(sines, dense_model)
    claim = {"says": "fixed is better", "block": "sines", "better": "fixed", "than": "dense"}
    assert ExperimentRecipe.model_validate({**data, "claims": [claim], "main": "sines"}).claims[0].than == "dense"
    for extra, message in (
        ({"claims": [{**claim, "than": "LTH"}]}, "there is no system 'LTH' in block 'sines'"),
        ({"claims": [{**claim, "block": "x"}]}, "there is no system 'fixed' in block 'x'"),
        ({"main": "x"}, "main: 'x' is none of the blocks: sines"),
        ({"readme": "README.md"}, "main: None is none of the blocks"),
    ):
        with pytest.raises(PathwaysError, match=message):
            parse_config(ExperimentRecipe, {**data, **extra}, "recipe.yaml")


def test_the_papers_recipe_is_valid() -> None:
    recipe = ExperimentRecipe.read(Path(__file__).parents[2] / "recipes" / "paper.yaml")
    for block in recipe.blocks.values():
        assert {row.system.table for row in block.rows().values()} >= {"A", "B"}
