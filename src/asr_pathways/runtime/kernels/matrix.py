"""A sparse weight and its product with rows of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Blocks, parse_granularity
from asr_pathways.pruning.masks import pack, packed_size, popcount
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats, check_layout

if TYPE_CHECKING:
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
        """Use `pack` or `from_union`."""
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
        kept, everything = pack(weight != 0), pack(torch.ones(rows, columns, dtype=torch.bool))
        return cls.from_union(weight.view(-1), everything, kept, (rows, columns), granularity, dtype)

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
        rows, columns = shape
        if not (isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0):
            raise PathwaysError(f"a sparse matrix has at least a row and a column, not {rows}x{columns}")
        values = values.detach()
        check_layout(values, "the values of a union", torch.float32, torch.float16)
        if values.dim() != 1:
            raise PathwaysError(f"the values of a union have shape (k,), not {tuple(values.shape)}")
        for bits in (union, mask):
            check_layout(bits, "a packed mask", torch.uint8)
            if tuple(bits.shape) != (packed_size(shape),):
                raise PathwaysError(
                    f"a packed mask of {rows}x{columns} has {packed_size(shape)} bytes, not {tuple(bits.shape)}"
                )
        if popcount(union) != len(values) or (mask & ~union).any():
            raise PathwaysError(f"a union of {popcount(union)} weights does not fit {len(values)} values and its mask")
        values = values.float()
        addresses = values.data_ptr(), union.data_ptr(), mask.data_ptr()
        block = _block_rows(granularity)
        if dtype not in ("float32", "int8"):
            raise PathwaysError(f"values are stored as float32 or int8, not as {dtype!r}")
        if dtype == "int8" and not values.isfinite().all():
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
