from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.models.presets import preset
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    if path.name.startswith(("prune", "oneshot")):
        recipe = PruneRecipe.read(path)
        assert recipe.optimizer.steps > 0 or path.name == "oneshot.yaml"
    elif "blocks" in yaml.safe_load(path.read_text(encoding="utf-8")):
        assert make_plan(ExperimentRecipe.read(path)).cells
    else:
        dense = TrainRecipe.read(path)
        assert dense.optimizer.steps > dense.optimizer.warmup_steps + dense.optimizer.hold_steps
        assert preset(dense.model.preset, dense.model.vocab_size).vocab_size == dense.model.vocab_size


def test_there_are_recipes() -> None:
    assert list(RECIPES.glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {steps: 5, learning_rate: 1}", "x.yaml: optimizer.learning_rate: unknown key"),
        ("optimizer: {steps: 5}\nepochs: 3", "x.yaml: epochs: unknown key"),
        ("optimizer: {steps: 5}\nevaluation: {choose: last, patience: 2}", "patience needs choose: best"),
        ("optimizer: {steps: -1}", "x.yaml: optimizer.steps: Input should be greater than or equal to 0"),
        ("optimizer: {steps: 5}\ndata: {max_secs: 3}", "x.yaml: data.max_secs: unknown key"),
        ("optimizer: {steps: 5}\nevaluation: {every: 0}", "x.yaml: evaluation.every: Input should be greater than 0"),
        ("optimizer: {steps: 5}\nprecision: 8-bit", "x.yaml: precision: Input should be '32-true' or 'bf16-mixed'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(PathwaysError, match=message) as caught:
        PruneRecipe.read(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(PathwaysError, match=message):
        TrainRecipe.read(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"optimizer": {"steps": 1, "betas": [0.9, 1.0]}}, "optimizer.betas.1"),
        ({"optimizer": {"steps": 1, "betas": [-0.1, 0.9]}}, "optimizer.betas.0"),
        ({"optimizer": {"steps": 1, "peak_lr": float("inf")}}, "optimizer.peak_lr"),
        ({"optimizer": {"steps": 1, "peak_lr": float("nan")}}, "optimizer.peak_lr"),
        ({"optimizer": {"steps": 1, "weight_decay": float("inf")}}, "optimizer.weight_decay"),
        ({"optimizer": {"steps": 1}, "seed": 1 << 63}, "seed"),
        ({"optimizer": {"steps": 1}, "seed": -1}, "seed"),
        ({"optimizer": {"steps": 1}, "threads": 1 << 20}, "threads"),
    ],
)
def test_values_that_torch_would_refuse_with_a_traceback(options: dict[str, Any], key: str) -> None:
    with pytest.raises(PathwaysError, match=f"recipe: {key}: Input should be"):
        parse_config(LoopConfig, options, "recipe")


def test_steps_on_blocks_need_data() -> None:
    with pytest.raises(PathwaysError, match="recipe: refit_steps needs refit_batches"):
        parse_config(PruneRecipe, {"refit_steps": 3}, "recipe")
