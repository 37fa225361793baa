"""Bit masks: which weights of one tensor are kept, one bit a weight, and the arithmetic on them.

A mask is a bool tensor of its weight's shape; True means kept. Packed, it is a uint8 tensor of ``ceil(n / 8)``
bytes: weight ``8 j + b`` (row-major) is bit ``b`` of byte ``j``, and the bits past ``n`` are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from asr_pathways import bits
from asr_pathways.pruning.prunable import Prunable
from asr_pathways.pruning.weights import no_autograd


def pack(mask: Tensor) -> Tensor:
    """Packs a bool tensor of any shape into a uint8 tensor (ceil(n / 8),) on the same device."""
    flat = mask.detach().reshape(-1)
    if flat.device.type == "cpu":
        return torch.from_numpy(bits.pack(flat.numpy()))
    return _pack_by_torch(flat)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool tensor of ``shape`` that `pack` packed, on the same device."""
    count = math.prod(shape)
    if packed.device.type == "cpu":
        return torch.from_numpy(bits.unpack(packed.numpy(), count)).reshape(tuple(shape))
    return _unpack_by_torch(packed, count).reshape(tuple(shape))


def _pack_by_torch(flat: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8))
    positions = torch.arange(8, dtype=torch.uint8, device=flat.device)
    return (padded.view(-1, 8) << positions).sum(dim=1, dtype=torch.uint8)


def _unpack_by_torch(packed: Tensor, count: int) -> Tensor:
    positions = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> positions) & 1).reshape(-1)[:count].to(torch.bool)


def popcount(packed: Tensor) -> int:
    """How many weights a packed mask keeps."""
    if packed.device.type == "cpu":
        return bits.popcount(packed.numpy())
    return _popcount_by_torch(packed)


def _popcount_by_torch(packed: Tensor) -> int:
    pairs = packed - ((packed >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return int(((nibbles + (nibbles >> 4)) & 0x0F).sum())


def iou(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Intersection over union of two pathways as packed masks, tensor by tensor; 1.0 if both are empty."""
    both = sum(popcount(a & b) for a, b in zip(first, second, strict=True))
    either = sum(map(popcount, first)) + sum(map(popcount, second)) - both
    return both / either if either else 1.0


def union(masks: Sequence[Tensor]) -> Tensor:
    """The packed mask of what at least one of the packed ``masks`` keeps."""
    return reduce(or_, masks)


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
        """Every pathway is dense at first."""
        self._prunable = list(prunable)
        self._packed: dict[str, list[Tensor]] = {}
        self._cached: tuple[str, list[Tensor]] | None = None
        self._ious: dict[frozenset[str], float] = {}
        dense = [pack(torch.ones(one.shape, dtype=torch.bool)) for one in self._prunable]
        for pathway in pathways:
            self.put_packed(pathway, dense)

    @property
    def weights(self) -> int:
        """How many weights a mask covers."""
        return sum(one.parameter.numel() for one in self._prunable)

    def put(self, pathway: str, new: Iterable[Tensor]) -> None:
        """Replaces a pathway's by bool masks, one a tensor, packed one by one: an iterator needs little memory."""
        with no_autograd():
            self.put_packed(pathway, [pack(mask) for mask in new])

    def put_packed(self, pathway: str, new: Sequence[Tensor]) -> None:
        """Replaces a pathway's by packed masks, one a tensor."""
        self._packed[pathway] = [one.clone() for one in new]  # copies: pathways may get the same masks
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
        return self.unpacked(pathways[0]) if len(pathways) == 1 else self.unpack(self.packed_union(pathways))

    def packed_union(self, pathways: Sequence[str]) -> list[Tensor]:
        """The packed masks of what at least one of ``pathways`` keeps."""
        return [union(one) for one in zip(*(self.packed(p) for p in pathways), strict=True)]

    def iou(self, first: str, second: str) -> float:
        """Intersection over union of two pathways; cached until one of them changes, since there are many pairs."""
        pair = frozenset((first, second))
        if pair not in self._ious:
            self._ious[pair] = iou(self.packed(first), self.packed(second))
        return self._ious[pair]

    def union_density(self, pathways: Sequence[str]) -> float:
        """Share of prunable weights that at least one of ``pathways`` keeps."""
        return sum(map(popcount, self.packed_union(pathways))) / self.weights

    def unpack(self, packed: Sequence[Tensor]) -> list[Tensor]:
        """The bool masks of packed ones, one a tensor."""
        return [self.unpack_one(packed, index) for index in range(len(self._prunable))]

    def unpack_one(self, packed: Sequence[Tensor], index: int) -> Tensor:
        """The bool mask of tensor ``index`` of packed ones."""
        with no_autograd():
            return unpack(packed[index], self._prunable[index].shape)
