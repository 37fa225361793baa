"""Streams of transducers of this package: audio in pieces of any size and rate, partial results, a language each.

`asr_pathways.runtime.recognizer.Recognizer` is what users run; it makes one of these where the model streams.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.languages import known_language
from asr_pathways.data.normalize import normalize
from asr_pathways.data.tokenizer import SPACE, UNKNOWN_PIECE, Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import GreedySearch
from asr_pathways.runtime.beam_search import BeamSearch
from asr_pathways.runtime.layers import Precision
from asr_pathways.runtime.pathway_cache import PathwayCache, ReadyPathway
from asr_pathways.runtime.phrase_bias import PhraseBias
from asr_pathways.runtime.results import Word, in_turn
from asr_pathways.runtime.segment_decoder import SegmentDecoder, advance
from asr_pathways.runtime.sources import PathwaySource, open_source
from asr_pathways.runtime.stream import Endpointing, FrameStream, StreamResult

FRAME = 0.01 * STRIDE
"""Seconds of an encoder frame."""

MOST_BONUS = 1000
"""Nats for each word piece of a phrase; a few of them decide everything, and sums of larger ones lose digits."""


class StreamingTransducer:
    """Recognises many streams at once, each in its own language. May be shared by threads; a stream may not.

    Args:
        source: a bundle or a MODEL folder of a transducer of this package; or another source of pathways.
        threads: of each compiled product; torch's own products use `torch.get_num_threads`.
        precision: of products; see `asr_pathways.runtime.layers.Layers`. None: torch's own layers, for comparison.
        memory: bytes that weights of pathways may occupy before the least recently used are dropped.
        endpointing: when `TransducerStream.endpoint` is true.
        beam: hypotheses of modified beam search; 1 is greedy search.
        phrases: words to prefer, in the languages of the streams; beam search only.
        bonus: of each word piece of a phrase, in nats; below 0 for phrases to avoid.

    Raises:
        PathwaysError: if there is no such bundle, it is of a model that does not stream, or phrases are none that
            a search can prefer.
    """

    def __init__(
        self,
        source: str | Path | PathwaySource,
        *,
        threads: int = 1,
        precision: Precision | None = "auto",
        memory: float = float("inf"),
        endpointing: Endpointing | None = None,
        beam: int = 1,
        phrases: Sequence[str] = (),
        bonus: float = 2.0,
    ) -> None:
        if isinstance(source, (str, Path)):
            source = open_source(source)
        if isinstance(phrases, str):
            raise PathwaysError(f"phrases: a list of phrases is needed, not the text {phrases!r}")
        if phrases and beam == 1:
            raise PathwaysError("phrases: greedy search has no phrases: choose a beam of 4 or so")
        if not all(isinstance(phrase, str) for phrase in phrases):
            raise PathwaysError("phrases: each must be a text")
        if not -MOST_BONUS <= bonus <= MOST_BONUS:  # nor a NaN
            raise PathwaysError(f"bonus: {bonus:g}: a number between {-MOST_BONUS} and {MOST_BONUS} is needed")
        self._beam, self._phrases, self._bonus = beam, tuple(phrases), bonus
        self._biases: dict[str, PhraseBias] = {}
        self.endpointing = endpointing or Endpointing()
        self.pathways = PathwayCache(source, threads, precision, memory)
        self._source = source

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of its pathways."""
        return self._source.languages

    def load(self, language: str) -> None:
        """Prepares a pathway now, so that the first switch to it does not wait.

        Raises:
            PathwaysError: for an unknown language, or phrases that it cannot write.
        """
        self._bias(self.pathways.get(self._check(language)))

    def stream(self, language: str) -> TransducerStream:
        """A new stream.

        Raises:
            PathwaysError: for an unknown language, or phrases that it cannot write.
        """
        return TransducerStream(self, self._check(language))

    def decode(self, streams: Sequence[TransducerStream]) -> None:
        """Decodes what streams have accepted, those that are at the same point in one batch.

        A stream's result does not depend on the others but for rounding.
        """
        while True:
            groups: dict[tuple[int, int, int], list[SegmentDecoder]] = defaultdict(list)
            for stream in streams:
                if stream._segment.ready():
                    groups[stream._segment.point()].append(stream._segment)
            if not groups:
                return
            for group in groups.values():
                advance(group)

    def _segment(self, language: str) -> SegmentDecoder:
        pathway = self.pathways.get(language)
        with torch.inference_mode():
            if self._beam == 1:
                return SegmentDecoder(pathway, GreedySearch(pathway.model, 1))
            return SegmentDecoder(pathway, BeamSearch(pathway.model, self._beam, self._bias(pathway)))

    def _bias(self, pathway: ReadyPathway) -> PhraseBias | None:
        """The phrases as word pieces of a language, made once."""
        language, tokenizer = pathway.language, pathway.tokenizer
        if self._phrases and language not in self._biases:
            texts = {phrase: normalize(phrase, language) for phrase in self._phrases}
            for phrase, text in texts.items():
                if not text:
                    raise PathwaysError(f"phrases: {phrase!r} has no words")
                if unknown := tokenizer.unknown([text]):
                    raise PathwaysError(
                        f"phrases: {phrase!r}: the model does not write {' '.join(unknown)} in {language}"
                    )
            self._biases[language] = PhraseBias([tokenizer.encode(text) for text in texts.values()], self._bonus)
        return self._biases.get(language)

    def _check(self, language: str) -> str:
        return known_language(language, self.languages)


