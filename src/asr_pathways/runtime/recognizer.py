"""The recogniser that users run: any MODEL, on the CPU, in this package's formats of weights.

    recognizer = Recognizer("five.asrp", language="fr")
    result = recognizer.transcribe("call.wav", words=True)
    result.text, result.words

A Whisper in a bundle runs without torch and transformers. Any MODEL has streams:

    stream = recognizer.stream()
    stream.accept(samples, sample_rate)
    stream.partial().text, stream.final().text
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.reading import Reader, has_identifier
from asr_pathways.data.audio import SAMPLE_RATE, Samples, read_audio, require_samples, require_scale, resample
from asr_pathways.data.languages import known_language
from asr_pathways.data.voice_activity import is_silent, parts_within, speech_segments
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.auto_stream import AUTO, AutoStream
from asr_pathways.runtime.engine import Engine
from asr_pathways.runtime.kernels.extension import available, warn_of_dense_products
from asr_pathways.runtime.layers import Plan, Precision
from asr_pathways.runtime.local_agreement import AgreementStream
from asr_pathways.runtime.results import Result, Segment
from asr_pathways.runtime.stream import Endpointing, Stream
from asr_pathways.runtime.whisper.engine import WhisperEngine
from asr_pathways.runtime.whisper.source import BundleSource, FolderSource, is_whisper

if TYPE_CHECKING:
    from asr_pathways.model_folder.model import AsrModel
    from asr_pathways.runtime.hub_streaming import HubStreaming
    from asr_pathways.runtime.streaming import StreamingTransducer, TransducerStream
    from asr_pathways.runtime.torch_engine import Identification

IDENTIFIED = 30.0
"""Seconds of a recording's speech, from its start, that decide which language it is in."""

LEAST = 0.04
"""Seconds of a recording: less is no word, and less than some models have a frame for."""

UNCERTAIN = 0.6
"""Probability of the likeliest language below which a user is told that it is uncertain."""

CLEAR = 0.8
"""Probability from which a segment is taken to be in another language than the recording."""


