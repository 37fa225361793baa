"""Streams whose language nobody names: it is identified in each segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import BEGINS, FRAME, VoiceActivity
from asr_pathways.runtime.speech_parts import LEAST, PADDING
from asr_pathways.runtime.stream import Endpointing, Incoming, Stream, StreamResult

AUTO = "auto"
"""The language that is identified."""

ENOUGH = 2.0
"""Seconds of speech that decide which language a segment is in."""

PAUSE = 0.5
"""Seconds of silence after which less speech decides it."""


class AutoStream:
    """A `Stream` in the language that is identified in each segment, or in one that `switch` names.

    Until it is identified, a segment is decoded in the language of the one before, and nothing of it is stable; the
    first has no text so long. If it is another language, what was said of the segment is decoded again.

    Args:
        begin: makes a stream in a language.
        identify: the language of samples (n,) at 16 kHz, most likely; and that of the segment before, or None.
        check: from what a user calls a language to its code, or a `PathwaysError`.
        endpointing: when `endpoint` is true.
    """

    _speech: int  # frames of the segment
    _silence: int  # frames since the last of them
    _kept: Samples  # from the first speech on, until the language is known

    def __init__(
        self,
        begin: Callable[[str], Stream],
        identify: Callable[[Samples, str | None], str],
        check: Callable[[str], str],
        endpointing: Endpointing,
    ) -> None:
        self._make, self._identify, self._check, self._rules = begin, identify, check, endpointing
        self._decoder: Stream | None = None
        self._offset = self._position = 0  # samples of this stream, before the decoder's and in all
        self._named = False
        self._begin()

    @property
    def language(self) -> str:
        """The language of the pathway in use; ``auto`` before there is one."""
        return AUTO if self._decoder is None else self._decoder.language

    def accept(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> None:
        """As `Stream.accept`."""
        self._add(self._incoming.accept(samples, sample_rate))

    def decoder(self) -> Stream | None:
        """What decodes the segment, in its language once enough was said; None before the first is identified."""
        if not self._known and self._decided:
            self._choose()
        return self._decoder

    def partial(self) -> StreamResult:
        """The hypothesis of the segment so far."""
        decoder = self.decoder()
        return self._nothing(final=False) if decoder is None else self._moved(decoder.partial())

    def final(self) -> StreamResult:
        """As `Stream.final`."""
        self._add(self._incoming.end())
        if not self._known and self._speech >= LEAST:
            self._choose()
        result = self._nothing(final=True) if self._decoder is None else self._moved(self._decoder.final())
        self._begin()
        return result

    def switch(self, language: str) -> None:
        """As `Stream.switch`; ``auto``: the language is identified, as that of a first segment."""
        code = AUTO if language == AUTO else self._check(language)
        self._incoming.require_end()
        self._known = self._named = code != AUTO
        if not self._named:
            self._decoder = None
        elif self._decoder is None:
            self._decoder, self._offset = self._make(code), self._position
        else:
            self._decoder.switch(code)

    def endpoint(self) -> bool:
        """Whether the segment is over, by silence or its length (see `Endpointing`)."""
        decoder = self.decoder()
        if decoder is None:  # speech that is too short yet to tell its language is not silence
            return not self._speech and self._position - self._start >= self._rules.before_speech * SAMPLE_RATE
        return decoder.endpoint()

    def _begin(self) -> None:
        """A new segment."""
        self._start, self._incoming, self._known = self._position, Incoming(), self._named
        self._activity = VoiceActivity()
        self._speech = self._silence = 0
        self._kept = np.zeros(0, np.float32)

    def _add(self, samples: Samples) -> None:
        self._position += len(samples)
        if self._decoder is not None:
            self._decoder.accept(samples)
        if self._known:
            return
        self._kept = np.concatenate([self._kept, samples])
        rest = (self._position - self._start) % FRAME
        frames, keep = self._activity.accept(samples) >= BEGINS, len(self._kept)
        for place, speech in enumerate(frames, 1):  # one by one: however samples come, the same are identified
            if self._decided:
                break
            self._speech, self._silence = (self._speech + 1, 0) if speech else (self._speech, self._silence + 1)
            if self._pauses and self._speech < LEAST:  # nothing, or a click
                self._speech, keep = 0, (PADDING + len(frames) - place) * FRAME + rest
        self._kept = self._kept[-keep:]

    @property
    def _pauses(self) -> bool:
        return self._silence * FRAME >= PAUSE * SAMPLE_RATE

    @property
    def _decided(self) -> bool:
        """Whether enough was said to identify the language."""
        return self._speech * FRAME >= ENOUGH * SAMPLE_RATE or (self._pauses and self._speech >= LEAST)

    def _choose(self) -> None:
        """Identifies the language, and decodes again what was said if it was taken for another."""
        before = None if self._decoder is None else self._decoder.language
        language = self._identify(self._kept, before)
        if language != before:
            self._decoder, self._offset = self._make(language), self._position - len(self._kept)
            self._decoder.accept(self._kept)
        self._known, self._kept = True, self._kept[:0]

    def _nothing(self, final: bool) -> StreamResult:
        return StreamResult(AUTO, "", "", (), self._start / SAMPLE_RATE, self._position / SAMPLE_RATE, final)

    def _moved(self, result: StreamResult) -> StreamResult:
        """A result of the decoder, with times of this stream."""
        by = self._offset / SAMPLE_RATE
        return replace(
            result,
            stable=result.stable if self._known or result.final else "",
            words=tuple(word.later(by) for word in result.words),
            tokens=[(piece, round(time + by, 2)) for piece, time in result.tokens],
            start=result.start + by,
            end=result.end + by,
        )
