"""Search for the tokens of a transcript: greedy, or by beams of hypotheses side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.models.guards import loop_end
from asr_pathways.runtime.whisper.network import Floats, Hypotheses, Network, Step

Flags = NDArray[np.uint8]


@dataclass
class Transcript:
    """Tokens that a search found, with their log probabilities and, if asked for, attention to the audio.

    Attributes:
        tokens: without prompt and end.
        scores: of each token, and of the end if it was reached.
        attention: (P, T) of each of these.
        loops: whether the tokens end in a loop.
    """

    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    attention: list[Floats] = field(default_factory=list)
    loops: bool = False

    @property
    def mean(self) -> float:
        """Log probability a token."""
        return sum(self.scores) / max(1, len(self.scores))

    def extended(self, token: int, score: float, attention: Floats | None) -> Transcript:
        """With one more token, but for the end."""
        tokens = [*self.tokens, token]
        return Transcript(tokens, [*self.scores, score], _more(self.attention, attention), loop_end(tokens) is not None)

    def ended(self, score: float, attention: Floats | None) -> Transcript:
        """With the end of text."""
        return Transcript(self.tokens, [*self.scores, score], _more(self.attention, attention))


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        end: the token that ends a text.
        longest: tokens of a text with its prompt.
        never: (V,): 1 for tokens that are never written.
        never_first: likewise, for the first one.
        beam: hypotheses; 1 is greedy search.
    """

    end: int
    longest: int
    never: Flags
    never_first: Flags
    beam: int = 1

    def __call__(
        self,
        network: Network,
        cross: Any,
        prompt: Sequence[int],
        kept: Sequence[int] = (),
        banned: int | None = None,
        attention: bool = False,
    ) -> tuple[Transcript, Floats]:
        """The likeliest text until its end, the longest text, or a loop; and the decoder's output for the start.

        Args:
            cross: the encoded utterance.
            prompt: tokens before the text.
            kept: the text's first tokens, which are not searched for, nor are they in what is returned.
            banned: a token that does not come next.
            attention: whether to return it.
        """
        never_first = self.never_first
        if banned is not None:
            never_first = self.never.copy()
            never_first[banned] = 1
        hypotheses = network.hypotheses([cross])
        start = hypotheses.step(_row(prompt[:1])).hidden
        step = hypotheses.step(_row([*prompt[1:], *kept]), attention)
        search = self._greedy if self.beam == 1 else self._by_beams
        return search(network, hypotheses, step, never_first, attention), start

    def _greedy(
        self, network: Network, hypotheses: Hypotheses, step: Step, never_first: Flags, attention: bool
    ) -> Transcript:
        found = Transcript()
        for number in range(self.longest - hypotheses.length):
            tokens, scores = network.best(step.hidden, 1, self.never if number else never_first)
            found.scores.append(float(scores[0, 0]))
            if attention:
                found.attention.append(step.attention[0])
            token = int(tokens[0, 0])
            if token in (self.end, -1):  # -1: all tokens are banned
                break
            found.tokens.append(token)
            if loop_end(found.tokens) is not None:
                found.loops = True
                break
            step = hypotheses.step(tokens, attention)
        return found

    def _by_beams(
        self, network: Network, hypotheses: Hypotheses, step: Step, never_first: Flags, attention: bool
    ) -> Transcript:
        """Beam search as transformers has it (``num_beams``, ``length_penalty`` 1, ``early_stopping`` True).

        Of the twice `beam` likeliest continuations those of the first `beam` that end are finished texts, and the
        likeliest others go on. A text is worth its log probability a token, the end included. Search is over when there
        are `beam` of them, as in openai-whisper: going on, a short text loses to its own repetition, each token of
        which is likely. One that loops is dropped for the same reason, and returned only where no text was finished.
        """
        open_, finished, looping = [Transcript()], list[Transcript](), list[Transcript]()
        room = self.longest - hypotheses.length
        for number in range(room):
            tokens, scores = network.best(step.hidden, 2 * self.beam, self.never if number else never_first)
            totals = np.array([sum(one.scores) for one in open_])[:, None] + scores
            order = np.argsort(-totals, axis=None, kind="stable")[: 2 * self.beam]
            going = list[tuple[int, Transcript]]()
            for rank, (row, column) in enumerate(zip(*np.unravel_index(order, totals.shape), strict=True)):
                token, score = int(tokens[row, column]), float(scores[row, column])
                if token < 0:  # there are no more
                    continue
                seen = step.attention[row] if attention else None
                if token == self.end:
                    if rank < self.beam:
                        finished.append(open_[row].ended(score, seen))
                    continue
                longer = open_[row].extended(token, score, seen)
                if longer.loops:
                    looping.append(longer)
                elif number + 1 < room:
                    going.append((int(row), longer))
                elif rank < self.beam:
                    finished.append(longer)
            finished = sorted(finished, key=lambda one: -one.mean)[: self.beam]
            going = going[: self.beam]
            if not going or len(finished) == self.beam:
                break
            hypotheses.keep([row for row, _ in going])
            open_ = [longer for _, longer in going]
            step = hypotheses.step(np.array([[one.tokens[-1]] for one in open_], dtype=np.int32), attention)
        return next(iter(finished), max(looping, key=lambda one: one.mean, default=open_[0]))


def _more(attention: list[Floats], last: Floats | None) -> list[Floats]:
    return attention if last is None else [*attention, last]


def _row(tokens: Sequence[int]) -> NDArray[np.int32]:
    return np.array([tokens], dtype=np.int32)
