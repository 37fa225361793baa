"""Weights as they lie in a bundle: float32 exactly, float16, or int8 with a scale a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr_pathways.bundle.layout import ITEM_SIZES, BundleError, Quantity, TensorEntry

Array = NDArray[Any]
Floats = NDArray[np.float32]

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class StoredTensor:
    """Values of one tensor.

    Attributes:
        entry: its shape and how it is stored.
        values: of `entry.stored_shape` and type.
        scales: (rows,) float32, for int8: what the values of a row are multiplied by; else None.
    """

    entry: TensorEntry
    values: Array
    scales: Floats | None = None

    def floats(self, union: Array | None = None) -> Array:
        """The values as the model has them, in `entry.stored_shape`; whole numbers stay such.

        Args:
            union: (elements,) bool: where the values stand; for prunable tensors of int8.
        """
        if self.scales is not None:
            scaled: Array = np.multiply(self.values, self._spread(self.scales, union), dtype=np.float32)
            return scaled
        found: Array = self.values.astype(np.float32) if self.values.dtype == np.float16 else self.values
        return found

    def dense(self, union: Array | None = None) -> Array:
        """The whole tensor, of `entry.shape`, zeros where nothing is kept."""
        if self.entry.kept is None:
            return np.array(self.floats())
        assert union is not None
        found = np.zeros(self.entry.elements, dtype=np.float32)
        found[union] = self.floats(union)
        return found.reshape(self.entry.shape)

    def within(self, chosen: Array) -> StoredTensor:
        """Only the values that ``chosen`` (kept,) bool marks, of a prunable tensor."""
        entry = self.entry.model_copy(update={"kept": int(np.count_nonzero(chosen))})
        return StoredTensor(entry, self.values[chosen], self.scales)

    def _spread(self, scales: Floats, union: Array | None) -> Floats:
        if union is None:
            return scales.reshape(-1, *[1] * (self.values.ndim - 1))
        return np.repeat(scales, np.count_nonzero(union.reshape(len(scales), -1), axis=1))


def store(name: str, tensor: Tensor, dtype: Quantity, union: Array | None = None) -> StoredTensor:
    """How a tensor is stored; vectors, and tensors with values too large for it, stay float32.

    Args:
        tensor: of any shape.
        union: (elements,) bool: the values to keep of a prunable tensor; None: all.

    Raises:
        BundleError: for a type of items that has no place in a bundle.
    """
    shape = tuple(tensor.shape)
    values = _array(name, tensor)
    if union is not None:
        values = values.reshape(-1)[union]
    kept = None if union is None else values.size
    if values.dtype != np.float32:
        return StoredTensor(TensorEntry(shape=shape, dtype=values.dtype.name, kept=kept), values)
    fits = bool(np.all(np.abs(values) <= LARGEST_HALF)) and len(shape) > 1 and 0 not in shape
    if not fits or dtype == "float32":
        return StoredTensor(TensorEntry(shape=shape, dtype="float32", kept=kept), values)
    if dtype == "float16":
        return StoredTensor(TensorEntry(shape=shape, dtype="float16", kept=kept), values.astype(np.float16))
    dense = np.abs(_array(name, tensor)).reshape(shape[0], -1)
    largest = (dense if union is None else np.where(union.reshape(dense.shape), dense, 0)).max(axis=1)
    found = StoredTensor(TensorEntry(shape=shape, dtype="int8", kept=kept), values, (largest / 127).astype(np.float32))
    assert found.scales is not None
    steps = np.where(found.scales > 0, found.scales, 1).astype(np.float32)
    rounded = np.rint(values / found._spread(steps, union)).clip(-127, 127).astype(np.int8)
    return StoredTensor(found.entry, rounded, found.scales)


def _array(name: str, tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    found: Array = tensor.contiguous().numpy()
    if found.dtype.name not in ITEM_SIZES:
        raise BundleError(f"{name}: tensors of {found.dtype.name} cannot be stored in a bundle")
    return found
