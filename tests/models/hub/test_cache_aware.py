"""What a cache-aware model's processor_config.json says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.models.hub.cache_aware import CacheAware
from asr_pathways.models.hub.transducer import HubTransducer

Maker = Callable[[str], Path]


def cache_aware(folder: Path) -> CacheAware:
    model = load_model(folder).model
    assert isinstance(model, HubTransducer) and model.cache_aware is not None
    return model.cache_aware


def test_languages_have_the_prompts_of_the_file(hub_folder: Maker) -> None:
    found = cache_aware(hub_folder("nemotron_prompts"))
    assert found.prompts == {"en": 0, "fr": 1, "fr-CA": 2, "de": 3}
    assert [found.prompt(code) for code in ("en-GB", "fra", "fr-CA", "fr-BE", "de-DE")] == [0, 1, 2, 1, 3]
    assert (found.lookahead, found.lookaheads) == (1, (0, 1, 3))
    with pytest.raises(PathwaysError, match="unknown language 'ru': this model knows en fr de fr-CA"):
        found.prompt("ru")


def test_without_the_file_choices_are_those_of_transformers(hub_folder: Maker, tmp_path: Path) -> None:
    found = cache_aware(hub_folder("nemotron"))
    assert (found.lookahead, found.lookaheads, found.prompts) == (1, (0, 1, 6, 13), {})
    assert found.prompt("ru") is None


def test_the_file_is_saved_as_it_was(hub_folder: Maker, tmp_path: Path) -> None:
    save_model(tmp_path, load_model(hub_folder("nemotron_prompts")))
    name = "processor_config.json"
    assert read_json(tmp_path / name) == read_json(hub_folder("nemotron_prompts") / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_dictionary": {"fr": 5}}, "prompt_dictionary: numbers from 0 to 4 by languages are needed"),
        ({"prompt_dictionary": ["fr"]}, "prompt_dictionary: numbers from 0 to 4 by languages are needed"),
        ({"supported_num_lookahead_tokens": [1, -1]}, "supported_num_lookahead_tokens: numbers of frames are needed"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: dict[str, object], message: str, hub_folder: Maker, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(hub_folder("nemotron_prompts"), folder)
    path = folder / "processor_config.json"
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(PathwaysError, match=f"^{folder}: processor_config.json: {message}"):
        load_model(folder)
