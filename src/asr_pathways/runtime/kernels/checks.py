"""Checks of tensors for the kernels: contiguous float32 tensors on the CPU, of the right shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr_pathways.errors import PathwaysError

if TYPE_CHECKING:
    from torch import Tensor


def check_floats(tensor: Tensor, name: str, *shape: int | None) -> None:
    """Refuses what is not a contiguous float32 CPU tensor of ``shape``, where None is any size.

    Raises:
        PathwaysError: naming what differs.
    """
    check_layout(tensor, name, "float32")
    if tensor.dim() != len(shape) or any(want not in (None, size) for size, want in zip(tensor.shape, shape)):  # noqa: B905
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise PathwaysError(f"{name} must have shape ({wanted}), not {tuple(tensor.shape)}")


def check_layout(tensor: Tensor, name: str, *dtypes: str) -> None:
    """Refuses a tensor whose memory is not its values, one after the other, of one of these types, on the CPU.

    Raises:
        PathwaysError: naming what differs.
    """
    if str(tensor.layout) != "torch.strided" or tensor.is_nested:
        raise PathwaysError(f"{name} must be a dense tensor, not {str(tensor.layout).removeprefix('torch.')}")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in dtypes:
        raise PathwaysError(f"{name} must be {' or '.join(dtypes)}, not {dtype}: convert it")
    if tensor.device.type != "cpu":
        raise PathwaysError(f"{name} must be on the CPU, not on {tensor.device}: the sparse kernels run there only")
    if not tensor.is_contiguous():
        raise PathwaysError(f"{name} must be contiguous: call .contiguous()")
    if tensor.is_neg():
        raise PathwaysError(f"{name} is a negated view, whose memory has the other signs: call .resolve_neg()")
    if tensor.untyped_storage().nbytes() < (tensor.storage_offset() + tensor.numel()) * tensor.itemsize:
        raise PathwaysError(f"{name} is larger than its memory, which was resized")
