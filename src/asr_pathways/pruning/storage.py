"""Pathways on disk: a folder of pathways.json and masks.safetensors (one bit a weight), written whole or not at all.

Where languages were added, own.safetensors has their tensors outside the masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pydantic import Field, model_validator
from safetensors import SafetensorError

from asr_pathways.bits import packed_size
from asr_pathways.config import Config, parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder, read_json, refuse_pipes, write_json
from asr_pathways.pruning.config import PathwayConfig

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTION = "pathways.json"
MASKS = "masks.safetensors"
LANGUAGE_TENSORS = "own.safetensors"
FORMAT: Final = "asr-pathways masks"
VERSION = 1


class Addition(Config):
    """How a language was added: the arguments of `Pathways.add`."""

    sparsity: float = Field(ge=0, lt=1)
    reuse: float = Field(default=1.0, ge=0, le=1)


class Description(Config):
    """The content of pathways.json.

    Attributes:
        tensors: shape of each prunable tensor, by name, in the model's order.
        step, own_steps: steps done: all, and by mask.
        current_sparsity: that pruning has reached.
        sha256: of the masks file, in hexadecimal.
        added: the languages that were added to the others, in order; they are the last of ``languages``.
        own_sha256: of the file of added languages' tensors; empty where there are none.
    """

    format: Literal["asr-pathways masks"] = FORMAT
    version: int = VERSION
    config: PathwayConfig
    languages: tuple[str, ...]
    tensors: dict[str, tuple[int, ...]]
    step: int
    own_steps: dict[str, int]
    current_sparsity: float
    sha256: str = ""
    added: dict[str, Addition] = Field(default={})
    own_sha256: str = ""

    @model_validator(mode="after")
    def _added_last(self) -> Description:
        first = len(self.languages) - len(self.added)
        if self.added and (first < 1 or self.languages[first:] != tuple(self.added)):
            raise ValueError("the languages that were added are not the last of all languages")
        return self


ByLanguage: TypeAlias = "dict[str, dict[str, Tensor]]"  # by language or its pathway, then by the tensor's name


@dataclass(frozen=True)
class Stored:
    """The content of a folder of pathways; masks are packed."""

    description: Description
    masks: ByLanguage
    language_tensors: ByLanguage  # outside the masks, of the languages that were added


def write_folder(folder: Path, stored: Stored) -> None:
    """Writes ``folder`` anew; raises PathwaysError if it cannot be written, or holds other files."""
    if folder.exists() and not folder.is_dir():
        raise PathwaysError(f"{folder}: is a file: choose a folder for the pathways")
    if folder.is_dir():
        foreign = sorted({path.name for path in folder.iterdir()} - {DESCRIPTION, MASKS, LANGUAGE_TENSORS})
        if foreign:
            raise PathwaysError(f"{folder}: holds {foreign[0]} beside pathways: choose a folder of their own")
    with atomic_folder(folder) as temporary:
        sums = {"sha256": _write_tensors(temporary / MASKS, stored.masks)}
        if any(stored.language_tensors.values()):
            sums["own_sha256"] = _write_tensors(temporary / LANGUAGE_TENSORS, stored.language_tensors)
        write_json(temporary / DESCRIPTION, stored.description.model_copy(update=sums).model_dump(mode="json"))


def read_folder(folder: Path) -> Stored:
    """Reads what `write_folder` wrote.

    Raises:
        PathwaysError: if a file is missing, truncated, foreign, of a newer version, or not of the same save.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise PathwaysError(f"{folder}: no {DESCRIPTION} here: not a folder that Pathways.save wrote")
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise PathwaysError(f"{path}: not a description of pathways")
    if raw.get("version") != VERSION:
        raise PathwaysError(f"{path}: format version {raw.get('version')}, but this release reads version {VERSION}")
    description = parse_config(Description, raw, str(path))
    flat = _read_tensors(folder / MASKS, description.sha256)
    packed: ByLanguage = {}
    for pathway in description.config.pathways(description.languages):
        if pathway not in description.own_steps:
            raise PathwaysError(f"{path}: own_steps: none of {pathway!r}")
        packed[pathway] = {}
        for name, shape in description.tensors.items():
            bits = flat.get(f"{pathway}/{name}")
            if bits is None or tuple(bits.shape) != (packed_size(shape),):
                raise PathwaysError(f"{folder / MASKS}: no mask of the right size for {name} of {pathway!r}")
            packed[pathway][name] = bits
    added: ByLanguage = {language: {} for language in description.added}
    if description.own_sha256:
        for key, tensor in _read_tensors(folder / LANGUAGE_TENSORS, description.own_sha256).items():
            language, _, name = key.partition("/")
            if language not in added:
                raise PathwaysError(f"{folder / LANGUAGE_TENSORS}: has tensors of {language!r}, which was not added")
            added[language][name] = tensor
    return Stored(description, packed, added)


def _write_tensors(path: Path, tensors: ByLanguage) -> str:
    """Writes a safetensors file and returns its sha256."""
    from safetensors.torch import save

    content = save({f"{key}/{n}": t.cpu().contiguous() for key, named in tensors.items() for n, t in named.items()})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    refuse_pipes(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise PathwaysError(f"{path}: truncated or changed since it was saved: copy the whole folder again")
    try:
        return load(content)
    except (SafetensorError, ValueError) as error:
        raise PathwaysError(f"{path}: not a safetensors file: {error}") from None


def check_config(source: str, saved: Any, config: PathwayConfig) -> None:
    """Raises PathwaysError unless ``saved`` is ``config`` as JSON."""
    if not isinstance(saved, dict):
        raise PathwaysError(f"{source}: not a state of pathways, it has no config")
    for option, value in config.model_dump(mode="json").items():
        before = saved.get(option, PathwayConfig.model_fields[option].default)  # of a time without the option
        if before != value:
            raise PathwaysError(
                f"{source}: {option} was {before}, is {value}: resume with the config that it was made with"
            )


def check_tensors(source: str, saved: Mapping[str, Sequence[int]], model: Mapping[str, Sequence[int]]) -> None:
    """Raises PathwaysError unless the prunable tensors that were saved are those of the model."""
    for name in (*saved, *model):
        if name not in model:
            raise PathwaysError(f"{source}: made for another model: this one has no prunable {name}")
        if name not in saved:
            raise PathwaysError(f"{source}: made for another model: it has no mask for {name}")
        if tuple(saved[name]) != tuple(model[name]):
            raise PathwaysError(
                f"{source}: made for another model: {name} was {list(saved[name])}, is {list(model[name])}"
            )
