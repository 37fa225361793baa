"""Prune a multilingual speech recogniser into per-language sparse sub-networks that adapt while they train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_pathways.pruning import PathwayConfig, Pathways

__all__ = ["PathwayConfig", "Pathways"]


def __getattr__(name: str) -> Any:
    """Loads the public names on first use, so that importing the package does not import torch."""
    if name in __all__:
        from asr_pathways import pruning

        return getattr(pruning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
