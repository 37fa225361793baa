"""Where pathways come from: a bundle, or a pruned model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr_pathways.bundle.building import open_transducer
from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.load import is_bundle, load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel, ModelCard
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning.masks import popcount
from asr_pathways.runtime.kernels import SparseMatrix, ValueType


class Pruned(Protocol):
    """A prunable weight under one pathway."""

    @property
    def density(self) -> float:
        """The share of it that is kept."""

    def dense(self) -> Tensor:
        """All of it, float32, zeros where nothing is kept."""

    def pack(self, granularity: str, dtype: ValueType) -> SparseMatrix:
        """What is kept, ready for sparse products; of weights with two dimensions."""


class PathwaySource(Protocol):
    """A transducer of this package with its pathways."""

    card: ModelCard
    tokenizer: Tokenizer

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def granularity(self) -> str: ...

    def dense(self, language: str) -> dict[str, Tensor]:
        """What no mask covers, by its names in the model; the same tensors for all languages that share them."""

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        """The rest."""


@dataclass(frozen=True)
class Masked:
    """A weight with zeros in it."""

    weight: Tensor

    @property
    def density(self) -> float:
        return int(self.weight.count_nonzero()) / max(1, self.weight.numel())

    def dense(self) -> Tensor:
        return self.weight

    def pack(self, granularity: str, dtype: ValueType) -> SparseMatrix:
        return SparseMatrix.pack(self.weight, granularity, dtype)


class ModelSource:
    """A transducer in memory; a dense one is its own only pathway."""

    def __init__(self, asr: AsrModel) -> None:
        assert isinstance(asr.card, ModelCard) and isinstance(asr.tokenizer, Tokenizer)
        self.card, self.tokenizer = asr.card, asr.tokenizer
        self._asr = asr

    @property
    def languages(self) -> tuple[str, ...]:
        return self._asr.languages

    @property
    def granularity(self) -> str:
        pathways = self._asr.pathways
        return "unstructured" if pathways is None else pathways.config.granularity

    def dense(self, language: str) -> dict[str, Tensor]:
        pathways = self._asr.pathways
        names = () if pathways is None else pathways.names
        state = self._asr.model.state_dict() if pathways is None else pathways.extract(language)
        return {name: tensor for name, tensor in state.items() if name not in names}

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        pathways = self._asr.pathways
        if pathways is None:
            return {}
        state = pathways.extract(language)
        return {name: Masked(state[name]) for name in pathways.names}


@dataclass(frozen=True)
class InUnion:
    """A weight of which the union of all pathways is stored, and a mask within it; bit masks over all of it.

    Attributes:
        values: (k,), float32 or float16: of the union, row-major.
    """

    values: Tensor
    union: Tensor
    mask: Tensor
    shape: tuple[int, ...]

    @property
    def density(self) -> float:
        return popcount(self.mask) / max(1, int(np.prod(self.shape)))

    def dense(self) -> Tensor:
        count = int(np.prod(self.shape))
        union, mask = (np.unpackbits(bits.numpy(), count=count, bitorder="little") for bits in (self.union, self.mask))
        found = np.zeros(count, dtype=np.float32)
        found[union.view(np.bool_)] = self.values.numpy()
        found *= mask
        return torch.from_numpy(found).view(self.shape)

    def pack(self, granularity: str, dtype: ValueType) -> SparseMatrix:
        rows, columns = self.shape
        return SparseMatrix.from_union(self.values, self.union, self.mask, (rows, columns), granularity, dtype)


class BundleSource:
    """A bundle of a transducer. Masks stay in memory once they were read, one bit a weight; values in the file.

    Raises:
        BundleError: if it is of another model, or broken.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.card, self.tokenizer = open_transducer(bundle)
        self._bundle = bundle
        self._shared: dict[str, Tensor] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        return self._bundle.languages

    @property
    def granularity(self) -> str:
        return self._bundle.config.pathways.config.granularity

    def dense(self, language: str) -> dict[str, Tensor]:
        if not self._shared:
            self._shared = self._bundle.unmasked()
        return self._shared | self._bundle.language_tensors(language)

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        bundle, layout = self._bundle, self._bundle.layout
        key = layout.key(language)
        if key not in self._masks:
            self._masks[key] = bundle.packed_masks(key)
        masks, shapes = self._masks[key], layout.tensors
        return {
            name: InUnion(bundle.union_values(name), union, masks[name], shapes[name])
            for name, union in bundle.packed_union().items()
        }


def open_source(path: str | Path) -> PathwaySource:
    """The pathways of a bundle or a MODEL folder.

    Raises:
        PathwaysError: if there is none, it is broken, or it is not a transducer of this package.
    """
    if is_bundle(Path(path)):
        return BundleSource(Bundle.open(path))
    asr = load_model(path)
    if not isinstance(asr.model, Transducer):
        raise PathwaysError(f"{path}: only the transducers of this package stream: leave --stream out")
    return ModelSource(asr)
