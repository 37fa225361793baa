from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.defaults import finetune_recipe, oneshot_recipe, prune_recipe
from tests.conftest import make_model
from tests.models.hub.tiny import hubert, whisper

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_whispers_defaults_are_those_of_the_recipes(tmp_path: Path) -> None:
    model = load_model(whisper(tmp_path / "whisper")).model
    assert prune_recipe(model) == PruneRecipe.read(RECIPES / "prune_whisper.yaml")
    assert oneshot_recipe(model) == PruneRecipe.read(RECIPES / "oneshot.yaml")
    assert finetune_recipe() == TrainRecipe.read(RECIPES / "finetune_whisper.yaml")


@pytest.mark.parametrize(("make", "distils"), [(whisper, True), (hubert, False)])
def test_a_model_of_the_hub_gets_what_it_can_learn_from(
    tmp_path: Path, make: Callable[[Path], Path], distils: bool
) -> None:
    model = load_model(make(tmp_path / "model")).model
    recipe = prune_recipe(model)
    assert (recipe.soft_targets, recipe.distillation > 0, recipe.refit_batches) == (1.0, distils, 12)


def test_a_transducer_of_ours_has_the_plain_defaults(tokenizer: Tokenizer) -> None:
    assert prune_recipe(make_model(tokenizer).model) == PruneRecipe()
