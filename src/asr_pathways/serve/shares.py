"""How much of a model each pathway keeps."""

from __future__ import annotations

import math
from pathlib import Path

from asr_pathways.bits import popcount
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.reading import Reader
from asr_pathways.pruning.storage import read_folder


def kept_shares(model: Path) -> dict[str, float]:
    """{language: share of the prunable weights that its pathway keeps}; empty for a dense model.

    Raises:
        PathwaysError: if a part of the MODEL is broken.
    """
    if is_bundle(model):
        bundle = Reader.open(model)
        shapes = bundle.layout.prunable
        counts = {key: sum(popcount(bundle.mask_bits(key, name)) for name in shapes) for key in bundle.layout.keys}
        languages = {language: bundle.layout.key(language) for language in bundle.languages}
    elif (model / "pathways").is_dir():
        stored = read_folder(model / "pathways")
        shapes = stored.description.tensors
        counts = {key: sum(popcount(bits.numpy()) for bits in masks.values()) for key, masks in stored.masks.items()}
        only = next(iter(counts))
        languages = {language: language if language in counts else only for language in stored.description.languages}
    else:
        return {}
    total = sum(math.prod(shape) for shape in shapes.values())
    return {language: counts[key] / total for language, key in languages.items()} if total else {}
