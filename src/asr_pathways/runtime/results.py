"""What recognition returns: text, segments and words with their times, and the same as captions or JSON."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

COLUMNS, LINES, LONGEST = 42, 2, 7.0
"""Of a caption: columns of a line, lines, seconds; what broadcasters ask for."""

PAUSE = 2.0
"""Seconds between two words that are not shown together."""

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")
"""After one in its last line a caption is not filled up."""


@dataclass(frozen=True)
class Word:
    """A word, with punctuation that touches it; ``start`` and ``end`` in seconds from the start of the audio.

    ``probability`` is the model's, in [0, 1]; None where it has none.
    """

    text: str
    start: float
    end: float
    probability: float | None = None

    def later(self, seconds: float) -> Word:
        """The same word, so many seconds later, to the hundredth."""
        return replace(self, start=round(self.start + seconds, 2), end=round(self.end + seconds, 2))


def in_turn(words: Iterable[Word]) -> tuple[Word, ...]:
    """Words in their order, each of which begins when the one before it has ended, at the earliest."""
    ordered: list[Word] = []
    for word in words:
        start = max(word.start, ordered[-1].end) if ordered else word.start
        ordered.append(replace(word, start=start, end=max(start, word.end)))
    return tuple(ordered)


@dataclass(frozen=True)
class Segment:
    """A stretch of speech; times in seconds from the start of the audio.

    Attributes:
        words: in order; empty where they were not asked for.
        no_speech: probability that nobody speaks; None if the model has none.
        log_probability: of the text, the natural logarithm averaged over its tokens; None if there is no token.
    """

    text: str
    start: float
    end: float
    language: str
    words: tuple[Word, ...] = ()
    no_speech: float | None = None
    log_probability: float | None = None


@dataclass(frozen=True)
class Result:
    """The text of a recording.

    Attributes:
        language: of the recording; of most of it, where it changes.
        duration: of the audio, in seconds.
        languages: {language: probability} where the language was detected.
    """

    text: str
    language: str
    segments: tuple[Segment, ...]
    duration: float
    languages: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> tuple[Word, ...]:
        """Of all segments."""
        return tuple(chain.from_iterable(segment.words for segment in self.segments))

    def to_srt(self, *, words: bool = False) -> str:
        """SubRip captions; empty if there is no text. An arrow in the text loses dashes: SubRip has no escapes.

        Args:
            words: each caption is shown anew for each of its words, which is underlined for as long as it is spoken.
        """
        return Captions("srt", words).after(self)

    def to_vtt(self, *, words: bool = False) -> str:
        """WebVTT captions.

        Args:
            words: as of `to_srt`.
        """
        return Captions("vtt", words).after(self)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the names of ``verbose_json`` in OpenAI's API; a language is its code, words are there if any.

        Beyond those names: each segment's ``language``, and ``languages`` where the language was detected.
        """
        segments = [
            {
                "id": number,
                "start": float(segment.start),
                "end": float(segment.end),
                "text": segment.text,
                "language": segment.language,
                "avg_logprob": _number(segment.log_probability),
                "no_speech_prob": _number(segment.no_speech),
            }
            for number, segment in enumerate(self.segments)
        ]
        numbers = ("start", "end", "probability")
        words = [
            {"word": word.text, **{number: _number(getattr(word, number)) for number in numbers}} for word in self.words
        ]
        languages = {language: float(probability) for language, probability in self.languages.items()}
        return {
            "task": "transcribe",
            "language": self.language,
            "duration": float(self.duration),
            "text": self.text,
            "segments": segments,
            **({"words": words} if words else {}),
            **({"languages": languages} if languages else {}),
        }

    def to_manifest(self, audio: Path, channel: int | None = None) -> list[dict[str, Any]]:
        """A row of a NeMo manifest for each segment with words, to train a smaller model on (pseudo-labels).

        All are of split ``train``: a test against them would measure agreement with the model that wrote them.

        Args:
            audio: the recording.
            channel: which of it was recognised, from 0; None: all, averaged.
        """
        return [
            {
                "audio_filepath": str(audio),
                "offset": round(float(segment.start), 3),
                "duration": round(float(segment.end - segment.start), 3),
                **({} if channel is None else {"channel": channel}),
                "text": segment.text,
                "lang": segment.language,
                "split": "train",
                "avg_logprob": _number(segment.log_probability),
            }
            for segment in self.segments
            if segment.text.strip()
        ]


class Captions:
    """Captions of results that come one after another, as those of a stream's segments do.

    Args:
        format: SubRip or WebVTT.
        words: as of `Result.to_srt`.
    """

    def __init__(self, format: Literal["srt", "vtt"], words: bool = False) -> None:
        self._srt, self._words = format == "srt", words
        self._count, self._begun = 0, False

    def after(self, result: Result) -> str:
        """The text of a result's captions, to be written behind that of those before."""
        escape, mark = (_without_arrows, ",") if self._srt else (partial(html.escape, quote=False), ".")
        text = "" if self._srt or self._begun else "WEBVTT\n"
        for caption, start, end in self._cues(result, escape):
            self._count += 1
            text += "\n" if text or self._begun else ""
            text += f"{self._count}\n" if self._srt else ""
            text += f"{_time(start, mark)} --> {_time(end, mark)}\n{caption}\n"
        self._begun |= bool(text)
        return text

    def _cues(self, result: Result, escape: Callable[[str], str]) -> Iterator[tuple[str, float, float]]:
        """(text in at most `LINES` lines, start, end)."""
        for segment in result.segments:
            for caption in _captions(pieces_of(segment)):
                yield from caption.word_cues(escape) if self._words and segment.words else [caption.cue(escape)]


