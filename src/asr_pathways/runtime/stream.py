"""What a stream of audio is, whichever model decodes it: samples in pieces, results of a segment, when it is over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples, check_rate, require_samples, require_scale
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.results import Word


@dataclass(frozen=True)
class Endpointing:
    """When a segment of speech ends; all in seconds.

    Attributes:
        after_speech: silence after words.
        before_speech: silence without any word.
        longest: length at which a segment is cut in any case.
    """

    after_speech: float = 0.8
    before_speech: float = 2.4
    longest: float = 20.0


@dataclass(frozen=True)
class StreamResult:
    """The hypothesis of one segment of a stream.

    Attributes:
        language: of the pathway.
        text: of the segment.
        stable: how the text begins, and will begin whatever follows; all of it where the segment is over.
        words: of the text, with times in seconds from the start of the stream.
        tokens: of a transducer, its word pieces, each with its time in seconds from the start of the stream.
        start, end: of the segment, in seconds from the start of the stream; ``end`` is how far it is decoded.
        final: whether the segment is over.
    """

    language: str
    text: str
    stable: str
    words: tuple[Word, ...]
    start: float
    end: float
    final: bool
    tokens: list[tuple[str, float]] = field(default_factory=list, repr=False)


class Stream(Protocol):
    """One stream of audio, cut into segments, each in one language.

    A segment ends with :meth:`final`; the next begins with the next sample. A stream may not be shared by threads.
    """

    @property
    def language(self) -> str:
        """The language of the pathway in use."""

    def accept(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> None:
        """Appends samples (n,), float32 in [-1, 1], at ``sample_rate`` Hz, which stays the same in a segment.

        Raises:
            PathwaysError: if ``samples`` is not a float32 vector of finite values in that range, or the rate changes.
        """

    def partial(self) -> StreamResult:
        """The hypothesis of the segment so far."""

    def final(self) -> StreamResult:
        """Ends the segment: the hypothesis of all that was accepted."""

    def switch(self, language: str) -> None:
        """Changes the language of the next segment. A segment that has begun must be ended by :meth:`final` before.

        Raises:
            PathwaysError: for an unknown language, or if the segment has begun.
        """

    def endpoint(self) -> bool:
        """Whether the segment is over, by silence or its length (see `Endpointing`)."""


class Incoming:
    """The samples of one segment, checked, at 16 kHz.

    Attributes:
        rate: of the incoming audio, in Hz; None before the first.
    """

    def __init__(self) -> None:
        self.rate: int | None = None
        self._resampler: Any = None

    def accept(self, samples: Samples, rate: int) -> Samples:
        """What comes out at 16 kHz of samples (n,), float32, at ``rate`` Hz: the resampler keeps some back.

        Raises:
            PathwaysError: as `Stream.accept` does, or if the rate is not one.
        """
        samples = np.asarray(samples)
        require_samples(samples)
        require_scale(samples)
        if self.rate is None:
            check_rate(rate)
            self.rate = rate
            if rate != SAMPLE_RATE:
                import soxr

                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        elif rate != self.rate:
            raise PathwaysError(f"sample rate {rate} Hz after {self.rate} Hz: end the segment by final() first")
        return samples if self._resampler is None else self._resampled(samples, last=False)

    def end(self) -> Samples:
        """What the resampler has kept back."""
        return np.zeros(0, np.float32) if self._resampler is None else self._resampled(np.zeros(0, np.float32), True)

    def _resampled(self, samples: Samples, last: bool) -> Samples:
        return np.asarray(self._resampler.resample_chunk(samples, last=last))

    def require_end(self) -> None:
        """Raises PathwaysError if the segment has begun."""
        if self.rate is not None:
            raise PathwaysError("a segment has begun: end it by final() before the language is switched")


class Segment(Protocol):
    """What decodes one segment of a `FrameStream`."""

    incoming: Incoming

    def accept(self, samples: Samples, rate: int) -> None:
        """As `Incoming.accept`, of which it has the samples."""


SegmentT = TypeVar("SegmentT", bound=Segment)


class FrameStream(ABC, Generic[SegmentT]):
    """A `Stream` of a model that streams, whose segments are decoded as far as whole chunks of frames have come.

    Args:
        language: a code.
        check: from what a user calls a language to its code, or a `PathwaysError`.
        endpointing: when `endpoint` is true.
        frame: seconds of an encoder frame.
    """

    def __init__(self, language: str, check: Callable[[str], str], endpointing: Endpointing, frame: float) -> None:
        self._check, self._rules, self._frame = check, endpointing, frame
        self._start = 0.0  # of the segment, in seconds from the start of the stream
        self._begin(language)

    def accept(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> None:
        """As `Stream.accept`; nothing is decoded yet."""
        self._segment.accept(samples, sample_rate)

    def partial(self) -> StreamResult:
        """The hypothesis of the segment so far, up to the last whole chunk."""
        self._decode()
        return self._result(final=False)

    def final(self) -> StreamResult:
        """As `Stream.final`."""
        self._end()
        result = self._result(final=True)
        self._start = result.end
        self._begin(self.language)
        return result

    def switch(self, language: str) -> None:
        """As `Stream.switch`: well below a millisecond where the pathway is ready; else it is prepared now."""
        code = self._check(language)
        self._segment.incoming.require_end()
        self._begin(code)

    def endpoint(self) -> bool:
        """Whether what was accepted has ended the segment, by the silence since its last word or its length."""
        self._decode()
        past, last = self._reached()
        decoded = self._frame * past
        if last is None:
            return decoded >= self._rules.before_speech
        return decoded - self._frame * (last + 1) >= self._rules.after_speech or decoded >= self._rules.longest

    def _begin(self, language: str) -> None:
        self._segment = self._new_segment(language)
        self.language = language

    @abstractmethod
    def _new_segment(self, language: str) -> SegmentT:
        """A new segment, which begins at `_start`."""

    @abstractmethod
    def _decode(self) -> None:
        """Decodes the whole chunks of the segment."""

    @abstractmethod
    def _end(self) -> None:
        """Decodes all that is left of the segment."""

    @abstractmethod
    def _reached(self) -> tuple[int, int | None]:
        """Frames of the segment that are decoded, and which of them emitted its last token; None: there is none."""

    @abstractmethod
    def _result(self, final: bool) -> StreamResult:
        """The hypothesis of what is decoded."""
