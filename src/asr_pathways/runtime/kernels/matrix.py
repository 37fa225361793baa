"""A sparse weight and its product with rows of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bits import Bytes, pack, packed_size, popcount
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Blocks, parse_granularity
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats, check_layout

if TYPE_CHECKING:
    from torch import Tensor

    from asr_pathways.runtime.kernels import _sparse

ValueType = Literal["float32", "int8"]
BLOCK_ROWS = (4, 8)  # blocks of so many rows and one column have kernels of their own


class SparseMatrix:
    """A weight (out, in) of which only nonzeros are stored, for ``y = x @ weight.T + bias``.

    Stored are, by rows (granularity ``block:4x1`` or ``block:8x1``: by groups of rows that share their columns), column
    indices of 16 bits, which count within panels of 512 columns, and values: float32, or int8 with one scale per row,
    ``round(w * 127 / max|w|)``. Other granularities are stored as unstructured ones are. Products carry no gradient.
    """

    def __init__(self, compiled: _sparse.Matrix, shape: tuple[int, int]) -> None:
        """Use `pack`, `from_union` or `from_bits`."""
        self._compiled = compiled
        self.shape = shape

    @classmethod
    def pack(cls, weight: Tensor, granularity: str = "unstructured", dtype: ValueType = "float32") -> SparseMatrix:
        """Stores a weight (out, in), float32, without its zeros.

        Raises:
            PathwaysError: if the kernels were not built, or the weight, granularity or dtype is not one that fits.
        """
        weight = weight.detach()
        check_floats(weight, "a weight", None, None)
        rows, columns = weight.shape
        values = weight.view(-1).numpy()
        kept, everything = pack(values != 0), pack(np.ones(len(values), dtype=np.bool_))
        return cls.from_bits(values, everything, kept, (rows, columns), granularity, dtype)

    @classmethod
    def from_union(
        cls,
        values: Tensor,
        union: Tensor,
        mask: Tensor,
        shape: tuple[int, int],
        granularity: str = "unstructured",
        dtype: ValueType = "float32",
    ) -> SparseMatrix:
        """Stores what a mask keeps of a weight of which only the union of several masks is known, as in bundles.

        Args:
            values: (k,), float32 or float16: what the union keeps, row-major.
            union: uint8 (ceil(out * in / 8),), as `asr_pathways.pruning.masks.pack` makes them; k bits are set.
            mask: likewise; keeps nothing that the union does not.
            shape: (out, in).
            granularity: of the mask.
            dtype: what the values are stored as.

        Raises:
            PathwaysError: if the kernels were not built, an argument is not one that fits, or the parts do not fit.
        """
        values = values.detach()
        check_layout(values, "the values of a union", "float32", "float16")
        for bits in (union, mask):
            check_layout(bits, "a packed mask", "uint8")
        return cls.from_bits(values.numpy(), union.numpy(), mask.numpy(), shape, granularity, dtype)

    @classmethod
    def from_bits(
        cls,
        values: NDArray[Any],
        union: Bytes,
        mask: Bytes,
        shape: tuple[int, int],
        granularity: str = "unstructured",
        dtype: ValueType = "float32",
    ) -> SparseMatrix:
        """As `from_union`, of NumPy arrays and without torch.

        Raises:
            PathwaysError: if the kernels were not built, an argument is not one that fits, or the parts do not fit.
        """
        rows, columns = shape
        if not (isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0):
            raise PathwaysError(f"a sparse matrix has at least a row and a column, not {rows}x{columns}")
        if values.dtype not in (np.float32, np.float16):
            raise PathwaysError(f"the values of a union must be float32 or float16, not {values.dtype}: convert them")
        if values.ndim != 1:
            raise PathwaysError(f"the values of a union have shape (k,), not {values.shape}")
        for bits in (union, mask):
            if bits.dtype != np.uint8:
                raise PathwaysError(f"a packed mask must be uint8, not {bits.dtype}: convert it")
            if bits.shape != (packed_size(shape),):
                raise PathwaysError(
                    f"a packed mask of {rows}x{columns} has {packed_size(shape)} bytes, not {bits.shape}"
                )
        if popcount(union) != len(values) or (mask & ~union).any():
            raise PathwaysError(f"a union of {popcount(union)} weights does not fit {len(values)} values and its mask")
        values = np.ascontiguousarray(values, dtype=np.float32)
        union, mask = np.ascontiguousarray(union), np.ascontiguousarray(mask)
        addresses = values.ctypes.data, union.ctypes.data, mask.ctypes.data
        block = _block_rows(granularity)
        if dtype not in ("float32", "int8"):
            raise PathwaysError(f"values are stored as float32 or int8, not as {dtype!r}")
        if dtype == "int8" and not np.isfinite(values).all():
            raise PathwaysError("values that are not finite cannot be stored as int8")
        return cls(extension.built().pack(*addresses, rows, columns, block, dtype == "int8"), shape)

    def matmul(self, x: Tensor, bias: Tensor | None = None, threads: int = 1, *, variant: str | None = None) -> Tensor:
        """``x @ self.dense().T + bias``.

        Args:
            x: (n, in), like the bias a contiguous float32 tensor on the CPU.
            bias: (out,).
            threads: how many threads share the rows of the weight.
            variant: one of `variants()`; the fastest if not given.

        Returns:
            (n, out).

        Raises:
            PathwaysError: if a tensor is of the wrong shape, type, layout or device.
        """
        import torch

        rows, columns = self.shape
        check_floats(x, "x", None, columns)
        runner = extension.check_runner(threads, variant)
        product, out = self.product(bias), torch.empty(x.shape[0], rows)
        extension.compiled.multiply(product, x.data_ptr(), x.shape[0], out.data_ptr(), runner)
        return out

    def product(self, bias: Tensor | None = None) -> _sparse.Product:
        """This weight and the address of a bias (out,): an argument of the extension.

        Raises:
            PathwaysError: if the bias is of the wrong shape, type, layout or device.
        """
        if bias is None:
            return self._compiled, 0
        check_floats(bias, "bias", self.shape[0])
        return self._compiled, bias.data_ptr()

    def dense(self) -> Tensor:
        """The weight (out, in), float32; of int8, as it was rounded."""
        import torch

        dense = torch.empty(self.shape)
        extension.compiled.unpack(self._compiled, dense.data_ptr())
        return dense

    @property
    def nonzeros(self) -> int:
        """How many weights are stored, padding not counted."""
        return self._compiled.nonzeros

    @property
    def nbytes(self) -> int:
        """Bytes of memory; a product reads a little less."""
        return self._compiled.nbytes


def _block_rows(granularity: str) -> int:
    try:
        parsed = parse_granularity(granularity)
    except ValueError as error:
        raise PathwaysError(str(error)) from None
    if isinstance(parsed, Blocks) and parsed.columns == 1 and parsed.rows in BLOCK_ROWS:
        return parsed.rows
    return 1
