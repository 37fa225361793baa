"""Pathways ready to run: one model for each language, built when it is first used and kept while there is memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.models.emformer import EmformerLayer, SegmentAttention
from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.kernels import SparseMatrix, ValueType, available
from asr_pathways.runtime.kernels.extension import warn_of_dense_products
from asr_pathways.runtime.sources import PathwaySource, Pruned
from asr_pathways.runtime.sparse_layers import SparseEmformerLayer, SparseLinear, SparseLstm

WeightType = Literal["float32", "int8", "dense"]
"""Sparse weights of a type, or ``dense``: torch's own layers with zeros among their weights, for comparison."""

DENSEST = 0.6
"""A weight of a higher density is stored with its zeros, in `DENSE` blocks."""

DENSE = "block:8x1"
"""Of dense weights too: with a few rows of activations torch's own products take up to twice as long."""


@dataclass(frozen=True)
class ReadyPathway:
    """A pathway ready to run."""

    language: str
    model: Transducer
    tokenizer: Tokenizer
    nbytes: int  # of its sparse weights


class PathwayCache:
    """The pathways of a source, ready to run; the least recently used go when ``memory`` is full. Thread-safe.

    Args:
        source: the pathways.
        threads: of each matrix product.
        dtype: of the sparse weights.
        memory: bytes that sparse weights may take; one pathway is always kept, and streams keep theirs until they
            switch.
    """

    def __init__(self, source: PathwaySource, threads: int, dtype: WeightType, memory: float) -> None:
        self._source, self._threads, self._dtype, self._memory = source, threads, dtype, memory
        self._ready: OrderedDict[str, ReadyPathway] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The languages whose pathways are ready, the most recently used last."""
        return tuple(self._ready)

    @property
    def nbytes(self) -> int:
        """Memory of the sparse weights of all of them."""
        return sum(pathway.nbytes for pathway in self._ready.values())

    def get(self, language: str) -> ReadyPathway:
        """The pathway of ``language``, built now if it is not ready."""
        with self._lock:
            if language not in self._ready:
                self._ready[language] = self._build(language)
            self._ready.move_to_end(language)
            while len(self._ready) > 1 and self.nbytes > self._memory:
                self._ready.popitem(last=False)
            return self._ready[language]

    def _build(self, language: str) -> ReadyPathway:
        source = self._source
        model = assemble(source.card, source.dense(language))
        pruned = source.pruned(language)
        if source.granularity == "neurons":
            pruned = _without_neurons(model, pruned)
        matrices: dict[str, SparseMatrix] = {}
        if not available():
            warn_of_dense_products()
        elif self._dtype != "dense":
            matrices = _sparse_weights(model, pruned, source.granularity, self._dtype)
        place(model, {name: pruned[name].dense() for name in pruned if name not in matrices})
        _put_layers(model, matrices, self._threads)
        nbytes = sum(matrix.nbytes for matrix in matrices.values())
        return ReadyPathway(language, model, source.tokenizer.of(language), nbytes)


def assemble(card: ModelCard, tensors: Mapping[str, Tensor]) -> Transducer:
    """A transducer of these tensors, none of which is copied; its other tensors are on the meta device."""
    with torch.device("meta"):
        model = Transducer(card.model)
    for module in model.modules():
        if isinstance(module, SegmentAttention):
            module.distances = module.make_distances(card.model.encoder)
    place(model, tensors)
    return model.eval()


def _without_neurons(model: Transducer, pruned: Mapping[str, Pruned]) -> dict[str, Pruned]:
    """Drops the neurons that only zeros follow, and returns what is left of the weights."""
    place(model, {name: weight.dense() for name, weight in pruned.items()})
    layers = [names for one in model.feed_forwards for names in one.layers(model)]
    after = {f"{first}.weight": f"{second}.weight" for first, second in layers}
    model.drop_neurons({name: model.get_parameter(after[name]).any(dim=0) for name in after.keys() & pruned.keys()})
    return {name: Pruned.of(model.get_parameter(name)) for name in pruned}


def _sparse_weights(
    model: nn.Module, pruned: Mapping[str, Pruned], granularity: str, dtype: ValueType
) -> dict[str, SparseMatrix]:
    """The weights of layers that have a sparse form. Those that were not pruned keep all of their precision."""
    matrices = {}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.LSTM):
            names = [name for name, _ in module.named_parameters() if name.startswith("weight")]
        else:
            names = ["weight"] if isinstance(module, nn.Linear) else []
        for name in names:
            if weight := pruned.get(f"{prefix}.{name}"):
                blocks = granularity if weight.density <= DENSEST else DENSE
                matrices[f"{prefix}.{name}"] = weight.pack(blocks, dtype)
            else:
                matrices[f"{prefix}.{name}"] = SparseMatrix.pack(getattr(module, name).float().contiguous(), DENSE)
    return matrices


def place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors in place of a model's parameters and buffers of these names; none is copied."""
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if attribute in module._parameters:
            module._parameters[attribute] = nn.Parameter(tensor.detach(), requires_grad=False)
            if isinstance(module, nn.LSTM):
                setattr(module, attribute, module._parameters[attribute])
        else:
            module._buffers[attribute] = tensor


def _put_layers(model: nn.Module, matrices: Mapping[str, SparseMatrix], threads: int) -> None:
    """Replaces the layers whose weights are among ``matrices`` by sparse ones."""
    for prefix, module in list(model.named_modules()):
        if f"{prefix}.weight" in matrices and isinstance(module, nn.Linear):
            model.set_submodule(prefix, SparseLinear(matrices[f"{prefix}.weight"], module.bias, threads))
        elif f"{prefix}.weight_ih_l0" in matrices and isinstance(module, nn.LSTM):
            cells = []
            for layer in range(module.num_layers):
                w_ih, w_hh = (matrices[f"{prefix}.weight_{kind}_l{layer}"] for kind in ("ih", "hh"))
                bias = None
                if module.bias:
                    bias = (getattr(module, f"bias_ih_l{layer}") + getattr(module, f"bias_hh_l{layer}")).detach()
                cells.append((w_ih, w_hh, bias))
            model.set_submodule(prefix, SparseLstm(cells, threads))
    for prefix, module in list(model.named_modules()):
        if matrices and isinstance(module, EmformerLayer):
            model.set_submodule(prefix, SparseEmformerLayer(module, threads))
