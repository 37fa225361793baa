"""Weights as a bundle stores them: float32 exactly, float16, or int8 with a scale a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bits import Flags
from asr_pathways.bundle.layout import ITEM_SIZES, BundleError, Quantity, Shape

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Floats = NDArray[np.float32]

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class StoredTensor:
    """Values of one tensor.

    Attributes:
        shape: of the tensor in the model.
        values: of that shape; of a prunable tensor, (k,) those that the union of masks keeps, row-major.
        scales: (rows,) float32, for int8: what the values of a row are multiplied by; else None.
    """

    shape: Shape
    values: Array
    scales: Floats | None = None

    def floats(self, union: Flags | None = None) -> Array:
        """The values as the model has them, in the shape of ``values``; whole numbers stay such.

        Args:
            union: (elements,): where the values are in the tensor; for prunable tensors of int8.
        """
        if self.scales is None:
            return self.values.astype(np.float32) if self.values.dtype == np.float16 else self.values
        scaled: Array = np.multiply(self.values, _by_value(self.scales, self.values, union), dtype=np.float32)
        return scaled

    def dense(self, union: Flags | None = None, within: Flags | None = None) -> Array:
        """The tensor in its shape, zeros where nothing is kept; a copy.

        Args:
            union: (elements,): of a prunable tensor, which weights the values are of.
            within: (k,): which of those values to keep; None: all.
        """
        values = self.floats(union)
        if union is None:
            return np.array(values)
        dense = np.zeros(union.size, dtype=np.float32)
        dense[union] = values if within is None else np.where(within, values, np.float32(0))
        return dense.reshape(self.shape)


def _by_value(scales: Floats, values: Array, union: Flags | None) -> Floats:
    """The scale of each of the values."""
    if union is None:
        return scales.reshape(-1, *[1] * (values.ndim - 1))
    return np.repeat(scales, np.count_nonzero(union.reshape(len(scales), -1), axis=1))


def store(name: str, tensor: Tensor, dtype: Quantity, union: Flags | None = None) -> StoredTensor:
    """A tensor as it is to be stored; vectors, and tensors with values beyond float16's, stay float32.

    Args:
        tensor: of any shape.
        union: (elements,): the values to keep of a prunable tensor; None: all.

    Raises:
        BundleError: for a type of items that has no place in a bundle.
    """
    shape = tuple(tensor.shape)
    tensor = tensor.detach().cpu()
    dense: Array = (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
    if dense.dtype.name not in ITEM_SIZES:
        raise BundleError(f"{name}: tensors of {dense.dtype.name} cannot be stored in a bundle")
    values = dense if union is None else dense.reshape(-1)[union]
    fits = values.dtype == np.float32 and len(shape) > 1 and bool(np.all(np.abs(values) <= LARGEST_HALF))
    if not fits or dtype == "float32":
        return StoredTensor(shape, values)
    if dtype == "float16":
        return StoredTensor(shape, values.astype(np.float16))
    rows = np.abs(dense).reshape(shape[0], -1)
    largest = (rows if union is None else np.where(union.reshape(rows.shape), rows, 0)).max(axis=1, initial=0)
    smallest = np.finfo(np.float32).smallest_subnormal
    scales = np.where(largest > 0, np.maximum(largest / 127, smallest), 0).astype(np.float32)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    rounded = np.rint(values / _by_value(steps, values, union)).clip(-127, 127).astype(np.int8)
    return StoredTensor(shape, rounded, scales)