class _Written:
    """The text and the timed word pieces of a segment, which mostly grow at their end: only what is new is decoded."""

    def __init__(self, tokenizer: Tokenizer, start: float) -> None:
        self._tokenizer, self._start = tokenizer, start
        self._forget()

    def _forget(self) -> None:
        self._symbols: list[int] = []
        self._frames: list[int] = []
        self._tokens: list[tuple[str, float]] = []
        self._words: list[str] = []  # of the symbols before `_open`, at which the last word begins
        self._open = 0

    def read(self, symbols: list[int], frames: list[int]) -> tuple[str, list[tuple[str, float]]]:
        """The text of ``symbols``, and each as a word piece with its time."""
        known = len(self._symbols)
        if symbols[:known] != self._symbols or frames[:known] != self._frames:  # beam search changed its mind
            self._forget()
            known = 0
        new = symbols[known:]
        if new:
            pieces = self._tokenizer.pieces()
            for place, (symbol, frame) in enumerate(zip(new, frames[known:], strict=True), known):
                self._tokens.append((pieces[symbol], round(self._start + FRAME * frame, 2)))
                if pieces[symbol].startswith(SPACE):
                    self._words.append(self._tokenizer.decode(symbols[self._open : place]))
                    self._open = place
            self._symbols, self._frames = list(symbols), list(frames)
        last = self._tokenizer.decode(symbols[self._open :])
        return " ".join(filter(None, [*self._words, last])), list(self._tokens)


class TransducerStream(FrameStream[SegmentDecoder]):
    """A `Stream` of a transducer; made by `StreamingTransducer.stream`."""

    def __init__(self, recognizer: StreamingTransducer, language: str) -> None:
        self._recognizer = recognizer
        super().__init__(language, recognizer._check, recognizer.endpointing, FRAME)

    def _new_segment(self, language: str) -> SegmentDecoder:
        segment = self._recognizer._segment(language)
        self._written = _Written(segment.pathway.tokenizer, self._start)
        return segment

    def _decode(self) -> None:
        self._recognizer.decode([self])

    def _end(self) -> None:
        self._segment.end()
        self._decode()
        self._segment.finish()

    def _reached(self) -> tuple[int, int | None]:
        search = self._segment.search
        return search.past[0], search.frames[0][-1] if search.symbols[0] else None

    def _result(self, final: bool) -> StreamResult:
        segment = self._segment
        search = segment.search
        text, tokens = self._written.read(search.symbols[0], search.frames[0])
        decoded = segment.samples / SAMPLE_RATE if final else FRAME * search.past[0]
        end = self._start + decoded
        # Greedy search keeps what it has written, and may write more of the last word; beams change their mind.
        stable = text if final else text.rpartition(" ")[0] if isinstance(search, GreedySearch) else ""
        return StreamResult(self.language, text, stable, _words(tokens), self._start, end, final, tokens)


def _words(tokens: list[tuple[str, float]]) -> tuple[Word, ...]:
    """Of word pieces, each from the frame that emitted its first piece to the end of that of its last."""
    words: list[Word] = []
    for piece, time in tokens:
        if piece == UNKNOWN_PIECE:
            continue
        end = round(time + FRAME, 2)
        if piece.startswith(SPACE) or not words:
            words.append(Word(piece.removeprefix(SPACE), time, end))
        else:
            words[-1] = Word(words[-1].text + piece, words[-1].start, end)
    return in_turn(word for word in words if word.text)  # several may be of one frame
