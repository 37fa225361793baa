"""A sparse weight and its product with rows of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Blocks, parse_granularity
from asr_pathways.pruning.masks import packed_size, popcount, unpack
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats, check_layout

if TYPE_CHECKING:
    from asr_pathways.runtime.kernels import _sparse

ValueType = Literal["float32", "int8"]
BLOCK_ROWS = (4, 8)  # blocks of so many rows and one column have kernels of their own


class SparseMatrix:
    """A weight (out, in) of which only what is not zero is stored, for ``y = x @ weight.T + bias``.

    Stored are, by rows (granularity ``block:4x1`` or ``block:8x1``: by groups of rows that share their columns), column
    indices of 16 bits, which count within panels of 512 columns, and values: float32, or int8 with one scale per row,
    ``round(w * 127 / max|w|)``. Other granularities are stored as unstructured ones are. Products carry no gradient.
    """

    def __init__(self, compiled: _sparse.Matrix | None, dense: Tensor | None, shape: tuple[int, int]) -> None:
        """Use `pack` or `from_union`. Without compiled kernels the weight is stored ``dense``."""
        self._compiled = compiled
        self._dense = dense
        self.shape = shape

    @classmethod
    def pack(cls, weight: Tensor, granularity: str = "unstructured", dtype: ValueType = "float32") -> SparseMatrix:
        """Packs a weight (out, in), float32, by its zeros.

        Raises:
            PathwaysError: if the weight, granularity or dtype is not one that can be packed.
        """
        weight = weight.detach()
        check_floats(weight, "a weight", None, None)
        rows, columns = _matrix_shape(weight)
        block, quantize = _block_rows(granularity), _is_int8(dtype)
        if not extension.available():
            return cls(None, _quantized(weight) if quantize else weight.clone(), (rows, columns))
        compiled = extension.compiled.pack(weight.data_ptr(), rows, columns, block, quantize)
        return cls(compiled, None, (rows, columns))

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
        """Packs what a mask keeps of a weight of which only the union of several masks is stored, as bundles do.

        Args:
            values: (k,), float32 or float16: what the union keeps, row-major.
            union: uint8 (ceil(out * in / 8),), as `asr_pathways.pruning.masks.pack` makes them; k bits are set.
            mask: likewise; keeps nothing that the union does not.
            shape: (out, in).
            granularity: of the mask.
            dtype: what the values are stored as.

        Raises:
            PathwaysError: if an argument is not one that can be packed, or the parts do not fit.
        """
        rows, columns = shape
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
        block, quantize = _block_rows(granularity), _is_int8(dtype)
        if not extension.available():
            dense = torch.zeros(rows * columns)
            dense[unpack(union, (rows * columns,))] = values.float()
            dense = (dense * unpack(mask, (rows * columns,))).view(rows, columns)
            return cls(None, _quantized(dense) if quantize else dense, (rows, columns))
        half = values.dtype == torch.float16
        addresses = values.data_ptr(), union.data_ptr(), mask.data_ptr()
        return cls(extension.compiled.pack_union(*addresses, rows, columns, block, quantize, half), None, shape)

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
        product = self.product(bias)
        if product is None:
            extension.warn_of_dense_products()
            with torch.no_grad():
                return linear(x, self._stored, bias)
        out = torch.empty(x.shape[0], rows)
        extension.compiled.multiply(product, x.data_ptr(), x.shape[0], out.data_ptr(), runner)
        return out

    def product(self, bias: Tensor | None = None) -> _sparse.Product | None:
        """This weight and the address of a bias (out,), as the extension takes them; None without compiled kernels.

        Raises:
            PathwaysError: if the bias is of the wrong shape, type, layout or device.
        """
        if bias is not None:
            check_floats(bias, "bias", self.shape[0])
        return None if self._compiled is None else (self._compiled, 0 if bias is None else bias.data_ptr())

    def dense(self) -> Tensor:
        """What this multiplies by: (out, in), float32; for int8 that is the weight as it was rounded."""
        if self._compiled is None:
            assert self._dense is not None
            return self._dense.clone()
        dense = torch.empty(self.shape)
        extension.compiled.unpack(self._compiled, dense.data_ptr())
        return dense

    @property
    def nonzeros(self) -> int:
        """How many weights were not zero when they were packed."""
        return int(self._stored.count_nonzero()) if self._compiled is None else self._compiled.nonzeros

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this takes; a product reads a little less."""
        return self._stored.nbytes if self._compiled is None else self._compiled.nbytes

    @property
    def _stored(self) -> Tensor:
        assert self._dense is not None
        return self._dense


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    if weight.dim() != 2:
        raise PathwaysError(f"a sparse matrix is made of a weight (out, in), not of shape {tuple(weight.shape)}")
    rows, columns = weight.shape
    if rows == 0 or columns == 0:
        raise PathwaysError(f"a sparse matrix has at least a row and a column, not {rows}x{columns}")
    return rows, columns


def _block_rows(granularity: str) -> int:
    try:
        parsed = parse_granularity(granularity)
    except ValueError as error:
        raise PathwaysError(str(error)) from None
    if isinstance(parsed, Blocks) and parsed.columns == 1 and parsed.rows in BLOCK_ROWS:
        return parsed.rows
    return 1


def _is_int8(dtype: str) -> bool:
    if dtype not in ("float32", "int8"):
        raise PathwaysError(f"values are stored as float32 or int8, not as {dtype!r}")
    return dtype == "int8"


def _quantized(weight: Tensor) -> Tensor:
    """The weight as int8 with a scale per row stores it, in float32."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0.0)
    return (weight * inverse).round() * (largest / 127)
