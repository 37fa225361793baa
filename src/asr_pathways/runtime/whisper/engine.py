"""Recognition of one window of speech by a Whisper with pathways: search, guards, words with times, languages."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bundle.layout import EMBEDDING
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.languages import find_language
from asr_pathways.errors import PathwaysError
from asr_pathways.models.guards import LEAST_LOG_PROBABILITY, is_silence, loop_end, varied
from asr_pathways.runtime.layers import Layers, Plan, Precision
from asr_pathways.runtime.lru_cache import LruCache
from asr_pathways.runtime.results import Segment, Word
from asr_pathways.runtime.whisper.alignment import word_times
from asr_pathways.runtime.whisper.features import LogMel, pad
from asr_pathways.runtime.whisper.network import STRIDE, Floats, Network, Shape
from asr_pathways.runtime.whisper.search import Search, Transcript
from asr_pathways.runtime.whisper.source import WhisperSource
from asr_pathways.runtime.whisper.tokens import Tokens
from asr_pathways.runtime.whisper.unsaid import LONG, unsaid

ENGLISH_TOKENS = 51864
"""In the vocabulary of every English-only model: it has language tokens, too, and was never trained on them."""

FRAME = 0.02
"""Seconds of a frame of the encoder."""


@dataclass(frozen=True)
class _Found:
    """What is said in samples.

    Attributes:
        scores: log probabilities of its tokens.
        filled: whether it has no end because it is as long as may be: a word may be cut.
    """

    text: str
    words: tuple[Word, ...]
    scores: list[float]
    no_speech: float | None
    filled: bool

    @property
    def sure(self) -> bool:
        """Whether the model believes in it: more of what it does not is no gain."""
        return sum(self.scores) >= LEAST_LOG_PROBABILITY * len(self.scores)

    @property
    def until(self) -> float:
        """Where its last whole word ends."""
        return self.words[-1].start if self.filled else self.words[-1].end

    def whole(self) -> _Found:
        """Without a word that may be cut."""
        if not self.filled:
            return self
        return replace(self, text=self.text.removesuffix(self.words[-1].text).rstrip(), words=self.words[:-1])


class Identifier(Protocol):
    """Tells languages apart in the engine's place."""

    def check(self) -> None:
        """Raises `PathwaysError` if it cannot."""

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        """As `WhisperEngine.probabilities`."""


