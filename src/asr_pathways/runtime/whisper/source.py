"""The tensors and files of a Whisper MODEL, as NumPy arrays: of a bundle without torch, of a folder by torch."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bundle.layout import EMBEDDING, FILES, HUB, BundleError
from asr_pathways.bundle.reading import Reader
from asr_pathways.errors import PathwaysError
from asr_pathways.files import parse_json
from asr_pathways.model_folder.card import HubCard
from asr_pathways.runtime.kernels.extension import built

ARCHITECTURE = "WhisperForConditionalGeneration"


class WhisperSource(Protocol):
    """A Whisper model with its pathways.

    Attributes:
        where: its name in errors.
        languages: those that it recognises.
        added: those of them whose tensors that no mask covers are their own.
        granularity: of its masks.
        config, generation, preprocessor: its JSON files; empty where it has none.
        files: the bytes of the tokenizer's files by their names.
    """

    where: str
    languages: tuple[str, ...]
    added: Collection[str]
    granularity: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    files: Mapping[str, bytes]

    def pathway(self, language: str) -> str:
        """The name of the language's weights: the same for languages that share them all."""

    def vocabulary(self, language: str) -> NDArray[np.int32] | None:
        """The tokens that the language's pathway may write: (k,), sorted; None: all.

        Raises:
            PathwaysError: if that part of the model is broken.
        """

    def tensor(self, name: str, language: str) -> NDArray[Any]:
        """A tensor under the language's pathway, zeros where its mask keeps nothing: float32, or the embedding float16.

        Raises:
            PathwaysError: if there is none of that name, or it is broken.
        """


class BundleSource:
    """A Whisper in a bundle.

    Raises:
        BundleError: if it is of another model, or broken.
    """

    def __init__(self, bundle: Reader) -> None:
        self._bundle = bundle
        self.where = str(bundle.path)
        self.languages = bundle.languages
        self.added: Collection[str] = bundle.config.pathways.added
        self.granularity = bundle.config.pathways.config.granularity
        names = bundle.layout.under(FILES + HUB)
        self.files: Mapping[str, bytes] = {name: bundle.file(HUB + name) for name in names}
        self.config, self.generation, self.preprocessor = _configs(self.files, f"{self.where}: hub")

    def pathway(self, language: str) -> str:
        return language if language in self.added else self._bundle.layout.key(language)

    def vocabulary(self, language: str) -> NDArray[np.int32] | None:
        return self._bundle.vocabulary(language)

    def tensor(self, name: str, language: str) -> NDArray[Any]:
        bundle, layout = self._bundle, self._bundle.layout
        if name not in layout.tensors:
            raise BundleError(f"{self.where}: no tensor {name}")
        if name in layout.prunable:
            shape, key = layout.prunable[name], layout.key(language)
            values, bits = bundle.union_array(name), bundle.pathway_bits(key, name)
            dense = built().expand(values, *bits, shape[0], int(np.prod(shape[1:])))
            return np.asarray(dense).reshape(shape)
        stored = bundle.values(name, language if name in layout.under_language(language) else None)
        if name == EMBEDDING and stored.scales is None:
            return stored.values
        return stored.floats()


class FolderSource:
    """A Whisper in memory, by torch and transformers: a run folder, a Hugging Face folder or a name on the hub.

    Attributes:
        asr: the `AsrModel`.
        lock: of it: no pathway may be in use while the weights of one are read.
    """

    def __init__(self, asr: Any, where: str) -> None:
        """``asr``: an `AsrModel` whose model is a Whisper."""
        self.asr = asr
        self.where, self.languages = where, asr.languages
        self.added: Collection[str] = () if asr.pathways is None else asr.pathways.added
        self.granularity = "unstructured" if asr.pathways is None else asr.pathways.config.granularity
        self.files: Mapping[str, bytes] = asr.model.files()
        self.config, self.generation, self.preprocessor = _configs(self.files, where)
        self._state: Mapping[str, Any] = {}
        self._language: str | None = None
        self.lock = threading.Lock()

    def pathway(self, language: str) -> str:
        pathways = self.asr.pathways
        if pathways is None:
            return ""
        return "" if pathways.config.shared and language not in self.added else language

    def vocabulary(self, language: str) -> NDArray[np.int32] | None:
        return None

    def tensor(self, name: str, language: str) -> NDArray[Any]:
        if not self._state or self._language != language:  # of one language at a time: it is as large as the model
            pathways = self.asr.pathways
            with self.lock:
                self._state = self.asr.model.network.state_dict() if pathways is None else pathways.extract(language)
            self._language = language
        if name not in self._state:
            raise PathwaysError(f"{self.where}: no tensor {name}")
        array: NDArray[Any] = self._state[name].detach().float().cpu().numpy()
        return array


def is_whisper(bundle: Reader) -> bool:
    """Whether a bundle is of a Whisper."""
    if not isinstance(bundle.config.card, HubCard) or not bundle.has(f"{HUB}config.json"):
        return False
    config = _json(bundle.file(f"{HUB}config.json"), f"{bundle.path}: {HUB}config.json")
    return ARCHITECTURE in (config.get("architectures") or ())


def _configs(files: Mapping[str, bytes], where: str) -> list[Mapping[str, Any]]:
    names = ("config.json", "generation_config.json", "preprocessor_config.json")
    return [_json(files.get(name), f"{where}/{name}") for name in names]


def _json(content: bytes | None, where: str) -> Mapping[str, Any]:
    if content is None:
        return {}
    try:
        parsed = parse_json(content.decode())
    except ValueError as error:
        raise PathwaysError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise PathwaysError(f"{where}: not a JSON object")
    return parsed
