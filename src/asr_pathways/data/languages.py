"""Language codes: one language written in several ways, ``fr``, ``fra``, ``fr-FR``, ``<|fr|>``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_USUAL = {"cmn": "zh", "nb": "no"}
"""Languages that are mostly meant, and written, by the code of the macrolanguage that they belong to."""


@cache
def plain_language(code: str) -> str:
    """The shortest ISO 639 code of a language tag, without region or script.

    ``fr``, ``fra``, ``fre``, ``fr-FR``, ``fra_Latn`` and ``<|fr|>`` all give ``fr``; ``cmn`` gives ``zh``, and ``nb``
    gives ``no``. What is not a language tag comes back as it is.
    """
    from langcodes import Language
    from langcodes.tag_parser import LanguageTagError

    bare = re.sub(r"^<\|(.*)\|>$", r"\1", code.strip())
    try:
        code = str(Language.get(re.split("[-_]", bare)[0]).language or bare)
    except (LanguageTagError, ValueError):
        return bare
    return _USUAL.get(code, code)


def find_language(code: str, known: Iterable[str]) -> str | None:
    """Which of the codes in ``known`` means the language ``code``: the same code, else the same language.

    Returns None if none does.
    """
    known = list(known)
    if code in known:
        return code
    wanted = plain_language(code)
    return next((other for other in known if plain_language(other) == wanted), None)