class WhisperEngine:
    """Recognises windows of speech, each in a language. Thread-safe.

    Args:
        source: the model.
        threads: of each product.
        precision: of products; see `Layers`.
        memory: bytes that weights of pathways may take before the least recently used are dropped.
        beam: hypotheses of beam search; 1 is greedy search.

    Attributes:
        languages: that it recognises.
        window: seconds that are recognised at once, at most.
        layers: how its linear layers are stored, with the timings that decided it.

    Raises:
        PathwaysError: if the kernels were not built, or a part of the model is missing or does not fit.
    """

    free_text = times_words = True

    def __init__(
        self,
        source: WhisperSource,
        threads: int = 1,
        precision: Precision = "auto",
        memory: float = math.inf,
        beam: int = 1,
        identifier: Identifier | None = None,
    ) -> None:
        self._identifier = identifier
        self._source, self._threads = source, threads
        self._shape = Shape.read(source.config, f"{source.where}: config.json")
        self._tokens = _tokens(source)
        self.layers = Layers(precision, source.granularity, threads)
        embedding = source.tensor(EMBEDDING, source.languages[0])
        if embedding.shape != (self._shape.vocab_size, self._shape.d_model):
            raise PathwaysError(f"{source.where}: {EMBEDDING}: {embedding.shape}, not of the size in config.json")
        self._embedding = np.ascontiguousarray(embedding)
        self._mel = LogMel.of({"feature_size": self._shape.num_mel_bins} | dict(source.preprocessor))
        if self._mel.bins != self._shape.num_mel_bins:
            raise PathwaysError(f"{source.where}: {self._mel.bins} mel bins for a model of {self._shape.num_mel_bins}")
        multilingual = source.generation.get("is_multilingual", self._shape.vocab_size != ENGLISH_TOKENS)
        self._language_tokens = self._tokens.languages if multilingual else {}
        self.languages = source.languages or tuple(self._language_tokens) or ("en",)
        frames = STRIDE * self._shape.max_source_positions
        self.window = frames * self._mel.hop / self._mel.rate
        self._padding = frames if source.config.get("padding", "window") == "window" else 0
        never = self._banned(source.generation.get("suppress_tokens"))
        first = self._banned(source.generation.get("begin_suppress_tokens"))
        self._search = Search(self._tokens.end, self._shape.max_target_positions, never, never | first, beam)
        self._networks = LruCache[str, Network](memory, self._nbytes)
        self._lock = threading.Lock()

    def check_identification(self) -> None:
        if self._identifier is not None:
            self._identifier.check()
        elif len(self._language_tokens) < 2:
            raise PathwaysError(f"{self._source.where}: an English-only Whisper tells no languages apart")

    def plan(self) -> Plan:
        for language in self.languages:
            self.load(language)
        return self.layers.plan

    def load(self, language: str) -> None:
        self._network(language)

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        """As `Engine.recognize`. Greedy search is as `asr_pathways.models.hub.whisper.Whisper.decode` does it; beam
        search has the same guards. Speech that a text leaves out at its end is recognised by itself: see `unsaid`.

        Raises:
            PathwaysError: if it is too short or too long.
        """
        network, found, begin = self._network(language), list[_Found](), 0
        while True:
            rest, offset = samples[begin:], begin / SAMPLE_RATE
            long = len(rest) >= LONG * SAMPLE_RATE
            one = self._find(network, rest, language, offset, words or long)
            if one is None or (found and not one.sure):
                break
            left = unsaid(rest, one.until - offset) if long and one.sure and one.words else None
            found.append(one if left is None else one.whole())
            if left is None:
                break
            begin += left
        if not found:
            return None
        scores = [score for one in found for score in one.scores]
        return Segment(
            " ".join(one.text for one in found if one.text),
            0.0,
            len(samples) / SAMPLE_RATE,
            language,
            tuple(word for one in found for word in one.words) if words else (),
            found[0].no_speech,
            sum(scores) / max(1, len(scores)),
        )

    def _find(self, network: Network, samples: Samples, language: str, begin: float, words: bool) -> _Found | None:
        """What is said in samples, which begin at so many seconds; None: nothing."""
        features, frames = self._features(samples)
        cross = network.encode(features)
        prompt = self.prompt(language)
        found, start = self._search(network, cross, prompt, attention=words)
        no_speech = None
        if found.mean < LEAST_LOG_PROBABILITY and self._tokens.no_speech is not None:
            no_speech = self._probability(network, start, self._tokens.no_speech)
            if is_silence(no_speech, found.mean):
                return None
        searched, found = found, self._guarded(network, cross, prompt, found, words)
        filled = found is searched and len(found.scores) == len(found.tokens)  # the end has a score, too
        text = self._tokens.decode(found.tokens)
        if not text:
            return None
        timed = self._words(found, language, -(-frames // STRIDE), begin, len(samples) / SAMPLE_RATE) if words else ()
        return _Found(text, timed, found.scores, no_speech, filled)

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        """The probability of each of some languages, of samples as of `recognize`: by the identifier that was fitted,
        or else by Whisper's language tokens.

        Of a pruned model it is the mean over the pathways of these languages: each was trained on one.

        Raises:
            PathwaysError: if the model is English-only, or the samples are too short or too long.
        """
        self.check_identification()
        if self._identifier is not None:
            return self._identifier.probabilities(samples, languages)
        features, _ = self._features(samples)
        tokens = list(self._language_tokens)
        places = {language: tokens.index(self._code(language)) for language in languages}
        rows = list(self._language_tokens.values())
        total = np.zeros(len(tokens))
        for language in {self._source.pathway(language): language for language in languages}.values():
            network = self._network(language)
            logits = network.logits(self._begin(network, network.encode(features)).hidden, rows)
            powers = np.exp(logits - logits.max())
            total += powers / powers.sum()
        of_all = sum(total[place] for place in places.values())
        return {language: float(total[place] / of_all) for language, place in places.items()}

    def prompt(self, language: str) -> list[int]:
        """The tokens that start a transcript in a language.

        Raises:
            PathwaysError: for a language that Whisper has no token for.
        """
        tokens = self._tokens
        if not self._language_tokens:
            return [tokens.start, tokens.no_timestamps]
        return [tokens.start, self._language_tokens[self._code(language)], tokens.transcribe, tokens.no_timestamps]

    def _code(self, language: str) -> str:
        code = find_language(language, self._language_tokens)
        if code is None:
            raise PathwaysError(f"{self._source.where}: Whisper has no token for the language {language!r}")
        return code

    def _network(self, language: str) -> Network:
        def make() -> Network:
            tensor, tokens = partial(self._tensor, language=language), self._source.vocabulary(language)
            return Network(self._shape, tensor, self.layers, self._threads, self._alignment_heads, tokens)

        with self._lock:
            return self._networks.used(self._source.pathway(language), make)

    def _tensor(self, name: str, language: str) -> NDArray[Any]:
        """A tensor of a pathway: the embedding is that of all, but for languages that have their own."""
        common = name == EMBEDDING and language not in self._source.added
        return self._embedding if common else self._source.tensor(name, language)

    def _nbytes(self, network: Network) -> int:
        """What a network does not share with others."""
        return network.nbytes + (0 if network.embedding is self._embedding else network.embedding.nbytes)

    @cached_property
    def _alignment_heads(self) -> list[tuple[int, int]]:
        """Heads of the decoder that follow the audio: those that the model names, or all in the upper half."""
        heads, layers = self._shape.decoder_attention_heads, self._shape.decoder_layers
        named = self._source.generation.get("alignment_heads") or [
            (layer, head) for layer in range(layers // 2, layers) for head in range(heads)
        ]
        try:
            return [(int(layer), int(head)) for layer, head in named]
        except (TypeError, ValueError):
            raise PathwaysError(f"{self._source.where}: generation_config.json: alignment_heads: no pairs") from None

    def _features(self, samples: Samples) -> tuple[Floats, int]:
        """Features, padded as the encoder reads them, and how many frames of them are of the samples."""
        features = self._mel(samples)
        frames, most = len(features), STRIDE * self._shape.max_source_positions
        if frames > most:
            raise PathwaysError(f"{len(samples) / SAMPLE_RATE:.1f} s of audio: Whisper's window is {self.window:g} s")
        size = self._padding or min(most, frames + 1) // STRIDE * STRIDE
        return pad(features[:size], size), frames

    def _begin(self, network: Network, cross: Any) -> Any:
        return network.hypotheses([cross]).step(np.array([[self._tokens.start]], dtype=np.int32))

    def _probability(self, network: Network, hidden: Floats, token: int) -> float:
        """Of a token among all, after the decoder's output (1, D)."""
        best, scores = network.best(hidden, 1, None)
        logits = network.logits(hidden, [token, int(best[0, 0])])
        return float(np.exp(logits[0] - logits[1] + scores[0, 0]))

    def _guarded(
        self, network: Network, cross: Any, prompt: Sequence[int], found: Transcript, attention: bool
    ) -> Transcript:
        """What of a transcript is believed."""
        end = loop_end(found.tokens) if found.loops else None
        if end is not None:
            kept, looping = found.tokens[:end], found.tokens[end]
            rest, _ = self._search(network, cross, prompt, kept, looping, attention)
            if rest.loops or rest.mean < LEAST_LOG_PROBABILITY:
                rest = Transcript()
            found = Transcript(
                kept + rest.tokens, found.scores[:end] + rest.scores, found.attention[:end] + rest.attention
            )
        count = varied(found.tokens, self._tokens.decode)
        return (
            found
            if count == len(found.tokens)
            else Transcript(found.tokens[:count], found.scores[:count], found.attention[:count])
        )

    def _words(self, found: Transcript, language: str, frames: int, begin: float, seconds: float) -> tuple[Word, ...]:
        """The words of so many frames and seconds, which begin at ``begin``."""
        attention = np.stack(found.attention, axis=1)[:, :, :frames]
        times = [[begin + min(edge, seconds) for edge in one] for one in word_times(attention, FRAME)]
        words = []
        for text, places in self._tokens.words(found.tokens, language):
            probability = float(np.exp(np.mean([found.scores[place] for place in places])))
            words.append(
                Word(text, round(times[places[0]][0], 2), round(times[places[-1]][1], 2), min(1.0, probability))
            )
        return tuple(words)

    def _banned(self, tokens: object) -> NDArray[np.uint8]:
        """(V,): 1 for tokens of a generation config."""
        banned = np.zeros(self._shape.vocab_size, dtype=np.uint8)
        for token in tokens if isinstance(tokens, list) else ():
            if isinstance(token, int) and 0 <= token < len(banned):
                banned[token] = 1
        return banned


def _tokens(source: WhisperSource) -> Tokens:
    files = source.files
    try:
        if "tokenizer.json" in files:
            return Tokens.of(files["tokenizer.json"])
        if "vocab.json" in files and "added_tokens.json" in files:
            return Tokens.of_vocabulary(files["vocab.json"], files["added_tokens.json"])
    except PathwaysError as error:
        raise PathwaysError(f"{source.where}: {error}") from None
    raise PathwaysError(f"{source.where}: no tokenizer.json")
