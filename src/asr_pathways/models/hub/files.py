"""The files of a Hugging Face model before transformers reads them: nothing that runs code or takes much memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json
from asr_pathways.models.hub.base import Source
from asr_pathways.models.weights import stored_shapes

CONFIGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")

LARGEST_NUMBER = 1 << 20
"""In a config; numbers from `ENDLESS` on mean that there is no limit, as does any in a tokenizer's."""
ENDLESS = 10**18
_OF_TOKENIZERS = "model_max_length"

LARGEST_FILTERS = 1 << 20
"""Items of a feature extractor's filter bank, which is made at once: twenty times Whisper's."""


def check_configs(source: Source) -> None:
    """Refuses configs that ask for code of their own, or for more than a model can have.

    Raises:
        PathwaysError: naming the file and what is in it.
    """
    for name in CONFIGS:
        path = file_of(source, name)
        if path is not None:
            _check(read_json(path), f"{source}/{name}")


def weight_shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a model's files of weights, by name; from their headers.

    Raises:
        PathwaysError: if there are none, one is broken, or the index names anything but safetensors files beside it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weights(source):
        shapes |= stored_shapes(path)
    return shapes


def file_of(source: Source, name: str) -> Path | None:
    """A file of a model's folder, or of a model on the hub, which is fetched; None if there is none."""
    if Path(source.name).is_dir():
        path = Path(source.name) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source.name, name, revision=source.revision))
    except EntryNotFoundError:
        return None


def _weights(source: Source) -> list[Path]:
    single = file_of(source, WEIGHTS)
    if single is not None:
        return [single]
    index = file_of(source, INDEX)
    if index is None:
        raise PathwaysError(f"{source}: no {WEIGHTS} there, or none that can be fetched: no other form is read")
    raw = read_json(index)
    named = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(named, dict) or not named:
        raise PathwaysError(f"{source}/{INDEX}: names no files of weights")
    paths = []
    for name in sorted(set(map(str, named.values()))):
        if not _SHARD.fullmatch(name):
            raise PathwaysError(f"{source}/{INDEX}: names {name!r:.100}: only safetensors files beside it are read")
        path = file_of(source, name)
        if path is None:
            raise PathwaysError(f"{source}/{INDEX}: names {name}, which is not there")
        paths.append(path)
    return paths


def _check(config: Any, where: str) -> None:
    """At any depth. Lists and filter banks are allocated by these numbers before there is a model to compare with."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return
    if "auto_map" in config:
        raise PathwaysError(f"{where}: asks for code of its own, which is not run")
    if "transformers_weights" in config:
        raise PathwaysError(f"{where}: transformers_weights: weights are read from {WEIGHTS} only")
    for key, value in config.items():
        if key != _OF_TOKENIZERS and isinstance(value, int) and LARGEST_NUMBER < abs(value) < ENDLESS:
            raise PathwaysError(f"{where}: {key}: {value:,} is more than a model can have")
        _check(value, where)
    bins, window = config.get("feature_size", 1), config.get("n_fft", 1)
    if isinstance(bins, int) and isinstance(window, int) and bins * window > LARGEST_FILTERS:
        raise PathwaysError(f"{where}: a filter bank of {bins:,} by {window:,} is more than a model can have")
