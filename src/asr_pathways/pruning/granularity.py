"""Granularity: what is kept or dropped together. Scores are pooled to units, units are chosen, then expanded.

A weight (rows, columns, ...) is reshaped to the matrix (rows, the rest), row-major.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Granularity:
    """How scores of weights become scores of units, and a choice of units a mask; here every weight is a unit."""

    def units(self, shape: Sequence[int]) -> int:
        """How many units a weight of ``shape`` has."""
        return math.prod(shape)

    @property
    def parts(self) -> tuple[Granularity, ...]:
        """How units lie in each of the successive weights that share them; here each weight has its own."""
        return (self,)

    @property
    def implied(self) -> bool:
        """Whether the zeros of another weight that shares the units make those of this one change no output."""
        return False

    def pool(self, values: Tensor) -> Tensor:
        """The sum over each unit: (units,)."""
        return values.reshape(-1)

    def choose(self, scores: Tensor, keep: int) -> Tensor:
        """The bool mask (units,) of the ``keep`` best units, ties by lowest index."""
        from asr_pathways.pruning.top_k import top_k

        return top_k(scores, keep)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """The bool mask of ``shape`` that keeps exactly the weights of the chosen units."""
        return units.reshape(tuple(shape))

    def fits(self, mask: Tensor) -> bool:
        """Whether a bool mask is one that these units make."""
        return True


@dataclass(frozen=True)
class Blocks(Granularity):
    """Blocks of ``rows`` x ``columns`` weights; those at the right and bottom edges may be cut off."""

    rows: int
    columns: int

    def units(self, shape: Sequence[int]) -> int:
        rows, columns = _matrix_shape(shape)
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)

    def pool(self, values: Tensor) -> Tensor:
        from torch.nn.functional import pad

        matrix = values.reshape(_matrix_shape(values.shape))
        rows, columns = matrix.shape
        padded = pad(matrix, (0, -columns % self.columns, 0, -rows % self.rows))
        blocks = padded.view(-1, self.rows, padded.shape[1] // self.columns, self.columns)
        return blocks.sum(dim=(1, 3)).view(-1)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        rows, columns = _matrix_shape(shape)
        across = math.ceil(columns / self.columns)
        blocks = units.view(-1, 1, across, 1).expand(-1, self.rows, across, self.columns)
        return blocks.reshape(-1, across * self.columns)[:rows, :columns].reshape(tuple(shape))

    def fits(self, mask: Tensor) -> bool:
        return bool((self.expand(self.pool(mask.float()) > 0, mask.shape) == mask).all())


@dataclass(frozen=True)
class NOfM(Granularity):
    """Exactly ``n`` of every ``m`` consecutive weights of a row are kept, so sparsity is 1 - n/m.

    A row's last group may be shorter: it keeps ``n`` of its weights, or all.
    """

    n: int
    m: int

    def pool(self, values: Tensor) -> Tensor:
        from torch.nn.functional import pad

        matrix = values.reshape(_matrix_shape(values.shape))
        return pad(matrix, (0, -matrix.shape[1] % self.m), value=-math.inf).view(-1)

    def choose(self, scores: Tensor, keep: int) -> Tensor:
        import torch

        from asr_pathways.pruning.top_k import refuse_nan

        refuse_nan(scores)
        groups = scores.view(-1, self.m)
        beaten_by = torch.zeros_like(groups, dtype=torch.uint8)
        for first in range(self.m):
            for second in range(first + 1, self.m):
                wins = groups[:, first] >= groups[:, second]
                beaten_by[:, second] += wins
                beaten_by[:, first] += ~wins
        return (beaten_by < self.n).view(-1)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        rows, columns = _matrix_shape(shape)
        return units.view(rows, -1)[:, :columns].reshape(tuple(shape))

    def fits(self, mask: Tensor) -> bool:
        """Those of dense weights, of which nothing was chosen yet, are."""
        kept = self.pool(mask.float()).view(-1, self.m).clamp(min=0).sum(dim=1)
        return bool((kept <= self.n).all() or mask.all())


@dataclass(frozen=True)
class Rows(Granularity):
    """Rows of the first weight of a pair: what comes of them is multiplied by columns of the second."""

    @property
    def implied(self) -> bool:
        return True

    def units(self, shape: Sequence[int]) -> int:
        return shape[0]

    def pool(self, values: Tensor) -> Tensor:
        return values.flatten(1).sum(dim=1)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        return units.view(-1, *[1] * (len(shape) - 1)).expand(tuple(shape))


@dataclass(frozen=True)
class Columns(Granularity):
    """Columns of the second weight of a pair."""

    def units(self, shape: Sequence[int]) -> int:
        return shape[1]

    def pool(self, values: Tensor) -> Tensor:
        return values.sum(dim=0)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        return units.expand(tuple(shape))


@dataclass(frozen=True)
class Neurons(Granularity):
    """Neurons between two linear layers: a row of the first's weight and the column of the second's that reads it."""

    @property
    def parts(self) -> tuple[Granularity, ...]:
        return Rows(), Columns()


def parse_granularity(text: str) -> Granularity:
    """Reads ``unstructured``, ``block:RxC`` (``block:4x1``), ``n:m`` (``2:4``) or ``neurons``.

    Raises:
        ValueError: if ``text`` is none of them.
    """
    if text == "unstructured":
        return Granularity()
    if text == "neurons":
        return Neurons()
    block = re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)", text)
    if block:
        return Blocks(int(block[1]), int(block[2]))
    group = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    if group and int(group[1]) < int(group[2]) <= 255:
        return NOfM(int(group[1]), int(group[2]))
    raise ValueError(f"granularity {text!r} is none of unstructured, block:RxC (block:4x1), n:m (2:4), neurons")


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])
