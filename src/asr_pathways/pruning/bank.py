"""The masks of all pathways, packed; only the one in use is unpacked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from asr_pathways.pruning import masks
from asr_pathways.pruning.targets import Target
from asr_pathways.pruning.weights import quiet


class MaskBank:
    """One mask for each pathway and tensor, at one bit a weight."""

    def __init__(self, targets: Sequence[Target], pathways: Iterable[str]) -> None:
        """Every pathway keeps everything at first."""
        self._targets = list(targets)
        self._packed: dict[str, list[Tensor]] = {}
        self._cached: tuple[str, list[Tensor]] | None = None
        self._ious: dict[frozenset[str], float] = {}
        everything = [masks.pack(torch.ones(target.shape, dtype=torch.bool)) for target in self._targets]
        for pathway in pathways:
            self.put_packed(pathway, everything)

    @property
    def weights(self) -> int:
        """How many weights a mask covers."""
        return sum(target.parameter.numel() for target in self._targets)

    def put(self, pathway: str, new: Iterable[Tensor]) -> None:
        """Takes bool masks, one a tensor; they are packed one by one, so an iterator needs little memory."""
        with quiet():
            self.put_packed(pathway, [masks.pack(mask) for mask in new])

    def put_packed(self, pathway: str, new: Sequence[Tensor]) -> None:
        """Takes packed masks, one a tensor."""
        self._packed[pathway] = [bits.clone() for bits in new]  # its own: pathways may be given the same masks
        self._cached = None
        self._ious = {pair: iou for pair, iou in self._ious.items() if pathway not in pair}

    def packed(self, pathway: str) -> list[Tensor]:
        """The packed masks, one a tensor, each on its weight's device (to which a model may have moved)."""
        held = self._packed[pathway]
        for index, target in enumerate(self._targets):
            held[index] = held[index].to(target.parameter.device)
        return held

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
        return [masks.union(one) for one in zip(*(self.packed(p) for p in pathways), strict=True)]

    def packed_outside(self, pathways: Sequence[str]) -> list[Tensor]:
        """The packed masks of what none of ``pathways`` keeps."""
        kept = self.packed_union(pathways)
        return [masks.complement(bits, target.shape) for bits, target in zip(kept, self._targets, strict=True)]

    def share(self, pathways: Sequence[str], index: int) -> Tensor:
        """The share of ``pathways`` that keep each weight of tensor ``index``, float32."""
        target = self._targets[index]
        total = torch.zeros(target.shape, device=target.parameter.device)
        with quiet():
            for pathway in pathways:
                total += masks.unpack(self.packed(pathway)[index], target.shape)
        return total / max(1, len(pathways))

    def iou(self, first: str, second: str) -> float:
        """Intersection over union of two pathways; kept until one of them changes, since there are many pairs."""
        pair = frozenset((first, second))
        if pair not in self._ious:
            self._ious[pair] = masks.iou(self.packed(first), self.packed(second))
        return self._ious[pair]

    def kept(self, pathway: str) -> list[int]:
        """How many weights of each tensor a pathway keeps."""
        return [masks.popcount(packed) for packed in self._packed[pathway]]

    def named(self, pathway: str) -> dict[str, Tensor]:
        """{tensor's name: bool mask}, the caller's own."""
        return dict(zip((t.name for t in self._targets), self.unpack(self.packed(pathway)), strict=True))

    def unpack(self, packed: Sequence[Tensor]) -> list[Tensor]:
        """The bool masks of packed ones, one a tensor."""
        return [self.unpack_one(packed, index) for index in range(len(self._targets))]

    def unpack_one(self, packed: Sequence[Tensor], index: int) -> Tensor:
        """The bool mask of tensor ``index`` of packed ones."""
        with quiet():
            return masks.unpack(packed[index], self._targets[index].shape)
