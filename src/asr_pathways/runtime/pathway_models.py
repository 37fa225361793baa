"""Pathways made ready to run: one model for each language, packed when it is first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder import ModelCard, Recognizer, is_bundle, load_recognizer
from asr_pathways.models.emformer import SegmentAttention
from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.building import tokenizer_of
from asr_pathways.runtime.bundle import Bundle
from asr_pathways.runtime.kernels import SparseMatrix
from asr_pathways.runtime.layers import make_sparse

WeightType = Literal["float32", "int8", "dense"]
"""Sparse weights of a type, or ``dense``: torch's own layers with zeros among their weights, for comparison."""


class PathwaySource(Protocol):
    """Where pathways come from: a bundle, or a pruned model in memory."""

    card: ModelCard
    tokenizer: Tokenizer

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def granularity(self) -> str: ...

    def weights(self, language: str) -> dict[str, Tensor]:
        """All tensors of the model with the zeros of a pathway written in; what languages share is shared."""


class RecognizerSource:
    """The pathways of a transducer in memory; a dense model is its own only pathway."""

    def __init__(self, recognizer: Recognizer) -> None:
        assert isinstance(recognizer.card, ModelCard) and isinstance(recognizer.tokenizer, Tokenizer)
        self.card, self.tokenizer = recognizer.card, recognizer.tokenizer
        self._recognizer = recognizer

    @property
    def languages(self) -> tuple[str, ...]:
        return self._recognizer.languages

    @property
    def granularity(self) -> str:
        pathways = self._recognizer.pathways
        return "unstructured" if pathways is None else pathways.config.granularity

    def weights(self, language: str) -> dict[str, Tensor]:
        pathways = self._recognizer.pathways
        if pathways is None:
            return self._recognizer.model.state_dict()
        return pathways.extract(language)


class BundleSource:
    """The pathways of a bundle of a transducer.

    Raises:
        PathwaysError: if it is of another model, or its tokenizer is broken.
    """

    def __init__(self, bundle: Bundle) -> None:
        card = bundle.config.card
        if not isinstance(card, ModelCard):
            raise PathwaysError(f"{bundle.path}: only the transducers of this package stream: leave --stream out")
        self.card = card
        self.tokenizer = tokenizer_of(card, str(bundle.path), bundle.file)
        self._bundle = bundle

    @property
    def languages(self) -> tuple[str, ...]:
        return self._bundle.languages

    @property
    def granularity(self) -> str:
        return self._bundle.config.pathways.config.granularity

    def weights(self, language: str) -> dict[str, Tensor]:
        return self._bundle.weights(language)


@dataclass(frozen=True)
class Packed:
    """A pathway ready to run.

    Attributes:
        nbytes: what its sparse weights take.
    """

    language: str
    model: Transducer
    tokenizer: Tokenizer
    nbytes: int


class PathwayModels:
    """The packed pathways of a source; those used longest ago go when ``memory`` is full. Safe to share by threads.

    Args:
        source: the pathways.
        threads: of each matrix product.
        dtype: of the packed weights.
        memory: bytes that packed pathways may take; one is always kept, and streams keep theirs until they switch.
    """

    def __init__(self, source: PathwaySource, threads: int, dtype: WeightType, memory: float) -> None:
        self._source, self._threads, self._dtype, self._memory = source, threads, dtype, memory
        self._packed: OrderedDict[str, Packed] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The languages whose pathways are packed, the one used last at the end."""
        return tuple(self._packed)

    @property
    def nbytes(self) -> int:
        """What the packed pathways take."""
        return sum(packed.nbytes for packed in self._packed.values())

    def get(self, language: str) -> Packed:
        """The pathway of ``language``, packed now if it is not yet."""
        with self._lock:
            if language not in self._packed:
                self._packed[language] = self._pack(language)
            self._packed.move_to_end(language)
            while len(self._packed) > 1 and self.nbytes > self._memory:
                self._packed.popitem(last=False)
            return self._packed[language]

    def _pack(self, language: str) -> Packed:
        source = self._source
        model = assemble(source.card, source.weights(language))
        granularity = source.granularity

        nbytes = 0
        if (dtype := self._dtype) != "dense":
            nbytes = make_sparse(model, lambda weight: SparseMatrix.pack(weight, granularity, dtype), self._threads)
        return Packed(language, model, source.tokenizer.of(language), nbytes)


def assemble(card: ModelCard, weights: dict[str, Tensor]) -> Transducer:
    """A transducer of these very tensors: none is copied, and none is drawn at random before."""
    with torch.device("meta"):
        model = Transducer(card.model)
    for module in model.modules():
        if isinstance(module, SegmentAttention):
            module.distances = module.make_distances(card.model.encoder)
    for name, tensor in weights.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if attribute in module._parameters:
            module._parameters[attribute] = nn.Parameter(tensor.detach(), requires_grad=False)
        else:
            module._buffers[attribute] = tensor
    return model.eval()


def open_source(path: str | Path) -> PathwaySource:
    """The pathways of a bundle or a MODEL folder.

    Raises:
        PathwaysError: if there is none, it is broken, or it is not a transducer of this package.
    """
    if is_bundle(Path(path)):
        return BundleSource(Bundle.open(path))
    recognizer = load_recognizer(path)
    if not isinstance(recognizer.model, Transducer):
        raise PathwaysError(f"{path}: only the transducers of this package stream: leave --stream out")
    return RecognizerSource(recognizer)
