"""Streams of cache-aware transducers of the hub (Nemotron streaming), with its own caches and choices of look-ahead."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.data.audio import SAMPLE_RATE, Samples, check_rate, require_scale
from asr_pathways.data.languages import find_language
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import Aligned
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.runtime.fast_conformer import EncoderState, Multiply, Network, Search
from asr_pathways.runtime.kernels.extension import check_runner
from asr_pathways.runtime.layers import Layers
from asr_pathways.runtime.results import Word
from asr_pathways.runtime.streaming import Endpointing, StreamResult
from asr_pathways.runtime.torch_engine import TorchEngine, torch_threads


@dataclass(frozen=True)
class HubStreamResult(StreamResult):
    """The hypothesis of one segment of a hub model, whose text is as the model writes it."""

    timed: Callable[[], tuple[Word, ...]] = field(repr=False, compare=False, kw_only=True)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words, each from the frame that emitted its first token to the end of that of its last."""
        return self.timed()


class HubStreaming:
    """Streams of a cache-aware transducer, each in its own language. May be shared by threads; a stream may not.

    Args:
        engine: of the model, whose threads, precision and memory count here too.
        lookahead: frames of the encoder that a chunk's first frame sees after itself, and so the length of a chunk;
            None: the model's default.
        endpointing: when `HubStream.endpoint` is true.

    Attributes:
        languages: that it recognises; empty: any.
        chunk: seconds of audio that are decoded at once.

    Raises:
        PathwaysError: for a look-ahead that the model was not trained with.
    """

    def __init__(
        self, engine: TorchEngine, lookahead: int | None = None, endpointing: Endpointing | None = None
    ) -> None:
        model = engine.model
        assert isinstance(model, HubTransducer) and model.cache_aware is not None
        choices = model.cache_aware.lookaheads
        chosen = model.cache_aware.lookahead if lookahead is None else lookahead
        if chosen not in choices:
            raise PathwaysError(
                f"lookahead: {lookahead}: this model was trained with {', '.join(map(str, choices))} frames"
            )
        self.languages, self.endpointing = engine.languages, endpointing or Endpointing()
        self.frame_seconds = model.frame_seconds
        self.chunk = (chosen + 1) * self.frame_seconds
        self.engine, self.frontend = engine, model.frontend
        self._model, self._lookahead, self._lock = model.cache_aware, chosen, threading.Lock()
        self._networks: OrderedDict[tuple[str, int | None], _Pathway] = OrderedDict()

    def load(self, language: str) -> None:
        """Prepares a pathway now, so that the first switch to it does not wait.

        Raises:
            PathwaysError: for an unknown language.
        """
        self.network(self.check(language))

    def stream(self, language: str | None) -> HubStream:
        """A new stream.

        Raises:
            PathwaysError: for an unknown language or none.
        """
        if language is None:
            raise PathwaysError(
                f"language: {'choose one of ' + ' '.join(self.languages) if self.languages else 'name it'}"
            )
        return HubStream(self, self.check(language))

    def decode(self, streams: Sequence[HubStream]) -> None:
        """Decodes the whole chunks that streams have accepted, one stream after the other."""
        for stream in streams:
            stream.decode()

    def check(self, language: str) -> str:
        """The model's code of a language.

        Raises:
            PathwaysError: for an unknown one.
        """
        code = find_language(language, self.languages) if self.languages else language
        if code is None:
            raise PathwaysError(f"unknown language {language!r}: this model knows {' '.join(self.languages)}")
        return code

    def network(self, language: str) -> Network:
        """The network of a language's pathway, made when it is first used; the least recently used are dropped."""
        engine, networks = self.engine, self._networks
        with self._lock, torch.inference_mode():
            key = engine.key(language), self._model.prompt(language)
            if key not in networks:
                networks[key] = self._build(language)
            networks.move_to_end(key)
            while len(networks) > 1 and sum(one.nbytes for one in networks.values()) > engine.memory:
                networks.popitem(last=False)
            return networks[key].network

    def _build(self, language: str) -> _Pathway:
        model = self.engine.specialized(language)
        assert isinstance(model, HubTransducer)
        products = _Products(self.engine.layers)
        with torch_threads(self.engine.threads):
            network = Network(model.hub, self._lookahead, products.linear, self._model.prompt(language))
        return _Pathway(network, products.nbytes)


@dataclass(frozen=True)
class _Pathway:
    network: Network
    nbytes: int


class _Products:
    """Makes linear layers in the fastest formats; torch's own where there are no kernels. Counts their bytes."""

    def __init__(self, layers: Layers | None) -> None:
        self._layers, self.nbytes = layers, 0

    def linear(self, weight: Tensor, bias: Tensor | None, rows: int) -> Multiply:
        if self._layers is None:
            return lambda x: F.linear(x, weight, bias)
        values = None if bias is None else bias.detach().numpy()
        layer, nbytes = self._layers.linear(weight.detach().numpy(), values, rows)
        self.nbytes += nbytes
        runner = check_runner(self._layers.threads, None)
        return lambda x: torch.from_numpy(layer.multiply(x.contiguous().numpy(), runner))


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
        return extracted["input_features"][0][: int(extracted["attention_mask"][0].sum())]


