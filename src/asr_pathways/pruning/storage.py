"""Masks on disk: a folder of pathways.json and masks.safetensors (one bit a weight), written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from asr_pathways.config import Config, parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder, read_json, write_json
from asr_pathways.pruning.config import PathwayConfig
from asr_pathways.pruning.masks import packed_size

DESCRIPTION = "pathways.json"
MASKS = "masks.safetensors"
FORMAT: Final = "asr-pathways masks"
VERSION = 1


class Description(Config):
    """What pathways.json says.

    Attributes:
        languages: in order.
        tensors: shape of each prunable tensor, by name, in the model's order.
        step, own_steps: the clocks.
        current_sparsity: what pruning has reached.
        sha256: of the masks file, in hexadecimal.
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


PackedMasks = dict[str, dict[str, Tensor]]  # by pathway, then by tensor


def write_folder(folder: Path, description: Description, packed: PackedMasks) -> None:
    """Writes ``folder`` anew.

    Raises:
        PathwaysError: if it cannot be written, or holds anything that is not ours to replace.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise PathwaysError(f"{folder}: is a file: choose a folder for the pathways")
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (DESCRIPTION, MASKS))
        if foreign:
            raise PathwaysError(f"{folder}: holds {foreign[0]} beside pathways: choose a folder of their own")
    flat = {
        f"{pathway}/{name}": bits.cpu().contiguous() for pathway, held in packed.items() for name, bits in held.items()
    }
    with atomic_folder(folder) as temporary:
        content = save(flat)
        (temporary / MASKS).write_bytes(content)
        final = description.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
        write_json(temporary / DESCRIPTION, final.model_dump(mode="json"))


def read_folder(folder: Path) -> tuple[Description, PackedMasks]:
    """Reads what `write_folder` wrote.

    Raises:
        PathwaysError: if a file is missing, truncated, foreign, of a newer version, or not of the same save.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise PathwaysError(f"{folder}: no {DESCRIPTION} here: not a folder that Pathways.save wrote")
    raw = read_json(folder / DESCRIPTION)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise PathwaysError(f"{folder / DESCRIPTION}: not a description of pathways")
    if raw.get("version") != VERSION:
        raise PathwaysError(
            f"{folder / DESCRIPTION}: format version {raw.get('version')}, but this release reads version {VERSION}"
        )
    description = parse_config(Description, raw, str(folder / DESCRIPTION))
    try:
        content = (folder / MASKS).read_bytes()
    except OSError as error:
        raise PathwaysError(f"{folder / MASKS}: cannot read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != description.sha256:
        raise PathwaysError(f"{folder / MASKS}: truncated or changed since it was saved: copy the whole folder again")
    try:
        flat = load(content)
    except (SafetensorError, ValueError) as error:
        raise PathwaysError(f"{folder / MASKS}: not a safetensors file: {error}") from None
    packed: PackedMasks = {}
    for pathway in description.config.pathways(description.languages):
        if pathway not in description.own_steps:
            raise PathwaysError(f"{folder / DESCRIPTION}: own_steps: none of {pathway!r}")
        packed[pathway] = {}
        for name, shape in description.tensors.items():
            bits = flat.get(f"{pathway}/{name}")
            if bits is None or tuple(bits.shape) != (packed_size(shape),):
                raise PathwaysError(f"{folder / MASKS}: no mask of the right size for {name} of {pathway!r}")
            packed[pathway][name] = bits
    return description, packed


def check_config(source: str, saved: Any, config: PathwayConfig) -> None:
    """Raises PathwaysError unless ``saved`` is ``config`` as JSON."""
    if not isinstance(saved, dict):
        raise PathwaysError(f"{source}: not a state of pathways, it has no config")
    for option, value in config.model_dump(mode="json").items():
        if saved.get(option) != value:
            raise PathwaysError(
                f"{source}: {option} was {saved.get(option)}, is {value}: resume with the config that it was made with"
            )


def check_tensors(source: str, saved: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> None:
    """Raises PathwaysError unless the prunable tensors that were saved are those of the model."""
    for name in (*saved, *found):
        if name not in found:
            raise PathwaysError(f"{source}: made for another model: this one has no prunable {name}")
        if name not in saved:
            raise PathwaysError(f"{source}: made for another model: it has no mask for {name}")
        if tuple(saved[name]) != tuple(found[name]):
            raise PathwaysError(
                f"{source}: made for another model: {name} was {list(saved[name])}, is {list(found[name])}"
            )