class Recognizer:
    """Recognises speech by any MODEL. May be shared by threads; a stream may not.

    Args:
        model: a bundle, a run folder, a Hugging Face folder or a name on the hub; or an `AsrModel` in memory.
        language: of recordings and streams for which none is named: a code, or ``auto``; None: each must name one.
        threads: of each matrix product.
        precision: ``auto``: products are of whichever of float32, bfloat16 and int8 is fastest on this CPU (relative
            error of a product at most 2%); ``float32``: exact but for the order of sums.
        languages: those among which ``auto`` chooses; None: all of the model's.
        memory: bytes that weights of pathways may take before the least recently used are dropped.
        beam: hypotheses of beam search, of a Whisper or a transducer of this package; 1 is greedy search.
        phrases: that such a transducer prefers.
        bonus: for each word piece of a phrase, in nats.
        endpointing: when silence ends a segment of a stream.
        lookahead: of streams of a cache-aware transducer of the hub; see `HubStreaming`.

    Raises:
        PathwaysError: if there is no such model, it is broken, or a language or option is not one that fits.
    """

    def __init__(
        self,
        model: str | Path | AsrModel,
        language: str | None = None,
        *,
        threads: int = 1,
        precision: Precision = "auto",
        languages: Sequence[str] | None = None,
        memory: float = math.inf,
        beam: int = 1,
        phrases: Sequence[str] = (),
        bonus: float = 2.0,
        endpointing: Endpointing | None = None,
        lookahead: int | None = None,
    ) -> None:
        if threads < 1:
            raise PathwaysError(f"threads: {threads}: at least 1 is needed")
        if beam < 1:
            raise PathwaysError(f"beam: {beam}: at least 1 is needed")
        if isinstance(languages, str):  # each of its letters would be one
            raise PathwaysError(f"languages: pass a list of language codes, such as ['en', 'fr'], not {languages!r}")
        self._endpointing = endpointing or Endpointing()
        self._streaming: StreamingTransducer | None = None
        self._cache_aware: HubStreaming | None = None
        products = {"threads": threads, "precision": precision, "memory": memory}
        self._engine = self._open(model, products, beam, {"phrases": phrases, "bonus": bonus}, lookahead)
        if phrases and self._streaming is None:
            raise PathwaysError("phrases: only transducers of this package prefer some")
        if lookahead is not None and self._cache_aware is None:
            raise PathwaysError("lookahead: only cache-aware transducers of the hub have a choice of it")
        self._choices = None if languages is None else tuple(map(self.check_language, languages))
        if self._choices == ():
            raise PathwaysError("languages: at least one is needed")
        self._language = language if language in (None, AUTO) else self.check_language(str(language))
        if self._language == AUTO:
            self._engine.check_identification()
        elif self._language is not None:
            self.load(self._language)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it recognises."""
        return self._engine.languages

    def check_language(self, language: str) -> str:
        """The model's own code of a language, which may be written in another form: ``fra``, ``fr-FR``.

        Raises:
            PathwaysError: for an unknown language, naming those that the model knows.
        """
        return known_language(language, self.languages) if self.languages else language

    @property
    def free_text(self) -> bool:
        """Whether it writes cased and punctuated text, which is normalised before it is scored."""
        return self._engine.free_text

    @property
    def streams(self) -> bool:
        """Whether the model itself streams; any other decodes what is being said again and again (`stream`)."""
        return self._streaming is not None or self._cache_aware is not None

    @property
    def batched(self) -> bool:
        """Whether `decode` decodes streams in batches; else one after another."""
        return self._streaming is not None

    @property
    def identifies_languages(self) -> bool:
        """Whether the language may be ``auto``."""
        try:
            self._engine.check_identification()
        except PathwaysError:
            return False
        return True

    def load(self, language: str) -> None:
        """Prepares a language's pathway now, so that its first use does not wait.

        Raises:
            PathwaysError: for an unknown language.
        """
        self._engine.load(self.check_language(language))

    def plan(self) -> Plan:
        """How the model's products are computed on this machine: the timings of each, the one that is used first.

        Raises:
            PathwaysError: without compiled kernels, where torch computes all.
        """
        return self._engine.plan()

    def transcribe(
        self,
        audio: str | Path | Samples,
        sample_rate: int = SAMPLE_RATE,
        *,
        language: str | None = None,
        words: bool = False,
        channel: int | None = None,
    ) -> Result:
        """Recognises a recording of any length; what is longer than the model's window is cut by voice activity.

        With ``auto``, the language is identified in the first half minute of speech; a segment after a long pause that
        is clearly in another language is recognised in that.

        Args:
            audio: a file that libsndfile reads, or samples (N,), float32 in [-1, 1].
            sample_rate: of the samples, in Hz; a file has its own.
            language: instead of the recogniser's.
            words: whether to time words.
            channel: of a file, from 0; None: the average of all.

        Raises:
            PathwaysError: if it cannot be read as audio or is too short, or the language is unknown.
        """
        samples = recording(audio, sample_rate, channel)
        asked = language or self._language
        if asked is None:
            raise PathwaysError(
                f"language: {'choose one of ' + ' '.join(self.languages) if self.languages else 'name it'}"
            )
        probabilities: dict[str, float] = {}
        if asked == AUTO:
            parts, asked, probabilities = self._identified(samples)
        else:
            asked = self.check_language(asked)
            parts = [(span, asked) for span in parts_within(samples, self._engine.window)]
        segments = []
        for (start, end), spoken in parts:
            part = samples[start:end]
            if self._engine.free_text and is_silent(part):
                continue
            if (segment := self._engine.recognize(part, spoken, words)) is not None:
                segments.append(_moved(segment, start / SAMPLE_RATE))
        text = " ".join(segment.text for segment in segments)
        return Result(text, asked, tuple(segments), len(samples) / SAMPLE_RATE, probabilities)

    def stream(self, language: str | None = None) -> Stream:
        """A new stream: of a model that streams, or by local agreement (see `AgreementStream`); with ``auto``, in the
        language that is identified in each segment (see `AutoStream`).

        Raises:
            PathwaysError: for an unknown language or none, or ``auto`` where the model does not tell languages apart.
        """
        asked = language or self._language
        if asked is None:
            raise PathwaysError(f"language: choose one of {' '.join(self.languages)}")
        if asked != AUTO:
            return self._stream(self.check_language(asked))
        self._engine.check_identification()
        return AutoStream(self._stream, self._likeliest, self.check_language, self._endpointing)

    def decode(self, streams: Sequence[Stream]) -> None:
        """Decodes what streams of this recogniser have accepted; of a model that streams, those that are at the same
        point in one batch.
        """
        decoders = [stream.decoder() if isinstance(stream, AutoStream) else stream for stream in streams]
        known = [decoder for decoder in decoders if decoder is not None]
        if self._streaming is not None:
            self._streaming.decode(cast("Sequence[TransducerStream]", known))
            return
        for decoder in known:
            decoder.partial()

    def _stream(self, language: str) -> Stream:
        if self._streaming is not None:
            return self._streaming.stream(language)
        if self._cache_aware is not None:
            return self._cache_aware.stream(language, self.check_language)
        return AgreementStream(self._engine, language, self.check_language, self._endpointing)

    def _likeliest(self, samples: Samples, before: str | None) -> str:
        """The language of speech; that of the speech before it unless it is clearly another."""
        longest = round(min(self._engine.window, IDENTIFIED) * SAMPLE_RATE)
        shares = self._engine.probabilities(samples[:longest], self._choices or self.languages)
        likeliest = max(shares, key=lambda language: shares[language])
        return likeliest if before is None or shares[likeliest] >= CLEAR else before

    def _open(
        self,
        model: str | Path | AsrModel,
        products: dict[str, Any],
        beam: int,
        preferred: dict[str, Any],
        lookahead: int | None,
    ) -> Engine:
        """The engine of a model; ``products``: options of all, ``preferred``: of transducers of this package."""
        path = Path(model) if isinstance(model, (str, Path)) else None
        bundle = Reader.open(path) if path is not None and is_bundle(path) else None
        if bundle is not None and is_whisper(bundle) and available():
            return WhisperEngine(BundleSource(bundle), **products, beam=beam, identifier=_identifier(path, None))
        from asr_pathways.bundle.load import load_model
        from asr_pathways.model_folder.card import ModelCard
        from asr_pathways.models.hub.transducer import HubTransducer
        from asr_pathways.models.hub.whisper import Whisper
        from asr_pathways.models.transducer import Transducer
        from asr_pathways.runtime.sources import ModelSource, PathwaySource, open_source
        from asr_pathways.runtime.streaming import StreamingTransducer
        from asr_pathways.runtime.torch_engine import TorchEngine, TransducerEngine

        def streaming(source: PathwaySource) -> Engine:
            options = {**products, **preferred, "beam": beam, "endpointing": self._endpointing}
            self._streaming = StreamingTransducer(source, **options)
            return TransducerEngine(self._streaming, path)

        if path is not None and bundle is not None and isinstance(bundle.config.card, ModelCard):
            return streaming(open_source(path))
        asr = load_model(Path(model)) if isinstance(model, (str, Path)) else model
        if isinstance(asr.model, Transducer):
            return streaming(ModelSource(asr))
        where = str(path or "the model")
        if isinstance(asr.model, Whisper) and available():
            identifier = _identifier(path, asr)
            source = FolderSource(asr, where, None if identifier is None else identifier.lock)
            return WhisperEngine(source, **products, beam=beam, identifier=identifier)
        if beam > 1:
            raise PathwaysError(f"{where}: has no beam search here: leave the beam at 1")
        if not available():
            warn_of_dense_products()
        engine = TorchEngine(asr, path, **products)
        if isinstance(asr.model, HubTransducer) and asr.model.cache_aware is not None:
            from asr_pathways.runtime.hub_streaming import HubStreaming

            self._cache_aware = HubStreaming(engine, lookahead, self._endpointing)
        return engine

    def _identified(self, samples: Samples) -> tuple[list[tuple[tuple[int, int], str]], str, dict[str, float]]:
        """Parts with the language of each, the language of most, and the probabilities of all."""
        self._engine.check_identification()
        choices = self._choices or self.languages
        longest = min(self._engine.window, IDENTIFIED)
        speech = speech_segments(samples, longest=longest)

        def ranked(spans: Sequence[tuple[int, int]]) -> dict[str, float]:
            part = np.concatenate([samples[start:end] for start, end in spans])[: round(longest * SAMPLE_RATE)]
            shares = self._engine.probabilities(part, choices)
            return dict(sorted(shares.items(), key=lambda item: -item[1]))

        probabilities = ranked(speech or [(0, len(samples))])
        main = next(iter(probabilities))
        parts = [(span, main) for span in parts_within(samples, self._engine.window)]
        if len(speech) > 1:
            best = [next(iter(ranked([span]).items())) for span in speech]
            spoken = [language if share >= CLEAR else main for language, share in best]
            if set(spoken) != {main}:
                parts = list(zip(speech, spoken, strict=True))
                lengths = Counter[str]()
                for (start, end), language in parts:
                    lengths[language] += end - start
                main = max(lengths, key=lambda language: lengths[language])
        return parts, main, probabilities


def _identifier(path: Path | None, asr: AsrModel | None) -> Identification | None:
    """What was fitted to replace a Whisper's language tokens, which needs torch; None: nothing was."""
    if path is None or not has_identifier(path):
        return None
    from asr_pathways.runtime.torch_engine import Identification

    return Identification(path, asr)


def recording(audio: str | Path | Samples, sample_rate: int = SAMPLE_RATE, channel: int | None = None) -> Samples:
    """Samples (N,) at 16 kHz of what `Recognizer.transcribe` takes, which has the arguments.

    Raises:
        PathwaysError: if it cannot be read as audio, or is too short to recognise.
    """
    where = ""
    if isinstance(audio, (str, Path)):
        samples, where = read_audio(Path(audio), channel=channel), f"{audio}: "
    else:
        samples = np.asarray(audio)
        require_samples(samples)
        require_scale(samples)
        samples = resample(samples, sample_rate)
    if len(samples) < LEAST * SAMPLE_RATE:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise PathwaysError(f"{where}only {milliseconds:.0f} ms of audio: too short to recognise")
    return samples


def _moved(segment: Segment, seconds: float) -> Segment:
    """A segment whose times are from the start of the recording."""
    words = tuple(word.later(seconds) for word in segment.words)
    return replace(segment, start=segment.start + seconds, end=segment.end + seconds, words=words)
