"""Where pathways come from: a bundle, or a pruned model in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr_pathways.bundle.building import open_transducer
from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning.masks import pack, popcount
from asr_pathways.runtime.kernels import SparseMatrix, ValueType


@dataclass(frozen=True)
class Pruned:
    """A prunable weight under one pathway: the values that a union of masks keeps, and a mask within it.

    Attributes:
        values: (k,), float32 or float16: of the union, row-major.
        union, mask: uint8 (ceil(n / 8),), as `asr_pathways.pruning.masks.pack` makes them.
        shape: of the weight.
    """

    values: Tensor
    union: Tensor
    mask: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, weight: Tensor) -> Pruned:
        """A weight with zeros in it."""
        kept = weight != 0
        bits = pack(kept)
        return cls(weight[kept], bits, bits, tuple(weight.shape))

    @property
    def density(self) -> float:
        """The share of the weight that is kept."""
        return popcount(self.mask) / max(1, int(np.prod(self.shape)))

    def dense(self) -> Tensor:
        """The weight, float32, zeros where nothing is kept."""
        count = int(np.prod(self.shape))
        union, mask = (np.unpackbits(bits.numpy(), count=count, bitorder="little") for bits in (self.union, self.mask))
        weight = np.zeros(count, dtype=np.float32)
        weight[union.view(np.bool_)] = self.values.numpy()
        weight *= mask
        return torch.from_numpy(weight).view(self.shape)

    def pack(self, granularity: str, dtype: ValueType) -> SparseMatrix:
        """The mask's values, ready for sparse products; of weights with two dimensions."""
        rows, columns = self.shape
        return SparseMatrix.from_union(self.values, self.union, self.mask, (rows, columns), granularity, dtype)


class PathwaySource(Protocol):
    """A transducer of this package with its pathways."""

    card: ModelCard
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    granularity: str

    def dense(self, language: str) -> dict[str, Tensor]:
        """What no mask covers, by its names in the model; the same tensors for all languages that share them."""

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        """The rest."""


class ModelSource:
    """A transducer in memory; a dense one has a single pathway, the whole model."""

    def __init__(self, asr: AsrModel) -> None:
        assert isinstance(asr.card, ModelCard) and isinstance(asr.tokenizer, Tokenizer)
        self.card, self.tokenizer, self.languages = asr.card, asr.tokenizer, asr.languages
        self.granularity = "unstructured" if asr.pathways is None else asr.pathways.config.granularity
        self._asr = asr

    def dense(self, language: str) -> dict[str, Tensor]:
        pathways = self._asr.pathways
        if pathways is None:
            return self._asr.model.state_dict()
        return {name: weight for name, weight in pathways.extract(language).items() if name not in pathways.names}

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        pathways = self._asr.pathways
        if pathways is None:
            return {}
        state = pathways.extract(language)
        return {name: Pruned.of(state[name]) for name in pathways.names}


class BundleSource:
    """A bundle of a transducer. Masks that were read are kept in memory, one bit a weight; values stay in the file.

    Raises:
        BundleError: if it is of another model, or broken.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.card, self.tokenizer = open_transducer(bundle)
        self.languages, self.granularity = bundle.languages, bundle.config.pathways.config.granularity
        self._bundle = bundle
        self._shared: dict[str, Tensor] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}

    def dense(self, language: str) -> dict[str, Tensor]:
        if not self._shared:
            self._shared = self._bundle.unmasked()
        return self._shared | self._bundle.language_tensors(language)

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        bundle, layout = self._bundle, self._bundle.layout
        key = layout.key(language)
        if key not in self._masks:
            self._masks[key] = bundle.packed_masks(key)
        masks, unions, shapes = self._masks[key], bundle.packed_union(), layout.prunable
        return _Weights(shapes, lambda name: Pruned(bundle.union_values(name), unions[name], masks[name], shapes[name]))


class _Weights(Mapping[str, Pruned]):
    """Weights by name, each read when it is asked for: never all of them in memory."""

    def __init__(self, names: Collection[str], read: Callable[[str], Pruned]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> Pruned:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
