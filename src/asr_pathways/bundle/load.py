"""Loading any MODEL: a folder of this package, a Hugging Face folder, a name on the hub, or a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import IDENTIFIER
from asr_pathways.model_folder.folder import load_folder
from asr_pathways.model_folder.language_id import LanguageIdentifier
from asr_pathways.model_folder.model import AsrModel


def load_model(model: Path | str, device: torch.device | str = "cpu") -> AsrModel:
    """Reads a MODEL: a folder of this package, a Hugging Face folder, the name of a model on the hub, or a bundle.

    Raises:
        PathwaysError: if a part is missing, truncated, foreign or does not fit the others.
    """
    path = Path(model)
    if not is_bundle(path):
        return load_folder(model, device)
    asr = Bundle.open(path).model()
    asr.model.to(device)
    return asr


def load_identifier(model: Path | Bundle) -> LanguageIdentifier:
    """The language identifier of a MODEL folder or of a bundle, which may be open.

    Raises:
        PathwaysError: if there is none, or it is broken.
    """
    if isinstance(model, Path) and not is_bundle(model):
        return LanguageIdentifier.load(model)
    bundle = Bundle.open(model) if isinstance(model, Path) else model
    if not bundle.has(IDENTIFIER):
        raise PathwaysError(
            f"{bundle.path}: cannot tell languages apart: teach the model folder with `asr-pathways identify`, "
            "and export all of its languages again"
        )
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        (Path(temporary) / IDENTIFIER).write_bytes(bundle.file(IDENTIFIER))
        return LanguageIdentifier.read(Path(temporary) / IDENTIFIER, bundle.path / IDENTIFIER)
