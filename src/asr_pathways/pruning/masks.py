"""Bit masks: which weights of one tensor are kept, one bit a weight, and the arithmetic on them.

A mask is a bool tensor of its weight's shape; True means kept. Packed, it is a uint8 tensor of ``ceil(n / 8)``
bytes: weight ``8 j + b`` (row-major) is bit ``b`` of byte ``j``, and the bits past ``n`` are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.prunable import Prunable
from asr_pathways.pruning.weights import no_autograd


def packed_size(shape: Sequence[int]) -> int:
    """Bytes of a packed mask of ``shape``."""
    return (math.prod(shape) + 7) // 8


def pack(mask: Tensor) -> Tensor:
    """Packs a bool tensor of any shape into a uint8 tensor (ceil(n / 8),) on the same device."""
    flat = mask.detach().reshape(-1)
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))
    return _pack_by_torch(flat)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool tensor of ``shape`` that `pack` packed, on the same device."""
    count = math.prod(shape)
    if packed.device.type == "cpu":
        bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool).reshape(tuple(shape))
    return _unpack_by_torch(packed, count).reshape(tuple(shape))


def _pack_by_torch(flat: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8))
    return (padded.view(-1, 8) << _bit_positions(flat)).sum(dim=1, dtype=torch.uint8)


def _unpack_by_torch(packed: Tensor, count: int) -> Tensor:
    return ((packed[:, None] >> _bit_positions(packed)) & 1).reshape(-1)[:count].to(torch.bool)