class _Segment:
    """The state of decoding one segment."""

    def __init__(self, language: str, network: Network, extractor: Any) -> None:
        self.language, self.network = language, network
        self.rate: int | None = None
        self.samples = 0
        self.search = Search(network)
        self._features = _Features(extractor)
        self._state: EncoderState = network.encoder.initial_state()
        self._resampler: Any = None

    def accept(self, samples: Samples, rate: int) -> None:
        if self.rate is None:
            check_rate(rate)
            self.rate = rate
            if rate != SAMPLE_RATE:
                import soxr

                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        elif rate != self.rate:
            raise PathwaysError(f"sample rate {rate} Hz after {self.rate} Hz: end the segment by final() first")
        self._add(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def end(self) -> None:
        """Decodes all that is left."""
        if self._resampler is not None:
            self._add(self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
        self.decode()
        rest = self._features.rest()
        if len(rest) or self.search.past:
            self.search.accept(self.network.encode(rest, self._state, final=True))

    def decode(self) -> None:
        """Decodes the whole chunks."""
        while (wanted := self.network.encoder.features_wanted(self._state)) <= self._features.ready:
            self.search.accept(self.network.encode(self._features.take(wanted), self._state))

    def _add(self, samples: Samples) -> None:
        self.samples += len(samples)
        self._features.accept(samples)


class HubStream:
    """One stream of audio, cut into segments; made by `HubStreaming.stream`. The interface is that of `Stream`."""

    def __init__(self, streaming: HubStreaming, language: str) -> None:
        self._streaming, self._start = streaming, 0.0
        self._begin(language)

    @property
    def language(self) -> str:
        """The language of the pathway in use."""
        return self._segment.language

    def accept(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> None:
        """Appends samples (n,), float32 in [-1, 1], at ``sample_rate`` Hz, which stays the same in a segment.

        Raises:
            PathwaysError: if ``samples`` is not a float32 vector of finite values in that range, or the rate changes.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise PathwaysError(
                f"samples must be a float32 vector in [-1, 1], not {samples.dtype} of shape {samples.shape}"
            )
        if not np.isfinite(samples).all():
            raise PathwaysError("samples have values that are not finite")
        require_scale(samples)
        self._segment.accept(samples, sample_rate)

    def decode(self) -> None:
        """Decodes the whole chunks that were accepted."""
        with torch.inference_mode(), torch_threads(self._streaming.engine.threads):
            self._segment.decode()

    def partial(self) -> StreamResult:
        """The hypothesis of the segment so far, up to the last whole chunk."""
        self.decode()
        return self._result(final=False)

    def final(self) -> StreamResult:
        """Ends the segment: the hypothesis of all that was accepted."""
        with torch.inference_mode(), torch_threads(self._streaming.engine.threads):
            self._segment.end()
        result = self._result(final=True)
        self._start = result.end
        self._begin(self.language)
        return result

    def switch(self, language: str) -> None:
        """Changes the language of the next segment. A segment that has begun must be ended by :meth:`final` before.

        Raises:
            PathwaysError: for an unknown language, or if the segment has begun.
        """
        code = self._streaming.check(language)
        if self._segment.rate is not None:
            raise PathwaysError("a segment has begun: end it by final() before the language is switched")
        self._begin(code)

    def endpoint(self) -> bool:
        """Whether the segment is over, by the silence since its last word or its length (see `Endpointing`)."""
        rules, search, frame = self._streaming.endpointing, self._segment.search, self._streaming.frame_seconds
        decoded = frame * search.past
        if not search.frames:
            return decoded >= rules.before_speech
        return decoded - frame * (search.frames[-1] + 1) >= rules.after_speech or decoded >= rules.longest

    def _begin(self, language: str) -> None:
        """A new segment."""
        with torch.inference_mode():
            network = self._streaming.network(language)
            self._segment = _Segment(language, network, self._streaming.frontend.extractor)

    def _result(self, final: bool) -> StreamResult:
        segment, streaming, start = self._segment, self._streaming, self._start
        search, frame, language = segment.search, streaming.frame_seconds, segment.language
        decoded = segment.samples / SAMPLE_RATE
        if not final:
            decoded = min(decoded, frame * search.past)
        spans = [(place, place + 1) for place in search.frames]
        path = Aligned(list(search.tokens), spans, list(search.probabilities))
        pieces = streaming.engine.pieces(path.tokens)
        tokens = [(piece, round(start + frame * at, 2)) for piece, at in zip(pieces, search.frames, strict=True)]
        return HubStreamResult(
            language,
            streaming.engine.text(path.tokens, language),
            tokens,
            start,
            start + decoded,
            final,
            timed=lambda: streaming.engine.words(path, language, decoded, start),
        )
