"""A matrix of runs on sines that takes seconds: two folds, a table for each scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_pathways.data.corpus import build_corpus
from asr_pathways.experiment.recipe import ExperimentRecipe
from tests.conftest import LANGUAGES, WORDS, spoken

TRAINING: dict[str, Any] = {
    "data": {"max_seconds": 1.5, "prefetch": 0, "speed_factors": [1.0]},
    "evaluation": {"every": 2, "utterances": 1, "choose": "last"},
    "checkpoint_every": 1,
    "threads": 1,
}


@pytest.fixture(scope="session")
def sines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 texts of three words a language, so that each fold gets some for train, dev and test."""
    out = tmp_path_factory.mktemp("sines") / "data"
    with build_corpus(out, [{"name": "sines", "licence": "none", "attribution": "Sines by nobody"}]) as corpus:
        for language in LANGUAGES:
            for index in range(60):
                words = [WORDS[language][(index // place) % 5] for place in (1, 5, 25)]
                samples = spoken(words, language, index)
                corpus.add("train", f"{language}-{index:02d}", language, " ".join(words), samples)
    return out


def as_data(speech: Path, dense_model: Path) -> dict[str, Any]:
    """The recipe, as YAML would give it."""
    return {
        "title": "Sines",
        "data": {"sines": {"kind": "folder", "path": str(speech)}},
        "blocks": {
            "sines": {
                "about": "Two languages of sines.",
                "data": "sines",
                "folds": 2,
                "seeds": [0, 1],
                "dense": {"model": str(dense_model), "finetune": {"optimizer": {"steps": 2}, **TRAINING}},
                "recipe": {"optimizer": {"steps": 0}, "calibration_batches": 1, **TRAINING},
                "sparsity": 0.5,
                "words": 50,
                "systems": {
                    "dense": {"method": "dense", "table": "B"},
                    "fixed": {"method": "pathways", "table": "B", "steps": 3, "init": "IMP"},
                    "dynamic": {
                        "method": "dynamic",
                        "table": "B",
                        "steps": 4,
                        "vary": {"adapt_every": [1, 2]},
                        "seeds": [0],
                    },
                    "IMP": {"method": "imp", "table": "A", "languages": "each", "steps": 4},
                    "finetuned": {"method": "dense", "table": "A", "languages": "each", "steps": 4, "seeds": [1]},
                },
                "compare": [["fixed", "dense"]],
            }
        },
    }


@pytest.fixture
def recipe(sines: Path, dense_model: Path) -> ExperimentRecipe:
    return ExperimentRecipe.model_validate(as_data(sines, dense_model))


@pytest.fixture
def recipe_file(sines: Path, dense_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sines.yaml"
    path.write_text(yaml.safe_dump(as_data(sines, dense_model)))
    return path
