"""Where pathways come from: a bundle, or a pruned model in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr_pathways.bits import Bytes, pack, unpack
from asr_pathways.bundle.building import open_transducer
from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.bundle.values import Array
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.kernels.extension import available, built


@dataclass(frozen=True)
class Pruned:
    """A prunable weight under one pathway: the values that a union of masks keeps, and which of them a mask keeps.

    Attributes:
        values: (k,), float32 or float16: of the union, row-major.
        union, within: uint8 (ceil(n / 8),) and (ceil(k / 8),): a bit a weight, and a bit a value.
        shape: of the weight.
    """

    values: Array
    union: Bytes
    within: Bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, weight: Tensor) -> Pruned:
        """A weight with zeros in it."""
        array = weight.detach().numpy()
        kept = array != 0
        values = array[kept]
        return cls(values, pack(kept.reshape(-1)), pack(np.ones(len(values), dtype=np.bool_)), array.shape)

    def dense(self) -> Tensor:
        """The weight, float32, zeros where nothing is kept."""
        count = int(np.prod(self.shape))
        if available():
            parts = self.values, self.union, self.within
            return torch.from_numpy(built().expand(*parts, self.shape[0], count // self.shape[0])).view(self.shape)
        weight = np.zeros(count, dtype=np.float32)
        weight[unpack(self.union, count)] = self.values * unpack(self.within, len(self.values))
        return torch.from_numpy(weight).view(self.shape)


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
    """A bundle of a transducer. The bits of the union and of one mask are kept in memory; values stay in the file.

    Raises:
        BundleError: if it is of another model, or broken.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.card, self.tokenizer = open_transducer(bundle)
        self.languages, self.granularity = bundle.languages, bundle.config.pathways.config.granularity
        self._bundle = bundle
        self._shared: dict[str, Tensor] = {}

    def dense(self, language: str) -> dict[str, Tensor]:
        if not self._shared:
            self._shared = self._bundle.unmasked()
        return self._shared | self._bundle.language_tensors(language)

    def pruned(self, language: str) -> Mapping[str, Pruned]:
        bundle, layout = self._bundle, self._bundle.layout
        key, shapes = layout.key(language), layout.prunable
        return _Weights(
            shapes, lambda name: Pruned(bundle.union_array(name), *bundle.pathway_bits(key, name), shapes[name])
        )


class _Weights(Mapping[str, Pruned]):
    """Weights by name, each read when it is asked for: never all of them in memory."""

    def __init__(self, names: Collection[str], read: Callable[[str], Pruned]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> Pruned:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:  # a mapping's own reads the value
        return name in self._names

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
