"""Flags as bits, in NumPy arrays: flag ``8 j + b`` is bit ``b`` of byte ``j``, and the bits past the last are zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


def packed_size(shape: Sequence[int]) -> int:
    """Bytes of the bits of an array of ``shape``."""
    return (math.prod(shape) + 7) // 8


def pack(flags: Flags) -> Bytes:
    """Bits of flags (n,): (ceil(n / 8),)."""
    return np.packbits(flags, bitorder="little")


def unpack(bits: Bytes, count: int) -> Flags:
    """(count,) bool of bits."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


def popcount(bits: Bytes) -> int:
    """How many bits are set."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int(np.count_nonzero(np.unpackbits(bits)))
