"""Text normalisation, per language, the same for training targets, references and hypotheses.

The rules, in order:

1. Cues in brackets, ``[..] (..) <..> {..}``, are dropped with what they hold; so are invisible characters.
2. Curly and modifier apostrophes become ``'``.
3. Numbers are spelled out by num2words in the language: decimals (``28.8``, ``28,8``), groups of three
   (``1,000`` in English, ``1.000`` elsewhere), ordinals (``1st``, ``2ème``, ``3º``, ``3e``). Numbers of more
   than 12 digits or with a leading zero are read digit by digit. Letters glued to digits become words.
4. NFC and lower case; in Russian ``ё`` becomes ``е``, since Russian print uses them interchangeably.
5. Everything but letters, combining marks and apostrophes becomes a space; so do hyphens.
6. An apostrophe stays inside a word (``don't``, ``l'eau``). At a word's edge it stays only in the words that
   the language writes so (English ``'em``, Italian ``po'``, Dutch ``'s``); elsewhere it was a quotation mark.
7. Runs of spaces collapse.
"""

from __future__ import annotations

import re
import unicodedata

from asr_pathways.errors import PathwaysError

LANGUAGES = ("en", "es", "fr", "it", "ru", "cs", "nl")

_BRACKETS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>|\{[^{}]*\}")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ′＇`´", "'"))
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ORDINALS = {
    "en": re.compile(r"(\d{1,12})(st|nd|rd|th)\b", re.IGNORECASE),
    "es": re.compile(r"(\d{1,12})\.?([ºª])"),
    "fr": re.compile(r"(\d{1,12})(ers?|res?|èmes?|emes?|es?)\b", re.IGNORECASE),
    "it": re.compile(r"(\d{1,12})\.?([ºª°])"),
    "nl": re.compile(r"(\d{1,12})(ste|de|e)\b", re.IGNORECASE),
}
_ITALIAN = "po' mo' di' fa' va' da' sta' be' to' ve' ca' de' ne' co' a' su' que' vo'"
_DUTCH = "'s 't 'n 'k 'r 'm 'ns 'tis"
_EDGE_WORDS = {
    "en": frozenset({"'em", "'til", "'cause", "'tis", "'twas", "'round", "'bout"}),
    "it": frozenset(_ITALIAN.split()),
    "nl": frozenset(_DUTCH.split()),
}


def normalize(text: str, language: str) -> str:
    """The words of ``text`` as ``language`` writes them, in lower case, by the rules of this module.

    Idempotent. What is left are letters, combining marks, apostrophes and single spaces between words.

    Raises:
        PathwaysError: if ``language`` is not one of :data:`LANGUAGES`.
    """
    check_language(language)
    if text.isascii() and text.isalpha() and text.islower():
        return text
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if _visible(c))
    while (shorter := _BRACKETS.sub(" ", text)) != text:
        text = shorter
    text = text.translate(_APOSTROPHES)
    text = _spell_numbers(unicodedata.normalize("NFC", text), language)
    text = unicodedata.normalize("NFC", text.lower())
    if language == "ru":
        text = text.replace("ё", "е")
    text = "".join(c if c == "'" or unicodedata.category(c)[0] in "LM" else " " for c in text)
    edge_words = _EDGE_WORDS.get(language, frozenset())
    words = (word if word in edge_words else word.strip("'") for word in text.split())
    return " ".join(re.sub("''+", "'", word) for word in words if word)


def check_language(language: str) -> None:
    """Raises PathwaysError, listing the known languages, if ``language`` is not one of them."""
    if language not in LANGUAGES:
        raise PathwaysError(f"unknown language {language!r}: choose among {', '.join(LANGUAGES)}")


def check_script(text: str, language: str) -> None:
    """Raises PathwaysError if most letters of ``text`` are of a script that ``language`` is not written in."""
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    script = "CYRILLIC" if language == "ru" else "LATIN"
    own = sum(unicodedata.name(c, "").startswith(script) for c in letters)
    if 2 * own < len(letters):
        raise PathwaysError(f"its text is not in {script.capitalize()} letters, as {language!r} is: {text:.20}")


def fold_accents(text: str) -> str:
    """``text`` without its combining marks (``número`` becomes ``numero``), for comparing spellings."""
    return unicodedata.normalize(
        "NFC", "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    )


def scoring_text(text: str, language: str) -> str:
    """What is compared when free text (cased, punctuated) is scored: :func:`normalize`, and in Spanish no accents.

    The Spanish references of the prompts lack accents here and there; both sides lose them.
    """
    plain = normalize(text, language)
    return fold_accents(plain) if language == "es" else plain


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cf", "Cs", "Co", "Cn")


def _spell_numbers(text: str, language: str) -> str:
    if not re.search(r"\d", text):
        return text
    ordinals = _ORDINALS.get(language)
    if ordinals:
        text = ordinals.sub(lambda match: _apart(match, _ordinal(match[1], match[2], language)), text)
    return _NUMBER.sub(lambda match: _apart(match, _cardinal(match[0], language)), _ungroup(text, language))


def _apart(match: re.Match[str], words: str) -> str:
    """The words set apart from what stands around the number, but for an apostrophe before it (``l'8``)."""
    return f"{words} " if match.string[: match.start()].endswith("'") else f" {words} "


def _ungroup(text: str, language: str) -> str:
    separator = "," if language == "en" else r"\."
    groups = rf"(?<![\d.,])\d{{1,3}}(?:{separator}\d{{3}})+(?![\d])"
    return re.sub(groups, lambda match: re.sub(r"\D", "", match[0]), text)


def _cardinal(number: str, language: str) -> str:
    from num2words import num2words

    parts = re.split("[.,]", number)
    if len(parts) == 2 and len(parts[0]) <= 6 and len(parts[1]) <= 4 and not _by_digit(parts[0]):
        return str(num2words(float(f"{parts[0]}.{parts[1]}"), lang=language))
    words = []
    for part in parts:
        for piece in part if _by_digit(part) else [part]:
            words.append(str(num2words(int(piece), lang=language)))
    return " ".join(words)


def _by_digit(digits: str) -> bool:
    return len(digits) > 12 or (len(digits) > 1 and int(digits[0]) == 0)


def _ordinal(digits: str, ending: str, language: str) -> str:
    from num2words import num2words

    word = str(num2words(int(digits), lang=language, to="ordinal"))
    if ending == "ª" and word.endswith("o"):
        return word[:-1] + "a"
    if language == "fr" and int(digits) == 1 and ending.lower().startswith("re"):
        return "première"
    return word
