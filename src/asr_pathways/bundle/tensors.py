"""Safetensors files whose header is known beforehand: written so, and on reading compared byte for byte.

Any program that reads safetensors reads them. Other programs' files are refused: see `layout`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bundle.layout import ITEM_SIZES, BundleError

Array = NDArray[Any]
Slot = tuple[str, tuple[int, ...]]  # type of the items, and shape

ALIGNMENT = 64
"""Bytes; the data of a part begin at a multiple of it."""

_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "bool": "BOOL",
}


def arrange(slots: Mapping[str, Slot]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The header of a file with these tensors, and where each begins and ends after it; larger items first."""
    order = sorted(slots, key=lambda name: (-ITEM_SIZES[slots[name][0]], name))
    places, end = {}, 0
    for name in order:
        dtype, shape = slots[name]
        start, end = end, end + ITEM_SIZES[dtype] * math.prod(shape)
        places[name] = (start, end)
    told = {
        name: {"dtype": _NAMES[slots[name][0]], "shape": list(slots[name][1]), "data_offsets": list(places[name])}
        for name in order
    }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, places


def dump(arrays: Mapping[str, Array]) -> list[bytes | memoryview]:
    """The bytes of a file with these arrays, in pieces."""
    header, places = arrange({name: (array.dtype.name, array.shape) for name, array in arrays.items()})
    flat = (np.ascontiguousarray(arrays[name]).reshape(-1) for name in places)
    return [header, *(array.view(np.uint8).data for array in flat if array.size)]


def size_of(slots: Mapping[str, Slot]) -> int:
    """Bytes of a file with these tensors."""
    header, places = arrange(slots)
    return len(header) + max((end for _, end in places.values()), default=0)


def view(content: memoryview, slots: Mapping[str, Slot], where: str) -> dict[str, Array]:
    """Read-only arrays over the bytes of a file, nothing copied.

    Raises:
        BundleError: if the file does not hold just these tensors in this order.
    """
    header, places = arrange(slots)
    size = len(header) + max((end for _, end in places.values()), default=0)
    if len(content) != size or content[: len(header)] != header:
        raise BundleError(f"{where}: does not hold the tensors that {_listed(slots)} ask for")
    data = content[len(header) :]
    return {
        name: np.frombuffer(data[start:end], dtype=slots[name][0]).reshape(slots[name][1])
        for name, (start, end) in places.items()
    }


def _listed(slots: Sequence[str] | Mapping[str, Slot]) -> str:
    return f"the {len(slots)} entries of the header"
