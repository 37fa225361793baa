"""The card of a MODEL: the data about it, which are read without torch."""

from __future__ import annotations

from typing import Literal

from asr_pathways.config import Config
from asr_pathways.data.features import FeatureConfig
from asr_pathways.models.config import TransducerConfig


class Card(Config):
    """The data about any model.

    Attributes:
        languages: those that it was trained on; empty if that is not known.
        attribution: as the sources of its data require.
        added: languages that were added with their own word pieces (`tokenizer-LANGUAGE.model`).
    """

    languages: tuple[str, ...] = ()
    attribution: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


class ModelCard(Card):
    """The contents of ``config.json`` in a folder of ours."""

    format: Literal["asr-pathways-model"] = "asr-pathways-model"
    version: Literal[1] = 1
    model: TransducerConfig
    features: FeatureConfig = FeatureConfig()


class HubCard(Card):
    """The contents of ``asr_pathways.json`` in a Hugging Face folder."""

    format: Literal["asr-pathways-hub"] = "asr-pathways-hub"
    version: Literal[1] = 1
