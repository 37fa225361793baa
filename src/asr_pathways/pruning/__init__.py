"""Pruning: named masks over any `torch.nn.Module`, that adapt while it trains. Independent of speech."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_pathways.pruning.config import PathwayConfig
    from asr_pathways.pruning.methods import METHODS, Method
    from asr_pathways.pruning.pathways import Pathways
    from asr_pathways.pruning.prunable import matching
    from asr_pathways.pruning.summary import MaskEvent, Summary

__all__ = ["METHODS", "MaskEvent", "Method", "PathwayConfig", "Pathways", "Summary", "matching"]

_FILES = {"METHODS": "methods", "Method": "methods", "MaskEvent": "summary", "Summary": "summary"}
_FILES |= {"PathwayConfig": "config", "Pathways": "pathways", "matching": "prunable"}


def __getattr__(name: str) -> Any:
    """Loads the public names on first use, so that reading a config or a bundle does not import torch."""
    if name in _FILES:
        return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
