"""The card of a MODEL: the data about it, which are read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from asr_pathways.config import Config
from asr_pathways.data.features import FeatureConfig
from asr_pathways.models.config import TransducerConfig

IDENTIFIER = "language_id.safetensors"
"""The file of a model's language identifier, if it has one: in its folder, or in its bundle."""


def _word(code: str) -> str:
    if not code or not code.isprintable() or set(code) & set(" /\\"):
        raise ValueError(f"{code!r:.100}: the code of a language is one word, without slashes")
    return code


Code = Annotated[str, AfterValidator(_word)]
"""Of a language; it is in names of files and in lines that people read."""


class Card(Config):
    """The data about any model.

    Attributes:
        languages: those that it was trained on; empty if that is not known.
        attribution: as the sources of its data require.
        added: languages that were added with their own word pieces (`tokenizer-LANGUAGE.model`).
        quality: of a pruned model: its WER on dev beside the dense one's, and a warning if it is not usable.
    """

    languages: tuple[Code, ...] = ()
    attribution: tuple[str, ...] = ()
    added: tuple[Code, ...] = ()
    quality: str = ""


class ModelCard(Card):
    """The contents of ``config.json`` in a folder of ours."""

    format: Literal["asr-pathways-model"] = "asr-pathways-model"
    version: Literal[1] = 1
    model: TransducerConfig
    features: FeatureConfig = FeatureConfig()


class HubCard(Card):
    """The contents of ``asr_pathways.json`` in a Hugging Face folder.

    Attributes:
        base: the name on the hub of the model that it was made from, if it was read by a name.
    """

    format: Literal["asr-pathways-hub"] = "asr-pathways-hub"
    version: Literal[1] = 1
    base: str | None = None
