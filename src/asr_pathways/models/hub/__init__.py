"""Hugging Face models behind the interface `SpeechModel`: their modules, names and folders stay as they are."""

from asr_pathways.models.hub.load import load_hub_model, own_model_folder

__all__ = ["load_hub_model", "own_model_folder"]
