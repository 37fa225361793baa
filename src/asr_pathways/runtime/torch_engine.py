"""Engines by torch: transducers of this package, which stream, and the models of the hub that are not Whisper."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, mul
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import nn

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.load import load_identifier, load_model
from asr_pathways.bundle.reading import has_identifier
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import IDENTIFIER
from asr_pathways.model_folder.language_id import LanguageIdentifier, choices, rank
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.base import Aligned, HubModel
from asr_pathways.models.hub.codec import HubTokenizer
from asr_pathways.runtime.compiled_layers import (
    CompiledLinear,
    compiled_convolution,
    compiled_linear,
    compiled_lstm,
    recorded,
    replaceable,
    rows_of,
)
from asr_pathways.runtime.kernels import available
from asr_pathways.runtime.layers import Layers, Plan, Precision
from asr_pathways.runtime.lru_cache import LruCache
from asr_pathways.runtime.pathway_cache import place
from asr_pathways.runtime.results import Segment, Word, in_turn
from asr_pathways.runtime.streaming import StreamingTransducer

EXAMPLE_SECONDS = 1.0
"""Of audio by which it is found which layers a model calls."""

TINY = 1e-10
"""A probability is taken to be at least this, where its logarithm is averaged."""


class Identification:
    """Tells languages apart by the identifier that was fitted for a MODEL; without one, by the model itself if it can.

    Args:
        model: the MODEL, where the identifier is; None: there is none.
        asr: it in memory; None: it is loaded when it is first needed.
    """

    def __init__(self, model: Path | None, asr: AsrModel | None = None) -> None:
        bundle = model is not None and is_bundle(model)
        self._model = Bundle.open(model) if model is not None and bundle else model  # which may be replaced meanwhile
        self._given = asr
        self.lock = threading.Lock()  # the model holds one pathway at a time

    @cached_property
    def _asr(self) -> AsrModel:
        if self._given is not None:
            return self._given
        return self._read.model() if isinstance(self._read, Bundle) else load_model(self._read)

    @property
    def _read(self) -> Path | Bundle:
        if self._model is None:
            raise PathwaysError("a model in memory has no language identifier: save it, and fit one")
        return self._model

    @cached_property
    def _identifier(self) -> LanguageIdentifier | None:
        """None if none was fitted, and the model tells languages apart by itself."""
        model = self._model
        fitted = model.has(IDENTIFIER) if isinstance(model, Bundle) else model is not None and has_identifier(model)
        by_itself = self._given is not None and self._given.model.identifies_languages
        return None if by_itself and not fitted else load_identifier(self._read)

    def check(self) -> None:
        """Raises PathwaysError if languages cannot be told apart."""
        _ = self._identifier

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        with self.lock:
            every = set(languages) >= set(self._asr.languages)  # then those that the identifier knows
            asked = choices(self._asr, self._identifier, None if every else languages)
            return dict(rank(self._asr, self._identifier, self._asr.model.frontend(samples), asked))


class TransducerEngine:
    """A transducer of this package: a recording is a stream that is accepted at once.

    Args:
        streaming: of the model.
        model: the MODEL, where a language identifier may be; None: there is none.
    """

    window = float("inf")
    free_text = False
    times_words = True

    def __init__(self, streaming: StreamingTransducer, model: Path | None) -> None:
        self._streaming, self.languages = streaming, streaming.languages
        self._identification = Identification(model)

    def check_identification(self) -> None:
        self._identification.check()

    def load(self, language: str) -> None:
        self._streaming.load(language)

    def plan(self) -> Plan:
        for language in self.languages:
            self.load(language)
        return _plan(self._streaming.pathways.layers)

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        stream = self._streaming.stream(language)
        stream.accept(samples)
        result = stream.final()
        if not result.text:
            return None
        return Segment(result.text, 0.0, len(samples) / SAMPLE_RATE, language, result.words if words else ())

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        return self._identification.probabilities(samples, languages)


@dataclass(frozen=True)
class _Pathway:
    """A pathway of a hub model ready to run; ``nbytes`` of what it does not share with others."""

    model: HubModel
    nbytes: int


class TorchEngine:
    """A model of the hub by torch, its linear and LSTM layers by the compiled kernels if these were built. Thread-safe.

    Each pathway has a network of its own. What no mask covers and is of no language is shared.

    Args:
        asr: the model.
        model: the MODEL, where a language identifier may be; None: there is none.
        threads: of each product.
        precision: of products; see `Layers`.
        memory: bytes that weights of pathways may take before the least recently used are dropped.

    Attributes:
        languages: that it recognises; empty: any.
        model, threads, memory: as above.
        lock: of the model, whose weights are those of one language at a time where languages are told apart.
        layers: how its linear layers are stored, with the timings that decided it; None without kernels.
    """

    def __init__(
        self,
        asr: AsrModel,
        model: Path | None,
        threads: int = 1,
        precision: Precision = "auto",
        memory: float = math.inf,
    ) -> None:
        assert isinstance(asr.model, HubModel)
        self._asr, self.model, self.threads, self.memory = asr, asr.model.eval(), threads, memory
        self.languages, self.window, self.free_text = asr.languages, asr.model.window, asr.model.free_text
        self.times_words = type(asr.model).aligned is not HubModel.aligned
        self._identification = Identification(model, asr)
        granularity = "unstructured" if asr.pathways is None else asr.pathways.config.granularity
        self.layers = Layers(precision, granularity, threads, torch=True) if available() else None
        self._pathways = LruCache[str, _Pathway](memory, attrgetter("nbytes"))
        self._shared: dict[str, CompiledLinear] = {}
        self.lock = threading.Lock()

    def check_identification(self) -> None:
        self._identification.check()

    def load(self, language: str) -> None:
        self._pathway(language)

    def plan(self) -> Plan:
        pathways = self._asr.pathways
        for language in self.languages[:1] or ("",) if pathways is None else pathways.languages:
            self.load(language)
        return _plan(self.layers)

    @torch.inference_mode()
    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        """As `Engine.recognize`: greedy search, by the model's own `HubModel.aligned`.

        Raises:
            PathwaysError: if it is too short, or words are asked for and the model times none.
        """
        model, seconds = self._pathway(language), len(samples) / SAMPLE_RATE
        with torch_threads(self.threads):
            features = model.frontend(samples)[None]
            if reason := model.length_error(features.shape[1], []):
                raise PathwaysError(f"only {1000 * seconds:.0f} ms of audio: {reason}")
            (path,) = model.aligned(features, torch.tensor([features.shape[1]]), language)
        text = self.text(path.tokens, language)
        if not text:
            return None
        timed = self.words(path, language, seconds) if words else ()
        probability = fmean(math.log(max(one, TINY)) for one in path.probabilities) if path.probabilities else None
        return Segment(text, 0.0, seconds, language, timed, log_probability=probability)

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        with self.lock, torch_threads(self.threads):
            return self._identification.probabilities(samples, languages)

    def text(self, tokens: Sequence[int], language: str) -> str:
        """The text of tokens."""
        with self.lock:  # some tokenizers have a state, which is the language
            return self._asr.tokenizer.decode(tokens, language)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary has them."""
        assert isinstance(self._asr.tokenizer, HubTokenizer)
        return [str(piece) for piece in self._asr.tokenizer.tokenizer.convert_ids_to_tokens(list(tokens))]

    def words(self, path: Aligned, language: str, seconds: float, begin: float = 0.0) -> tuple[Word, ...]:
        """The words of what search found in audio of ``seconds``, which begins at ``begin``.

        Raises:
            PathwaysError: if the model times none.
        """
        if path.tokens and not path.spans:
            raise PathwaysError("this model times no words without compiled kernels")
        codec, frame = self._asr.tokenizer, self.model.frame_seconds
        assert isinstance(codec, HubTokenizer)
        words = []
        with self.lock:
            spoken = codec.words(path.tokens, language)
        for text, places in spoken:
            spans = [path.spans[place] for place in places]
            start, end = (round(begin + min(frame * edge, seconds), 2) for edge in (spans[0][0], spans[-1][1]))
            counts = [last - first for first, last in spans]
            probabilities = [path.probabilities[place] for place in places]
            probability = sum(map(mul, probabilities, counts)) / sum(counts)
            words.append(Word(text, start, end, min(1.0, probability)))
        return in_turn(words)  # of a transducer, several may be of one frame

    def _pathway(self, language: str) -> HubModel:
        def build() -> _Pathway:
            with torch_threads(self.threads), torch.no_grad():
                return self._build(language)

        with self.lock, torch.inference_mode(False):
            return self._pathways.used(self.key(language), build).model

    def key(self, language: str) -> str:
        """What pathways that differ differ in."""
        pathways = self._asr.pathways
        if pathways is None or (pathways.config.shared and language not in pathways.added):
            return language if self.model.language_parameters(language) else ""
        return language

    def specialized(self, language: str) -> HubModel:
        """The model of a language's pathway, in layers of torch; it shares with others what no mask covers."""
        pathways, model = self._asr.pathways, self.model.twin()
        if pathways is not None:
            state = pathways.extract(language)
            # the tensors of an added language take turns in the model's own
            place(model.network, state if pathways.added else {name: state[name] for name in pathways.names})
            if neurons := pathways.neurons(language):
                model.drop_neurons(neurons)
        model.specialize(language)
        return model

    def _build(self, language: str) -> _Pathway:
        model = self.specialized(language)
        pruned: Collection[str] = () if self._asr.pathways is None else self._asr.pathways.names
        nbytes = 0 if self.layers is None else self._compile(model, language, pruned, self.layers)
        common = {id(tensor) for tensor in self.model.parameters()}
        return _Pathway(model, nbytes + sum(one.nbytes for one in model.parameters() if id(one) not in common))

    def _compile(self, model: HubModel, language: str, pruned: Collection[str], layers: Layers) -> int:
        """Replaces layers by compiled ones, and returns how many bytes of these are of this pathway alone."""
        features = model.frontend(np.zeros(round(EXAMPLE_SECONDS * SAMPLE_RATE), dtype=np.float32))[None]
        with recorded(model.network) as called:
            model.decode(features, torch.tensor([features.shape[1]]), language)
        originals, nbytes = dict(self.model.network.named_parameters()), 0
        for name in sorted(called):
            module = model.network.get_submodule(name)
            weights = [f"{name}.{one}" for one, _ in module.named_parameters(recurse=False)]
            if not replaceable(module, pruned=not set(pruned).isdisjoint(weights)):
                continue
            if isinstance(module, nn.Conv1d):
                convolution = compiled_convolution(module, layers)
                model.network.set_submodule(name, convolution)
                nbytes += convolution.product.nbytes
                continue
            if isinstance(module, nn.LSTM):
                lstm = compiled_lstm(module, layers)
                model.network.set_submodule(name, lstm)
                nbytes += lstm.nbytes
                continue
            assert isinstance(module, nn.Linear)
            common = all(model.network.get_parameter(one) is originals[one] for one in weights)
            layer = self._shared.get(name) if common else None
            if layer is None:
                layer = compiled_linear(module, layers, rows_of(name, model.stepwise))
            if common:
                self._shared[name] = layer
            else:
                nbytes += layer.nbytes
            model.network.set_submodule(name, layer)
        return nbytes


def _plan(layers: Layers | None) -> Plan:
    if layers is None:
        raise PathwaysError("the sparse kernels were not built: torch computes all products, and there is no plan")
    return layers.plan


_counts: list[int] = []
_counting = threading.Lock()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch uses so many threads while the context lasts; where several last at once, as the first of them says."""
    with _counting:
        if not _counts:
            _counts.append(torch.get_num_threads())
            torch.set_num_threads(count)
        _counts.append(count)
    try:
        yield
    finally:
        with _counting:
            _counts.pop()
            if len(_counts) == 1:
                torch.set_num_threads(_counts.pop())
