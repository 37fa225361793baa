"""From the contents of a bundle to its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from asr_pathways.bundle import coding, layout, tensors
from asr_pathways.bundle.archive import Pieces, describe, write_archive
from asr_pathways.bundle.card import card_text
from asr_pathways.bundle.coding import Bits, CodedMask
from asr_pathways.bundle.contents import Contents, unpacked
from asr_pathways.bundle.layout import BundleError, Header, MaskEntry, own_name
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.masks import popcount

WRITTEN = (layout.WEIGHTS, layout.PATHWAYS, layout.README)
"""Parts that are made from the contents; all others are files of the contents as they are."""


def write_contents(contents: Contents, out: Path) -> None:
    """Writes a bundle, whole or not at all.

    Raises:
        BundleError: if it cannot be written.
    """
    coded = code_masks(contents)
    held = sum(mask.nbytes for mask in coded.values()) + sum(array.nbytes for _, array in _weights(contents))
    if layout.asked(_header(contents, coded)) > layout.MAX_ELEMENTS_PER_BYTE * held:
        coded = code_masks(contents, plain=True)  # so sparse that a reader would take it for an attack on its memory
    header = _header(contents, coded)
    pieces: dict[str, Pieces] = {
        layout.WEIGHTS: tensors.dump(dict(_weights(contents))),
        layout.PATHWAYS: tensors.dump({name: bits for key, mask in coded.items() for name, bits in _arrays(key, mask)}),
        **{name: [content] for name, content in contents.files.items()},
    }
    told = {name: sum(map(len, piece)) for name, piece in pieces.items()}
    pieces[layout.README] = [
        card_text(contents.card, contents.scores, sparsity_of(contents), told, contents.dtype).encode()
    ]
    parts = [describe(name, piece) for name, piece in pieces.items()]
    header = header.model_copy(update={"parts": tuple(parts)})
    content = header.model_dump(mode="json")
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    config = text.encode()
    if len(config) > layout.MAX_CONFIG:
        raise BundleError(f"{out}: its header would be larger than {layout.MAX_CONFIG:,} bytes: too many tensors")
    layout.parse_header(config, str(out))
    try:
        write_archive(out, config, parts, pieces)
    except BundleError:
        raise
    except PathwaysError as error:
        raise BundleError(str(error)) from None


def code_masks(contents: Contents, *, plain: bool = False) -> dict[str, CodedMask]:
    """The union (by the name "") and each mask, coded; with ``plain``, nothing is entropy-coded."""
    union = [unpacked(mask, size) for mask, size in zip(contents.union, contents.sizes, strict=True)]
    found = {"": coding.encode((mask.view(np.uint8) for mask in union), [], plain=plain)}
    anchors: list[list[Bits]] = []
    for key, packed in contents.masks.items():
        sequences = [unpacked(own, len(mask))[mask] for own, mask in zip(packed, union, strict=True)]
        bits = [sequence.view(np.uint8) for sequence in sequences]
        found[key] = coding.encode(bits, anchors[: layout.ANCHORS], plain=plain)
        if len(anchors) < layout.ANCHORS:
            anchors.append(bits)
    return found


def mask_slots(header: Header) -> dict[str, tensors.Slot]:
    """What ``pathways.safetensors`` holds."""
    return {
        name: ("uint8", (size,))
        for key, entry in {"": header.union, **header.masks}.items()
        for name, size in zip(_names(key), (entry.bits, entry.levels, entry.stream), strict=True)
    }


def mask_arrays(key: str, arrays: Mapping[str, Bits], entry: MaskEntry) -> CodedMask:
    """A mask in ``pathways.safetensors``."""
    bits, levels, stream = (arrays[name] for name in _names(key))
    return CodedMask(entry.coding, bits, levels, stream)


def weight_slots(header: Header) -> dict[str, tensors.Slot]:
    """What ``weights.safetensors`` holds."""
    found: dict[str, tensors.Slot] = {}
    for name, entry in header.entries():
        found[f"values/{name}"] = (entry.dtype, entry.stored_shape)
        if entry.scaled:
            found[f"scales/{name}"] = ("float32", (entry.shape[0],))
    return found


def sparsity_of(contents: Contents) -> dict[str, float]:
    """Share of prunable weights at zero, by language."""
    counts = {key: sum(popcount(torch.from_numpy(part)) for part in mask) for key, mask in contents.masks.items()}
    shared = contents.pathways.config.shared
    total = sum(contents.sizes)
    return {
        language: 1 - counts[next(iter(counts)) if shared else language] / total
        for language in contents.pathways.languages
    }


def _names(key: str) -> tuple[str, str, str]:
    where = f"masks/{key}" if key else "union"
    return f"{where}/bits", f"{where}/levels", f"{where}/stream"


def _arrays(key: str, mask: CodedMask) -> Iterator[tuple[str, Bits]]:
    return zip(_names(key), (mask.bits, mask.levels, mask.stream), strict=True)


def _weights(contents: Contents) -> Iterator[tuple[str, tensors.Array]]:
    stored = contents.tensors | {
        own_name(language, name): tensor for language, own in contents.own.items() for name, tensor in own.items()
    }
    for name, tensor in stored.items():
        yield f"values/{name}", tensor.values
        if tensor.scales is not None:
            yield f"scales/{name}", tensor.scales


def _header(contents: Contents, coded: Mapping[str, CodedMask]) -> Header:
    entries = {
        key: MaskEntry(
            given=tuple(contents.masks)[: min(index, layout.ANCHORS)] if key else (),
            coding=mask.coding,
            bits=len(mask.bits),
            levels=len(mask.levels),
            stream=len(mask.stream),
        )
        for index, (key, mask) in enumerate(coded.items(), start=-1)
    }
    return Header(
        dtype=contents.dtype,
        card=contents.card,
        pathways=contents.pathways,
        tensors={name: tensor.entry for name, tensor in contents.tensors.items()},
        own={language: {name: tensor.entry for name, tensor in own.items()} for language, own in contents.own.items()},
        union=entries.pop(""),
        masks=entries,
        scores=contents.scores,
        parts=(),
    )
