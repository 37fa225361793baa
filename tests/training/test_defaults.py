from __future__ import annotations

from pathlib import Path

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.defaults import default_method, finetune_recipe, oneshot_recipe, prune_recipe
from tests.conftest import make_model
from tests.models.hub.tiny import hubert, whisper

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_whispers_defaults_are_those_of_the_recipes(tmp_path: Path) -> None:
    model = load_model(whisper(tmp_path / "whisper")).model
    assert prune_recipe(model) == PruneRecipe.read(RECIPES / "prune_whisper.yaml")
    assert oneshot_recipe(model) == PruneRecipe.read(RECIPES / "oneshot.yaml")
    assert finetune_recipe() == TrainRecipe.read(RECIPES / "finetune_whisper.yaml")
    assert default_method(model) == "pathways"  # masks that stay


def test_another_model_of_the_hub_gets_what_it_can_learn_from(tmp_path: Path) -> None:
    model = load_model(hubert(tmp_path / "model")).model
    recipe = prune_recipe(model)
    assert (recipe.soft_targets, recipe.distillation, recipe.refit_batches) == (1.0, 0.0, 12)
    assert recipe.pathways == {"hysteresis": 0.3}
    assert (oneshot_recipe(model).pathways, oneshot_recipe(model).refit_steps) == ({}, 12)
    assert default_method(model) == "dynamic"


def test_a_transducer_of_ours_has_the_plain_defaults(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer).model
    assert (prune_recipe(model), default_method(model)) == (PruneRecipe(), "dynamic")
