"""How a cache-aware transducer streams, by its ``processor_config.json``: look-aheads, and prompts of languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_pathways.data.languages import is_language, known_language, plain_language
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json, write_json
from asr_pathways.models.hub.base import Source
from asr_pathways.models.hub.files import file_of

PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class CacheAware:
    """How a model streams.

    Attributes:
        lookahead: frames of the encoder that the first frame of a chunk sees after itself, where nobody chooses.
        lookaheads: those that it was trained with.
        prompts: {language: the number of its prompt}; empty: the network is not told the language.
    """

    lookahead: int
    lookaheads: tuple[int, ...]
    prompts: Mapping[str, int]

    def prompt(self, language: str) -> int | None:
        """The number of the prompt that tells the network a language; None: it takes none.

        Raises:
            PathwaysError: if it has none of this language.
        """
        if not self.prompts:
            return None
        return self.prompts[known_language(language, self.prompts)]


class ProcessorFile:
    """A part of a model: its ``processor_config.json``, which is saved as it was.

    Args:
        content: of the file; None: the model has none.
    """

    def __init__(self, content: dict[str, Any] | None) -> None:
        self.content = content

    @classmethod
    def read(cls, source: Source) -> ProcessorFile:
        """Of a model's folder or name.

        Raises:
            PathwaysError: if it is not a JSON object.
        """
        path = file_of(source, PROCESSOR)
        content = None if path is None else read_json(path)
        if content is not None and not isinstance(content, dict):
            raise PathwaysError(f"{path}: not a JSON object")
        return cls(content)

    def save_pretrained(self, folder: str) -> None:
        """Writes it."""
        if self.content is not None:
            write_json(Path(folder) / PROCESSOR, self.content)

    def cache_aware(self, config: Any) -> CacheAware:
        """How the model with a config streams; what the file does not say is as in transformers.

        Raises:
            PathwaysError: for numbers that are no look-ahead, or a prompt that the network does not have.
        """
        from transformers.models.nemotron_asr_streaming import processing_nemotron_asr_streaming as processing

        stated, default = self.content or {}, int(config.encoder_config.default_num_lookahead_tokens)
        usual = processing.DEFAULT_NUM_LOOKAHEAD_TOKENS
        lookaheads = stated.get("supported_num_lookahead_tokens") or usual
        if not isinstance(lookaheads, list) or not all(type(one) is int and one >= 0 for one in [*lookaheads, default]):
            raise PathwaysError(f"{PROCESSOR}: supported_num_lookahead_tokens: numbers of frames are needed")
        count = getattr(config, "num_prompts", 0)
        return CacheAware(
            default, tuple(sorted({*lookaheads, default})), _prompts(stated, count) if count else dict[str, int]()
        )


def _prompts(stated: Mapping[str, Any], count: int) -> dict[str, int]:
    """By language codes, and by those with a region where they have a prompt of their own; other names are left out."""
    from transformers.models.nemotron3_5_asr import processing_nemotron3_5_asr as processing

    numbers: Any = stated.get("prompt_dictionary") or processing.DEFAULT_PROMPT_DICTIONARY
    if not isinstance(numbers, dict) or not all(type(one) is int and 0 <= one < count for one in numbers.values()):
        raise PathwaysError(f"{PROCESSOR}: prompt_dictionary: numbers from 0 to {count - 1} by languages are needed")
    codes = [code for code in numbers if is_language(code)]
    prompts: dict[str, int] = {}
    for code in codes:
        plain = plain_language(code)
        prompts.setdefault(plain, numbers[plain if plain in numbers else code])
    return prompts | {code: numbers[code] for code in codes if numbers[code] != prompts[plain_language(code)]}
