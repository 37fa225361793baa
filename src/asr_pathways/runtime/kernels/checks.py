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
    """Refuses a tensor of another type or device, or one that is not contiguous."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in dtypes:
        raise PathwaysError(f"{name} must be {' or '.join(dtypes)}, not {dtype}: convert it")
    if tensor.device.type != "cpu":
        raise PathwaysError(f"{name} must be on the CPU, not on {tensor.device}: the sparse kernels run there only")
    if not tensor.is_contiguous():
        raise PathwaysError(f"{name} must be contiguous: call .contiguous()")
