"""What every recogniser of whole windows has in common, whichever model it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asr_pathways.data.audio import Samples
from asr_pathways.runtime.layers import Plan
from asr_pathways.runtime.results import Segment


class Engine(Protocol):
    """What recognises a window of speech.

    Attributes:
        languages: that it recognises.
        window: seconds that are recognised at once, at most.
        free_text: whether it writes cased and punctuated text, and makes some up where nobody speaks.
        times_words: whether it can.
    """

    languages: tuple[str, ...]
    window: float
    free_text: bool
    times_words: bool

    def check_identification(self) -> None:
        """Raises `PathwaysError` if it does not tell its languages apart."""

    def load(self, language: str) -> None:
        """Prepares a language's pathway now."""

    def plan(self) -> Plan:
        """The timings of the products of all of its pathways, in each format; the one that is used first.

        Raises:
            PathwaysError: without kernels.
        """

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        """The segment of samples (N,) at 16 kHz, of at most `window` seconds; None if it has no words."""

    def probabilities(self, samples: Samples, languages: Sequence[str]) -> dict[str, float]:
        """The probability of each of some languages, of samples as of `recognize`."""
