"""Pathways made ready to run: one model for each language, packed when it is first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import ModelCard
from asr_pathways.models.emformer import EmformerLayer, SegmentAttention
from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.kernels import SparseMatrix, ValueType, available
from asr_pathways.runtime.layers import PackedLayer, SparseLinear, SparseLstm
from asr_pathways.runtime.sources import PathwaySource, Pruned

WeightType = Literal["float32", "int8", "dense"]
"""Sparse weights of a type, or ``dense``: torch's own layers with zeros among their weights, for comparison."""

DENSEST = 0.6
"""A weight of which more is kept is packed with its zeros, in `DENSE` blocks."""

DENSE = "block:8x1"
"""Of dense weights too: with a few rows of activations torch's own products take up to twice as long."""


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
        model = assemble(source.card, source.dense(language))
        pruned = source.pruned(language)
        matrices: dict[str, SparseMatrix] = {}
        if self._dtype != "dense":
            matrices = _packed(model, pruned, source.granularity, self._dtype)
        _place(model, {name: weight.dense() for name, weight in pruned.items() if name not in matrices})
        _put_layers(model, matrices, self._threads)
        nbytes = sum(matrix.nbytes for matrix in matrices.values())
        return Packed(language, model, source.tokenizer.of(language), nbytes)


def assemble(card: ModelCard, tensors: Mapping[str, Tensor]) -> Transducer:
    """A transducer of these very tensors: none is copied. The others have no values yet."""
    with torch.device("meta"):
        model = Transducer(card.model)
    for module in model.modules():
        if isinstance(module, SegmentAttention):
            module.distances = module.make_distances(card.model.encoder)
    _place(model, tensors)
    return model.eval()


def _packed(
    model: nn.Module, pruned: Mapping[str, Pruned], granularity: str, dtype: ValueType
) -> dict[str, SparseMatrix]:
    """The weights of layers that have a sparse form. Those that were not pruned keep all of their precision."""
    found = {}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.LSTM):
            own = [name for name, _ in module.named_parameters() if name.startswith("weight")]
        else:
            own = ["weight"] if isinstance(module, nn.Linear) else []
        for name in own:
            if weight := pruned.get(f"{prefix}.{name}"):
                layout = granularity if weight.density <= DENSEST else DENSE
                found[f"{prefix}.{name}"] = weight.pack(layout, dtype)
            elif available():
                found[f"{prefix}.{name}"] = SparseMatrix.pack(getattr(module, name).float().contiguous(), DENSE)
    return found


def _place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
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
    """Sparse layers in the places of those whose weights are among ``matrices``."""
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
        if matrices and available() and isinstance(module, EmformerLayer):
            model.set_submodule(prefix, PackedLayer(module, threads))
