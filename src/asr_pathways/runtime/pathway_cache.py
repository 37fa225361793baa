"""Pathways ready to run: one model for each language, built when it is first used and kept while there is memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.models.config import EmformerConfig
from asr_pathways.models.emformer import EmformerLayer, SegmentAttention
from asr_pathways.models.transducer import LOOKAHEAD, Transducer
from asr_pathways.runtime.compiled_layers import (
    CompiledEmformerLayer,
    CompiledLinear,
    CompiledLstm,
    compiled_linear,
    compiled_lstm,
)
from asr_pathways.runtime.kernels import available
from asr_pathways.runtime.kernels.extension import warn_of_dense_products
from asr_pathways.runtime.layers import FEW, Layers, Precision
from asr_pathways.runtime.lru_cache import LruCache
from asr_pathways.runtime.sources import PathwaySource, Pruned


@dataclass(frozen=True)
class ReadyPathway:
    """A pathway ready to run."""

    language: str
    model: Transducer
    tokenizer: Tokenizer
    nbytes: int  # of its layers' weights that no other pathway shares


class PathwayCache:
    """The pathways of a source, ready to run; the least recently used go when ``memory`` is full. Thread-safe.

    Args:
        source: the pathways.
        threads: of each matrix product.
        precision: of the products; None: torch's own layers, for comparison.
        memory: bytes that weights of pathways may take; one pathway is always kept, and streams keep theirs until they
            switch.

    Attributes:
        layers: how linear layers are stored, with the timings that decided it; None if products are torch's.
    """

    def __init__(self, source: PathwaySource, threads: int, precision: Precision | None, memory: float) -> None:
        self._source = source
        self.layers = None if precision is None or not available() else Layers(precision, source.granularity, threads)
        self._ready = LruCache[str, ReadyPathway](memory, attrgetter("nbytes"))
        self._shared: dict[str, tuple[list[Tensor | None], CompiledLinear]] = {}
        self._lock = threading.Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The languages whose pathways are ready, the most recently used last."""
        return tuple(self._ready)

    @property
    def nbytes(self) -> int:
        """Memory of the weights of all of them, what they share not counted."""
        return self._ready.nbytes

    def get(self, language: str) -> ReadyPathway:
        """The pathway of ``language``, built now if it is not ready."""
        with self._lock:
            return self._ready.used(language, partial(self._build, language))

    def _build(self, language: str) -> ReadyPathway:
        source = self._source
        dense, pruned = source.dense(language), source.pruned(language)
        model = assemble(source.card, dense)
        if source.granularity == "neurons":
            pruned = _without_neurons(model, pruned)
        if not available():
            warn_of_dense_products()
        nbytes = 0 if self.layers is None else self._compile(model, dense, pruned, self.layers)
        _place_rest(model, pruned)
        return ReadyPathway(language, model, source.tokenizer.of(language), nbytes)

    def _compile(
        self, model: Transducer, dense: Mapping[str, Tensor], pruned: Mapping[str, Pruned], layers: Layers
    ) -> int:
        """Puts compiled layers in place of torch's, and returns how many bytes of these are of this pathway alone.

        Predictor and joiner, which choose the tokens in a few products, are exact.
        """
        nbytes = 0
        for prefix in [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.LSTM))]:
            if prefix == "ctc_output":  # which decodes nothing
                continue
            module = model.get_submodule(prefix)  # in no list: its weights go when its layer is made
            rows, exact = _rows(prefix, model.config.encoder), not prefix.startswith("encoder.")
            names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
            place(model, {name: pruned[name].dense() for name in names if name in pruned})
            layer: CompiledLinear | CompiledLstm
            if isinstance(module, nn.LSTM):
                layer = compiled_lstm(module, layers, exact)
            else:
                assert isinstance(module, nn.Linear)
                layer = self._linear(prefix, module, [dense.get(name) for name in names], layers, rows, exact)
            model.set_submodule(prefix, layer)
            shared = self._shared.get(prefix)
            nbytes += 0 if shared is not None and layer is shared[1] else layer.nbytes
        _place_rest(model, pruned)  # of convolutions, which steps of an encoder layer read
        for prefix, module in list(model.named_modules()):
            if isinstance(module, EmformerLayer):
                model.set_submodule(prefix, CompiledEmformerLayer(module, layers.threads))
        return nbytes

    def _linear(
        self, name: str, module: nn.Linear, tensors: list[Tensor | None], layers: Layers, rows: int, exact: bool
    ) -> CompiledLinear:
        """A layer; one that no mask covers is made once for the languages that have the same ``tensors``.

        Args:
            tensors: the weight and bias that no mask covers; None for those that one does.
        """
        known = self._shared.get(name)
        if known is not None and all(one is other for one, other in zip(known[0], tensors, strict=True)):
            return known[1]
        layer = compiled_linear(module, layers, rows, exact)
        if all(one is not None for one in tensors):
            self._shared.setdefault(name, (tensors, layer))
        return layer


def _rows(name: str, config: EmformerConfig) -> int:
    """Rows of activations of a linear layer by its name, of one stream."""
    if name.startswith("encoder.layers."):
        return config.segment + config.right_context
    return {"joiner.prediction": FEW, "joiner.output": LOOKAHEAD}.get(name, config.segment)


def assemble(card: ModelCard, tensors: Mapping[str, Tensor]) -> Transducer:
    """A transducer of these tensors, none of which is copied; its other tensors are on the meta device."""
    with torch.device("meta"):
        model = Transducer(card.model)
    for module in model.modules():
        if isinstance(module, SegmentAttention):
            module.distances = module.make_distances(card.model.encoder)
    place(model, tensors)
    return model.eval()


def _place_rest(model: Transducer, pruned: Mapping[str, Pruned]) -> None:
    """Makes the pruned weights that are still on the meta device."""
    missing = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    place(model, {name: pruned[name].dense() for name in pruned if name in missing})


def _without_neurons(model: Transducer, pruned: Mapping[str, Pruned]) -> dict[str, Pruned]:
    """Drops the neurons that only zeros follow, and returns what is left of the weights."""
    place(model, {name: weight.dense() for name, weight in pruned.items()})
    layers = [names for one in model.feed_forwards for names in one.layers(model)]
    after = {f"{first}.weight": f"{second}.weight" for first, second in layers}
    model.drop_neurons({name: model.get_parameter(after[name]).any(dim=0) for name in after.keys() & pruned.keys()})
    return {name: Pruned.of(model.get_parameter(name)) for name in pruned}


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
