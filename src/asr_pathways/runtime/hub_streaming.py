"""Streams of cache-aware transducers of the hub (Nemotron streaming), with its own caches and choices of look-ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import Aligned
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.runtime.compiled_conformer import CompiledProducts
from asr_pathways.runtime.fast_conformer import EncoderState, Network, Search, TorchProducts
from asr_pathways.runtime.layers import Layers
from asr_pathways.runtime.lru_cache import LruCache
from asr_pathways.runtime.results import Word
from asr_pathways.runtime.stream import Endpointing, FrameStream, Incoming, StreamResult
from asr_pathways.runtime.torch_engine import TorchEngine, torch_threads


class HubStreaming:
    """Streams of a cache-aware transducer, each in its own language. May be shared by threads; a stream may not.

    Args:
        engine: of the model, whose threads, precision and memory count here too.
        lookahead: frames of the encoder that a chunk's first frame sees after itself, and so the length of a chunk;
            None: the model's default.
        endpointing: when `HubStream.endpoint` is true.

    Attributes:
        engine, endpointing: as above.
        extractor, frame_seconds: of the model.

    Raises:
        PathwaysError: for a look-ahead that the model was not trained with.
    """

    def __init__(self, engine: TorchEngine, lookahead: int | None, endpointing: Endpointing) -> None:
        model = engine.model
        assert isinstance(model, HubTransducer) and model.cache_aware is not None
        choices = model.cache_aware.lookaheads
        chosen = model.cache_aware.lookahead if lookahead is None else lookahead
        if chosen not in choices:
            raise PathwaysError(
                f"lookahead: {lookahead}: this model was trained with {', '.join(map(str, choices))} frames"
            )
        self.engine, self.endpointing = engine, endpointing
        self.extractor, self.frame_seconds = model.frontend.extractor, model.frame_seconds
        self._model, self._lookahead, self._lock = model.cache_aware, chosen, threading.Lock()
        layers = engine.layers
        self._layers = layers and Layers(layers.precision, layers.granularity, layers.threads)  # without torch's own
        self._networks = LruCache[tuple[str, int | None], Network](engine.memory, attrgetter("nbytes"))

    def stream(self, language: str, check: Callable[[str], str]) -> HubStream:
        """A new stream.

        Args:
            language: one of the model's codes.
            check: from what a user calls a language to its code, or a `PathwaysError`.
        """
        return HubStream(self, language, check)

    def network(self, language: str) -> Network:
        """The network of a language's pathway, made when it is first used; the least recently used are dropped."""
        with self._lock, torch.inference_mode():
            key = self.engine.key(language), self._model.prompt(language)
            return self._networks.used(key, partial(self._build, language))

    def _build(self, language: str) -> Network:
        with self.engine.lock:
            model = self.engine.specialized(language)
        assert isinstance(model, HubTransducer)
        prompt = self._model.prompt(language)
        with torch_threads(self.engine.threads):
            products = TorchProducts() if self._layers is None else CompiledProducts(self._layers)
            return Network(model.hub, self._lookahead, products, prompt)


class _Features:
    """The features of a segment as they come: frames of the model's own extractor, each when its samples are there."""

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor
        self._hop, self._half = int(extractor.hop_length), int(extractor.n_fft) // 2
        self._samples = np.zeros(self._half, dtype=np.float32)  # before the start is silence

    def accept(self, samples: Samples) -> None:
        self._samples = np.concatenate([self._samples, samples])

    @property
    def ready(self) -> int:
        """Frames whose samples are all there."""
        return max(0, (len(self._samples) - 2 * self._half) // self._hop + 1)

    def take(self, count: int) -> Tensor:
        """The next frames (count, F), of those that are `ready`."""
        end = (count - 1) * self._hop + 2 * self._half
        found = self._extract(self._samples[:end], last=False)
        self._samples = self._samples[count * self._hop :]
        return found

    def rest(self) -> Tensor:
        """The frames that are left at the end, which reach beyond it: (n, F), as of the whole recording."""
        if len(self._samples) - self._half < self._hop:
            return torch.zeros(0, int(self._extractor.feature_size))
        return self._extract(self._samples, last=True)

    def _extract(self, samples: Samples, last: bool) -> Tensor:
        extracted = self._extractor(
            samples, sampling_rate=SAMPLE_RATE, center=False, is_last_audio_chunk=last, return_tensors="pt"
        )
        features: Tensor = extracted["input_features"][0]
        return features[: int(extracted["attention_mask"][0].sum())]


class _Segment:
    """The state of decoding one segment."""

    def __init__(self, network: Network, extractor: Any) -> None:
        self.incoming, self.samples = Incoming(), 0
        self.search = Search(network)
        self._network, self._features = network, _Features(extractor)
        self._state: EncoderState = network.encoder.initial_state()

    def accept(self, samples: Samples, rate: int) -> None:
        self._add(self.incoming.accept(samples, rate))

    def decode(self) -> None:
        """Decodes the whole chunks."""
        while (wanted := self._network.encoder.features_wanted(self._state)) <= self._features.ready:
            self.search.accept(self._network.encode(self._features.take(wanted), self._state))

    def end(self) -> None:
        """Decodes all that is left."""
        self._add(self.incoming.end())
        self.decode()
        rest = self._features.rest()
        if len(rest) or self.search.past:
            self.search.accept(self._network.encode(rest, self._state, final=True))

    def _add(self, samples: Samples) -> None:
        self.samples += len(samples)
        self._features.accept(samples)


class HubStream(FrameStream[_Segment]):
    """A `Stream` of a cache-aware transducer; made by `HubStreaming.stream`."""

    def __init__(self, streaming: HubStreaming, language: str, check: Callable[[str], str]) -> None:
        self._streaming = streaming
        super().__init__(language, check, streaming.endpointing, streaming.frame_seconds)

    def _new_segment(self, language: str) -> _Segment:
        self._written = (0, "", tuple[Word, ...]())
        with torch.inference_mode():
            return _Segment(self._streaming.network(language), self._streaming.extractor)

    def _decode(self) -> None:
        with torch.inference_mode(), torch_threads(self._streaming.engine.threads):
            self._segment.decode()

    def _end(self) -> None:
        with torch.inference_mode(), torch_threads(self._streaming.engine.threads):
            self._segment.end()

    def _reached(self) -> tuple[int, int | None]:
        search = self._segment.search
        return search.past, search.frames[-1] if search.frames else None

    def _result(self, final: bool) -> StreamResult:
        search, engine, frame, start = self._segment.search, self._streaming.engine, self._frame, self._start
        decoded = self._segment.samples / SAMPLE_RATE
        if not final:
            decoded = min(decoded, frame * search.past)
        if len(search.tokens) > self._written[0]:
            spans = [(place, place + 1) for place in search.frames]
            words = engine.words(Aligned(search.tokens, spans, search.probabilities), self.language, decoded, start)
            self._written = len(search.tokens), engine.text(search.tokens, self.language), words
        times = [round(start + frame * place, 2) for place in search.frames]
        tokens = list(zip(engine.pieces(search.tokens), times, strict=True))
        _, text, words = self._written
        stable = text if final else text.rpartition(" ")[0]  # the last word may go on
        return StreamResult(self.language, text, stable, words, start, start + decoded, final, tokens)
