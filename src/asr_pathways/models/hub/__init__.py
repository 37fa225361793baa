"""Hugging Face models behind the same small face as ours: nothing in them is changed, their folders stay theirs."""

from asr_pathways.models.hub.load import load_hub_model, own_model_folder

__all__ = ["load_hub_model", "own_model_folder"]