def _bit_positions(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def popcount(packed: Tensor) -> int:
    """How many weights a packed mask keeps."""
    if packed.device.type == "cpu" and hasattr(np, "bitwise_count"):  # NumPy 2
        return int(np.bitwise_count(packed.numpy()).sum(dtype=np.int64))
    return _popcount_by_torch(packed)


def _popcount_by_torch(packed: Tensor) -> int:
    pairs = packed - ((packed >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return int(((nibbles + (nibbles >> 4)) & 0x0F).sum())


def top_k(scores: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` highest scores: exactly that many, equal scores by lowest index.

    Selecting a threshold (linear time) rather than sorting keeps this near the cost of reading the scores.

    Args:
        scores: float tensor of any shape.
        keep: from 0 to the number of scores.

    Raises:
        PathwaysError: if a score is NaN.
    """
    flat = scores.reshape(-1)
    count = flat.numel()
    refuse_nan(flat)
    if keep == 0 or keep == count:
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    threshold = _kth_smallest(flat, count - keep)
    mask = flat > threshold
    missing = keep - int(mask.count_nonzero())
    ties = (flat == threshold).nonzero().view(-1)
    mask[ties[:missing]] = True
    return mask.reshape(scores.shape)


def refuse_nan(scores: Tensor) -> None:
    """Raises PathwaysError if a score is NaN: no order holds among such scores."""
    if torch.isnan(scores.sum()):
        raise PathwaysError("a weight's score is NaN: training has diverged; go back to an earlier checkpoint")


def _kth_smallest(flat: Tensor, index: int) -> Tensor:
    if flat.device.type == "cpu":
        values = flat.detach().numpy()
        return torch.tensor(np.partition(values, index)[index])
    return _kth_smallest_by_torch(flat, index)


def _kth_smallest_by_torch(flat: Tensor, index: int) -> Tensor:
    return torch.kthvalue(flat, index + 1).values


def iou(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Intersection over union of two pathways as packed masks, tensor by tensor; 1.0 if both are empty."""
    both = sum(popcount(a & b) for a, b in zip(first, second, strict=True))
    either = sum(map(popcount, first)) + sum(map(popcount, second)) - both
    return both / either if either else 1.0


def union(masks: Sequence[Tensor]) -> Tensor:
    """The packed mask of what at least one of the packed ``masks`` keeps."""
    result = masks[0]
    for mask in masks[1:]:
        result = result | mask
    return result


def complement(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The packed mask of ``shape`` that keeps what ``packed`` drops."""
    result = ~packed
    used = math.prod(shape) % 8
    if used:
        result[-1] &= (1 << used) - 1
    return result


class PackedMasks:
    """One mask for each pathway and tensor, at one bit a weight; only the one in use is unpacked."""

    def __init__(self, prunable: Sequence[Prunable], pathways: Iterable[str]) -> None:
        """Every pathway keeps everything at first."""
        self._prunable = list(prunable)
        self._packed: dict[str, list[Tensor]] = {}
        self._cached: tuple[str, list[Tensor]] | None = None
        self._ious: dict[frozenset[str], float] = {}
        everything = [pack(torch.ones(one.shape, dtype=torch.bool)) for one in self._prunable]
        for pathway in pathways:
            self.put_packed(pathway, everything)

    @property
    def weights(self) -> int:
        """How many weights a mask covers."""
        return sum(one.parameter.numel() for one in self._prunable)

    def put(self, pathway: str, new: Iterable[Tensor]) -> None:
        """Takes bool masks, one a tensor; they are packed one by one, so an iterator needs little memory."""
        with no_autograd():
            self.put_packed(pathway, [pack(mask) for mask in new])

    def put_packed(self, pathway: str, new: Sequence[Tensor]) -> None:
        """Takes packed masks, one a tensor."""
        self._packed[pathway] = [bits.clone() for bits in new]  # copies: pathways may get the same masks
        self._cached = None
        self._ious = {pair: iou for pair, iou in self._ious.items() if pathway not in pair}

    def packed(self, pathway: str) -> list[Tensor]:
        """The packed masks, one a tensor, each on its weight's device (to which a model may have moved)."""
        packed = self._packed[pathway]
        for index, prunable in enumerate(self._prunable):
            packed[index] = packed[index].to(prunable.parameter.device)
        return packed

    def unpacked(self, pathway: str) -> list[Tensor]:
        """The bool masks, one a tensor; the last pathway asked for stays unpacked."""
        packed = self.packed(pathway)
        if self._cached is None or self._cached[0] != pathway or self._cached[1][0].device != packed[0].device:
            self._cached = None  # freed before the next is made
            self._cached = (pathway, self.unpack(packed))
        return self._cached[1]

    def union(self, pathways: Sequence[str]) -> list[Tensor]:
        """The bool masks of what at least one of ``pathways`` keeps."""
        if len(pathways) == 1:
            return self.unpacked(pathways[0])
        return self.unpack(self.packed_union(pathways))

    def packed_union(self, pathways: Sequence[str]) -> list[Tensor]:
        """The packed masks of what at least one of ``pathways`` keeps."""
        return [union(one) for one in zip(*(self.packed(p) for p in pathways), strict=True)]

    def iou(self, first: str, second: str) -> float:
        """Intersection over union of two pathways; kept until one of them changes, since there are many pairs."""
        pair = frozenset((first, second))
        if pair not in self._ious:
            self._ious[pair] = iou(self.packed(first), self.packed(second))
        return self._ious[pair]

    def kept(self, pathway: str) -> list[int]:
        """How many weights of each tensor a pathway keeps."""
        return [popcount(packed) for packed in self._packed[pathway]]

    def named(self, pathway: str) -> dict[str, Tensor]:
        """{tensor's name: bool mask}, copies."""
        return dict(zip((t.name for t in self._prunable), self.unpack(self.packed(pathway)), strict=True))

    def unpack(self, packed: Sequence[Tensor]) -> list[Tensor]:
        """The bool masks of packed ones, one a tensor."""
        return [self.unpack_one(packed, index) for index in range(len(self._prunable))]

    def unpack_one(self, packed: Sequence[Tensor], index: int) -> Tensor:
        """The bool mask of tensor ``index`` of packed ones."""
        with no_autograd():
            return unpack(packed[index], self._prunable[index].shape)
