"""docs/recipes.md has every key of a recipe, with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from asr_pathways.config import Config
from asr_pathways.data.augment import SpecAugmentConfig
from asr_pathways.data.batches import DataConfig
from asr_pathways.data.features import FeatureConfig
from asr_pathways.pruning import PathwayConfig
from asr_pathways.training.config import (
    EvaluationConfig,
    LoopConfig,
    ModelRecipe,
    OptimizerConfig,
    PruneRecipe,
    TrainRecipe,
)

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
PARTS: dict[str, type[Config]] = {
    "`model`": ModelRecipe,
    "`optimizer`": OptimizerConfig,
    "`data`": DataConfig,
    "`data.features`": FeatureConfig,
    "`data.spec_augment`": SpecAugmentConfig,
    "`evaluation`": EvaluationConfig,
    "`pathways`": PathwayConfig,
}


def default(field: FieldInfo) -> Any:
    """What a recipe that leaves the key out could say instead; of a part only what is not its own default."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, Config) else to_jsonable_python(value)


def defaults(kind: type[Config]) -> dict[str, Any]:
    return {name: default(field) for name, field in kind.model_fields.items()}


def own_defaults(kind: type[LoopConfig]) -> dict[str, Any]:
    """Those that not every loop has."""
    return {name: value for name, value in defaults(kind).items() if defaults(LoopConfig).get(name, kind) != value}


EXPECTED = {
    "Keys of `train` and `prune`": defaults(LoopConfig),
    "Keys of `train` alone": own_defaults(TrainRecipe),
    "Keys of `prune` alone": own_defaults(PruneRecipe),
    **{title: defaults(kind) for title, kind in PARTS.items()},
}


def documented() -> dict[str, dict[str, Any]]:
    """{heading: {key: default}}."""
    found: dict[str, dict[str, Any]] = {}
    for section in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
        found[title] = {key: yaml.safe_load(cell.strip("`")) for key, cell in rows}
    return found


def parts_of(kind: type[Config]) -> set[type[Config]]:
    """The configs that a config holds, at any depth."""
    found: set[type[Config]] = set()
    for field in kind.model_fields.values():
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and get_origin(one) is None and issubclass(one, Config):
                found |= {one} | parts_of(one)
    return found


@pytest.mark.parametrize("title", EXPECTED)
def test_every_key_is_there_with_its_default(title: str) -> None:
    assert documented()[title] == EXPECTED[title]


def test_no_part_is_forgotten() -> None:
    assert documented().keys() == EXPECTED.keys()
    assert parts_of(TrainRecipe) | parts_of(PruneRecipe) <= set(PARTS.values())
