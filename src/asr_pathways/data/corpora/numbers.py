"""Lines of spoken numbers: a small, closed task in many languages, for controlled experiments.

With a hundred words a language, synthetic speech of these lines is learnt in minutes to a word error rate of a few
per cent, where small differences between methods show.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from asr_pathways.data.languages import check_language
from asr_pathways.data.normalize import normalize
from asr_pathways.data.numerals import SPELLED
from asr_pathways.errors import PathwaysError
from asr_pathways.files import write_text


def write_numbers(out: Path, languages: Sequence[str], lines: int) -> None:
    """Writes ``out/<language>.txt``: ``lines`` distinct lines each, the same ones every time.

    Raises:
        PathwaysError: if a language is unknown, or its numbers are not spelled out.
    """
    for language in languages:
        if check_language(language) not in SPELLED:
            spelled = ", ".join(sorted(SPELLED))
            raise PathwaysError(f"numbers are not spelled out in {language!r}: choose among {spelled}")
    for language in languages:
        write_text(out / f"{language}.txt", "".join(f"{line}\n" for line in number_lines(language, lines)))


def number_lines(language: str, count: int) -> list[str]:
    """``count`` distinct lines: large numbers, digit by digit as on the telephone, and in groups of two or three."""
    rng = random.Random(f"number lines {language}")
    lines: dict[str, None] = {}
    while len(lines) < count:
        kind = rng.randrange(3)
        if kind == 0:
            figures = str(int(10 ** rng.uniform(2, 6)))
        elif kind == 1:
            figures = " ".join(str(rng.randrange(10)) for _ in range(rng.randrange(3, 8)))
        else:
            figures = " ".join(str(rng.randrange(10 ** rng.choice((2, 3)))) for _ in range(rng.randrange(2, 4)))
        lines[normalize(figures, language)] = None
    return list(lines)
