"""Language codes, of which a language has several (``fr``, ``fra``, ``fr-FR``, ``<|fr|>``), and scripts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from asr_pathways.errors import PathwaysError

_USUAL = {"cmn": "zh", "nb": "no"}
"""Languages that are mostly meant, and written, by the code of the macrolanguage that they belong to."""

_TWO_SCRIPTS = "az bm bs crh ff ha hak jv kk kok ks ku ky lad mn mni ms nan pa rom sa sd shi sr su tg tk tt ug uz za"
_SCRIPTS = (  # the other languages' ones, by ISO 15924, and how Unicode's names of their letters begin
    "Arab ARABIC, Armn ARMENIAN, Beng BENGALI, Cyrl CYRILLIC, Deva DEVANAGARI, Ethi ETHIOPIC, Geor GEORGIAN, "
    "Grek GREEK, Gujr GUJARATI, Hans CJK, Hant CJK, Hebr HEBREW, Jpan HIRAGANA KATAKANA CJK, Khmr KHMER, "
    "Knda KANNADA, Kore HANGUL CJK, Laoo LAO, Latn LATIN, Mlym MALAYALAM, Mymr MYANMAR, Orya ORIYA, Sinh SINHALA, "
    "Taml TAMIL, Telu TELUGU, Thai THAI, Tibt TIBETAN"
)
_LETTERS = {script: tuple(names) for script, *names in (row.split() for row in _SCRIPTS.split(","))}


@cache
def plain_language(code: str) -> str:
    """The shortest ISO 639 code of a language tag, without region or script.

    ``fr``, ``fra``, ``fre``, ``fr-FR``, ``fra_Latn`` and ``<|fr|>`` all become ``fr``; ``cmn`` becomes ``zh``, and
    ``nb`` becomes ``no``. What is not a language tag is returned as it is.
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
    """Which of the codes in ``known`` means the language ``code``: the same code, else the same language, else None."""
    known = list(known)
    if code in known:
        return code
    wanted = plain_language(code)
    return next((other for other in known if plain_language(other) == wanted), None)


def known_language(code: str, known: Iterable[str]) -> str:
    """The language of a model that `find_language` finds among those ``known`` to it.

    Raises:
        PathwaysError: if there is none; all that are known are named.
    """
    known = list(known)
    found = find_language(code, known)
    if found is None:
        raise PathwaysError(f"unknown language {code!r}: this model knows {' '.join(known)}")
    return found


def code_in_data(code: str, present: Sequence[str], known: Sequence[str]) -> str:
    """How data name what a model means by ``code``: Whisper's ``jw`` is ``jv`` there, and its ``zh`` may be ``zh-TW``.

    Args:
        code: in any form.
        present: the codes of the data; where several are of that language, ``code`` itself or the first.
        known: the codes of the model; empty: it knows none apart.

    Returns:
        The model's code where the data have no such language.

    Raises:
        PathwaysError: if the model does not know it.
    """
    own = known_language(code, known) if known else code
    alike = [other for other in present if find_language(other, known or [own]) == own]
    return code if code in alike else (*alike, own)[0]


@cache
def check_language(language: str) -> str:
    """The shortest ISO 639 code of ``language``, which may be written as ``fra``, ``fr-FR`` or ``<|fr|>``.

    Raises:
        PathwaysError: if no language has this code.
    """
    from langcodes import tag_is_valid

    code = plain_language(language)
    valid = re.fullmatch("[a-z]{2,3}", code) and tag_is_valid(code)
    if not valid or code in ("mis", "mul", "und", "zxx") or "qaa" <= code <= "qtz":
        raise PathwaysError(f"unknown language {language!r}: give an ISO 639 code, such as de or yue")
    return code


def is_language(code: str) -> bool:
    """Whether :func:`check_language` knows ``code``."""
    try:
        check_language(code)
    except PathwaysError:
        return False
    return True


def check_script(text: str, language: str) -> None:
    """Raises PathwaysError if most letters of ``text`` are of a script that ``language`` is not written in.

    Languages that are written in two scripts, or in one that is not well known, pass with any.
    """
    names = _letters(check_language(language))
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    count = sum(unicodedata.name(c, "").startswith(names) for c in letters)
    if names and 2 * count < len(letters):
        script = " or ".join(name if name == "CJK" else name.capitalize() for name in names)
        raise PathwaysError(f"its text is not in {script} letters, as {language!r} is: {text:.20}")


@cache
def _letters(language: str) -> tuple[str, ...]:
    """How the names of the letters begin that ``language`` is written in; empty where any will do."""
    from langcodes import Language

    if language in _TWO_SCRIPTS.split():
        return ()
    script = Language.get(language).assume_script().script
    if script is None:
        likely = Language.get(language).maximize()
        # For unknown languages langcodes returns the territory US.
        script = None if likely.territory == "US" else likely.script
    return _LETTERS.get(script, ())