def _without_arrows(text: str) -> str:
    return re.sub("--+>", "->", text)


class Piece(NamedTuple):
    """What is not cut by a line's end: a word, mostly; ``space``: whether one comes before it."""

    text: str
    start: float
    end: float
    space: bool
    probability: float | None = None


def pieces_of(segment: Segment) -> list[Piece]:
    """The words of a segment, spaced as in its text; without words, parts of the text timed by their lengths."""
    if not segment.words:
        return _parts(segment)
    pieces, place = [], 0
    for word in segment.words:
        found = segment.text.find(word.text, place)
        pieces.append(Piece(word.text, word.start, word.end, found != place, word.probability))
        place = found + len(word.text) if found >= 0 else place
    return pieces


def _parts(segment: Segment) -> list[Piece]:
    parts: list[tuple[str, bool]] = []
    for word in segment.text.split():
        # what has no spaces may be cut at any letter; its marks and punctuation stay with it
        letters = [word] if _columns(word) <= COLUMNS // 2 else re.findall(r"\w\W*|\W+", word)
        parts += [(letter, index == 0) for index, letter in enumerate(letters)]
    pieces, start, total = [], segment.start, sum(len(text) for text, _ in parts)
    for text, space in parts:
        end = start + (segment.end - segment.start) * len(text) / total
        pieces.append(Piece(text, start, end, space))
        start = end
    return pieces


class _Caption:
    """Pieces in at most `LINES` lines, which are shown together."""

    def __init__(self, first: Piece) -> None:
        self._pieces, self._before = [first], [""]  # and what comes before each: nothing, a space or a line's end
        self._lines = [first.text]

    @property
    def start(self) -> float:
        return self._pieces[0].start

    @property
    def end(self) -> float:
        return max(self._pieces[-1].end, self.start)

    def add(self, piece: Piece) -> bool:
        """Adds a piece; False if it begins another caption."""
        if piece.start - self.end > PAUSE or piece.end - self.start > LONGEST:
            return False
        full = len(self._lines) == LINES
        if full and self._lines[-1].endswith(SENTENCE_ENDS):
            return False
        before = " " * piece.space
        longer = self._lines[-1] + before + piece.text
        if _columns(longer) <= COLUMNS:
            self._lines[-1] = longer
        elif full:
            return False
        else:
            before = "\n"
            self._lines.append(piece.text)
        self._pieces.append(piece)
        self._before.append(before)
        return True

    def cue(self, escape: Callable[[str], str]) -> tuple[str, float, float]:
        """(text, start, end)."""
        return escape("\n".join(self._lines)), self.start, self.end

    def word_cues(self, escape: Callable[[str], str]) -> Iterator[tuple[str, float, float]]:
        """One for each word, underlined, and one for each pause between them. A word of no length is underlined until
        the next one begins, or with the one beside it.
        """
        place = 0
        while place < len(self._pieces):
            start, after = self._pieces[place].start, place + 1
            while after < len(self._pieces) and not start < self._pieces[after].start < self.end:
                after += 1
            following = self._pieces[after].start if after < len(self._pieces) else self.end
            end = min(max(piece.end for piece in self._pieces[place:after]), following)
            end = end if end > start else following
            yield self._underlined(place, after, escape), start, end
            if following > end:
                yield self.cue(escape)[0], end, following
            place = after

    def _underlined(self, first: int, after: int, escape: Callable[[str], str]) -> str:
        texts = [before + piece.text for before, piece in zip(self._before, self._pieces, strict=True)]
        space = self._before[first]
        marked = "".join(texts[first:after]).removeprefix(space)
        return f"{escape(''.join(texts[:first]) + space)}<u>{escape(marked)}</u>{escape(''.join(texts[after:]))}"


def _captions(pieces: list[Piece]) -> Iterator[_Caption]:
    caption: _Caption | None = None
    for piece in pieces:
        if caption is None or not caption.add(piece):
            if caption is not None:
                yield caption
            caption = _Caption(piece)
    if caption is not None:
        yield caption


def _columns(text: str) -> int:
    """How wide a text is in columns: most letters of Chinese, Japanese and Korean take two, marks none."""
    kinds = ((unicodedata.east_asian_width(letter), unicodedata.category(letter)) for letter in text)
    return sum(0 if kind == "Mn" else 2 if width in "WF" else 1 for width, kind in kinds)


def _time(seconds: float, point: str) -> str:
    milliseconds = max(0, round(1000 * seconds))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
