"""Prune a multilingual speech recogniser into per-language sparse sub-networks that adapt while they train."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_pathways.pruning import PathwayConfig, Pathways
    from asr_pathways.runtime.recognizer import Recognizer

__all__ = ["PathwayConfig", "Pathways", "Recognizer"]

_HOMES = {
    "PathwayConfig": "asr_pathways.pruning",
    "Pathways": "asr_pathways.pruning",
    "Recognizer": "asr_pathways.runtime.recognizer",
}


def __getattr__(name: str) -> Any:
    """Loads the public names on first use, so that importing the package does not import torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
