"""Streams of models that recognise whole windows: what is being said is decoded again as it grows.

Words are stable once two hypotheses in a row agree on them and on all before (local agreement: Liu et al. 2020, arXiv
2005.11185; for Whisper: Machacek et al. 2023, arXiv 2307.14743). Voice activity says where speech begins and pauses:
silence is not decoded, and what was said before a pause is not decoded again after it.
"""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.languages import plain_language
from asr_pathways.data.normalize import UNSPACED
from asr_pathways.data.voice_activity import VoiceActivity
from asr_pathways.runtime.engine import Engine
from asr_pathways.runtime.results import Piece, Word, in_turn, pieces_of
from asr_pathways.runtime.speech_parts import LEAST, Part, SpeechParts
from asr_pathways.runtime.stream import Endpointing, Incoming, StreamResult

STEP = 1.0
"""Seconds of new speech after which it is decoded again; more where decoding takes longer."""


class AgreementStream:
    """A `Stream` of an engine that recognises windows.

    Args:
        engine: of the model.
        language: a code.
        check: from what a user calls a language to its code, or a `PathwaysError`.
        endpointing: when `endpoint` is true.
    """

    def __init__(self, engine: Engine, language: str, check: Callable[[str], str], endpointing: Endpointing) -> None:
        self._engine, self._check, self._rules = engine, check, endpointing
        self._use(language)
        self._activity = VoiceActivity()
        self._cost = 0.0  # seconds that decoding took last
        self._begin(0)

    def accept(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> None:
        """As `Stream.accept`."""
        self._speech.accept(self._incoming.accept(samples, sample_rate))

    def partial(self) -> StreamResult:
        """The hypothesis of the segment so far; decodes if there is enough that is new (see `STEP`)."""
        del self._known[len(self._speech.parts) :]  # a click was no part
        for place, part in enumerate(self._speech.parts):
            if place == len(self._known):
                earlier = self._known[-1] if place and self._speech.parts[place - 1].cut else None
                self._known.append(_Agreement() if earlier is None else earlier.split(part.start / SAMPLE_RATE))
            known, new = self._known[place], part.until - max(part.start, self._known[place].decoded)
            due = part.over or part.paused or new >= max(STEP, self._cost) * SAMPLE_RATE
            if due and new > 0 and part.frames >= LEAST:
                known.take(self._recognize(part))
                known.decoded = part.until
            if part.over:
                known.settle(part.until / SAMPLE_RATE if part.cut else math.inf)
                part.samples = part.samples[:0]
        return self._result(final=False)

    def final(self) -> StreamResult:
        """As `Stream.final`."""
        self._speech.accept(self._incoming.end())
        self._speech.end()
        self.partial()
        result = self._result(final=True)
        self._begin(self._speech.position)
        return result

    def switch(self, language: str) -> None:
        """As `Stream.switch`."""
        code = self._check(language)
        self._incoming.require_end()
        self._use(code)

    def endpoint(self) -> bool:
        """Whether the segment is over: by silence or its length. The longer it is, the shorter a pause ends it, so
        that a word is seldom cut.
        """
        rules, parts = self._rules, self._speech.parts
        now = self._speech.position
        if not parts:
            return now - self._start >= rules.before_speech * SAMPLE_RATE
        length, silence = (now - parts[0].start) / SAMPLE_RATE, (now - parts[-1].speech_end) / SAMPLE_RATE
        return silence >= rules.after_speech * min(1.0, max(0.0, 2 - 2 * length / rules.longest))

    def _use(self, language: str) -> None:
        self._engine.load(language)  # now, and not when words wait for it
        self.language = language

    def _begin(self, position: int) -> None:
        """A new segment."""
        self._start = position
        self._incoming = Incoming()
        longest = min(self._engine.window, self._rules.longest)
        self._speech = SpeechParts(self._activity, position, self._rules.after_speech, longest)
        self._known: list[_Agreement] = []  # of each part

    def _recognize(self, part: Part) -> list[Piece]:
        begun = time.perf_counter()
        found = self._engine.recognize(part.samples, self.language, self._engine.times_words)
        self._cost = time.perf_counter() - begun
        offset, spaced = part.start / SAMPLE_RATE, plain_language(self.language) not in UNSPACED
        pieces = [
            piece._replace(start=round(piece.start + offset, 2), end=round(piece.end + offset, 2))
            for piece in (() if found is None else pieces_of(found))
        ]
        return [pieces[0]._replace(space=spaced), *pieces[1:]] if pieces else []  # all may come after stable words

    def _result(self, final: bool) -> StreamResult:
        stable: list[str] = []
        for known in self._known:
            stable.append(_text(known.stable))
            if known.rest:
                break
        words = [word for known in self._known for word in known.words] if self._engine.times_words else []
        parts = self._speech.parts
        speaking = not final and bool(parts) and not parts[-1].over
        end = max(parts[-1].start, self._known[-1].decoded) if speaking else self._speech.position
        return StreamResult(
            self.language,
            " ".join(filter(None, (_text(known.words) for known in self._known))),
            " ".join(filter(None, stable)),
            in_turn(Word(word.text, word.start, word.end, word.probability) for word in words),
            self._start / SAMPLE_RATE,
            end / SAMPLE_RATE,
            final,
        )


class _Agreement:
    """What is known of the words of a part; times are from the start of the stream.

    Attributes:
        decoded: how far it was decoded, in samples from the start of the stream.
        stable: words on which two hypotheses agreed.
        rest: the words after them, of the last hypothesis.
    """

    def __init__(self, stable: Sequence[Piece] = (), rest: Sequence[Piece] = (), decoded: int = 0) -> None:
        self.decoded = decoded
        self.stable, self.rest = list(stable), list(rest)

    @property
    def words(self) -> list[Piece]:
        return self.stable + self.rest

    def take(self, hypothesis: list[Piece]) -> None:
        """The words of all that was said."""
        rest = hypothesis[_matching(self.stable, hypothesis) :]
        agreed = 0
        for old, new in zip(self.rest, rest, strict=False):
            if old.text != new.text:
                break
            agreed += 1
        self.stable += rest[:agreed]
        self.rest = rest[agreed:]

    def settle(self, seconds: float) -> None:
        """There will be no other hypothesis of what comes before."""
        before, self.rest = _parted(self.rest, seconds)
        self.stable += before

    def split(self, seconds: float) -> _Agreement:
        """What comes after, as far as it was decoded: stable words there stay so, and none are here any more."""
        self.stable, stable = _parted(self.stable, seconds)
        self.rest, rest = _parted(self.rest, seconds)
        return _Agreement(stable, rest, self.decoded)


def _parted(words: Sequence[Piece], seconds: float) -> tuple[list[Piece], list[Piece]]:
    """The words before and after, by their middles."""
    before = [word for word in words if word.start + word.end < 2 * seconds]
    return before, [word for word in words if word.start + word.end >= 2 * seconds]


def _matching(stable: Sequence[Piece], hypothesis: Sequence[Piece]) -> int:
    """How many words of a hypothesis are those that are stable: where fewest words differ (edit distance), and of
    such places the nearest in time.
    """
    if not stable:
        return 0
    ours, theirs = [_letters(word.text) for word in stable], [_letters(word.text) for word in hypothesis]
    distances = np.arange(len(theirs) + 1)
    for ours_one in ours:
        row = [distances[0] + 1]
        for place, theirs_one in enumerate(theirs):
            row.append(min(row[-1] + 1, distances[place + 1] + 1, distances[place] + (ours_one != theirs_one)))
        distances = np.array(row)
    ends = np.array([stable[0].start, *(word.end for word in hypothesis)])
    return int(np.lexsort((np.abs(ends - stable[-1].end), distances))[0])


def _letters(word: str) -> str:
    """Without case and punctuation, unless it is nothing else."""
    return "".join(letter for letter in word.casefold() if unicodedata.category(letter)[0] in "LMN") or word


def _text(words: Sequence[Piece]) -> str:
    return "".join(" " * word.space + word.text for word in words).strip()
