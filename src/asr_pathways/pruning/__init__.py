"""Pruning: named masks over any `torch.nn.Module`, that adapt while it trains. Knows nothing of speech."""

from asr_pathways.pruning.config import PathwayConfig
from asr_pathways.pruning.methods import METHODS, Method
from asr_pathways.pruning.pathways import Pathways
from asr_pathways.pruning.prunable import matching
from asr_pathways.pruning.summary import MaskEvent, Summary

__all__ = ["METHODS", "MaskEvent", "Method", "PathwayConfig", "Pathways", "Summary", "matching"]
