"""Guards against what a decoder of text makes up: loops, and words where nobody speaks. Pure functions; no torch.

The thresholds are those of Whisper's own decoding (Radford et al. 2022, arXiv 2212.04356, section 4.5), which
faster-whisper has too. There, a transcript that fails is drawn anew at rising temperatures; here nothing is drawn: a
loop is cut to its first round, and search goes on from there without the token that led into it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

ROUNDS = 4
"""A loop goes round at least so often, ..."""

LOOP = 24
"""... and is at least so many tokens long: people do say a word or a figure several times."""

MOST_COMPRESSION = 2.4
"""Text that zlib makes smaller by more repeats itself."""

NO_SPEECH = 0.6
"""Probability of Whisper's token for "no speech" above which text that the model is unsure of is not believed."""

LEAST_LOG_PROBABILITY = -1.0
"""Mean over a transcript's tokens, in nats, below which the model is unsure of it."""


def loop_end(tokens: Sequence[int]) -> int | None:
    """How many of ``tokens`` are left if a loop that they end in is cut to its first round; None if there is no loop.

    A loop is any n-gram that is repeated without anything between; its last round may be incomplete.
    """
    count = len(tokens)
    for period in range(1, count // ROUNDS + 1):
        repeated = 0
        while repeated < count - period and tokens[count - 1 - repeated] == tokens[count - 1 - repeated - period]:
            repeated += 1
        if repeated + period >= max(LOOP, ROUNDS * period):
            return count - repeated
    return None


def compression(text: str) -> float:
    """How many times smaller zlib makes ``text``, below 1 for a short one.

    A letter counts as one byte in every script: in UTF-8, text of many scripts is half redundant as it stands.
    """
    numbers: dict[str, int] = {}
    data = bytes(numbers.setdefault(letter, len(numbers)) % 256 for letter in text)
    return len(data) / len(zlib.compress(data))


def varied(tokens: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> int:
    """How many of ``tokens`` to keep so that their text compresses by at most `MOST_COMPRESSION`; usually all.

    It catches what `loop_end` does not: rounds that differ a little, as when the model counts.
    """
    keep = len(tokens)
    while keep and compression(text_of(tokens[:keep])) > MOST_COMPRESSION:
        keep = keep * 7 // 8
    return keep


def is_silence(no_speech: float, log_probability: float) -> bool:
    """Whether a transcript is taken for invented.

    Args:
        no_speech: probability of the token for "no speech", where a model has one; else 0.
        log_probability: mean over the transcript's tokens and the one that ends it, in nats.
    """
    return no_speech > NO_SPEECH and log_probability < LEAST_LOG_PROBABILITY
