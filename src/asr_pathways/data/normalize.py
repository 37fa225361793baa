"""Text normalisation, per language, the same for training targets, references and hypotheses.

The rules, in order:

1. Cues in brackets, ``[..] (..) <..> {..}``, are dropped with what they hold; so are invisible characters.
2. Curly and modifier apostrophes become ``'``.
3. Digits of other scripts become 0 to 9. In the languages of :data:`SPELLED`, numbers are spelled out by num2words:
   decimals (``28.8``, ``28,8``), groups of three (``1,000`` in English and where else the decimal sign is a point,
   ``1.000`` elsewhere), ordinals (``1st``, ``2ème``, ``3º``, ``3e``). Numbers of more than 12 digits or with a
   leading zero are read digit by digit. Letters glued to digits become words. In other languages digits stay, in
   one group, and so does ``〇``.
4. NFC and lower case; in Russian ``ё`` becomes ``е``, since Russian print uses them interchangeably; in Turkish
   and Azerbaijani ``I`` becomes ``ı``, and ``İ`` becomes ``i``.
5. Everything but letters, combining marks, apostrophes and the digits that rule 3 leaves becomes a space; so do
   hyphens.
6. An apostrophe stays inside a word (``don't``, ``l'eau``). At a word's edge it stays only in the words that
   the language writes so (English ``'em``, Italian ``po'``, Dutch ``'s``); elsewhere it was a quotation mark.
7. Runs of spaces collapse.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from asr_pathways.data.languages import check_language, plain_language

_SPELLED = "be cs de en eo es fi fr he id is it kk lt lv nl pl pt ro ru sk sl sv th uk"
SPELLED: Mapping[str, int] = {**dict.fromkeys(_SPELLED.split(), 4), "hu": 3, "ca": 0, "fa": 0}
"""The languages whose numbers are spelled out, and with how many decimals at most they are said as one number.

num2words 0.5.14 has converters for more. Left out are those that do not end (am), say two numbers alike (az, cy, tet,
tr), stop at 10 digits (kn, te), say or write numbers as nobody does (ar, da, no, vi, and sr in Latin letters), could
not be compared with CLDR's spelled numbers (bn, ce, tg), or whose language writes digits (ja, ko).
"""

_BRACKETS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>|\{[^{}]*\}")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ′＇`´", "'"))
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ORDINALS = {
    "en": re.compile(r"(\d{1,12})(st|nd|rd|th)\b", re.IGNORECASE),
    "es": re.compile(r"(\d{1,12})\.?([ºª])"),
    "fr": re.compile(r"(\d{1,12})(ers?|res?|èmes?|emes?|es?)\b", re.IGNORECASE),
    "it": re.compile(r"(\d{1,12})\.?([ºª°])"),
    "nl": re.compile(r"(\d{1,12})(ste|de|e)\b", re.IGNORECASE),
    "pt": re.compile(r"(\d{1,12})\.?([ºª])"),
}
_CONVERTERS = {"kk": "kz", "pt": "pt_BR"}  # num2words' names
_REPAIRS = {  # what num2words misspells, and how it is written
    "de": ("einstausend", "eintausend"),
    "eo": ("milcent", "mil cent"),
    "hu": ("két$", "kettő"),
    "sv": ("etttusen", "ettusen"),
}
# By CLDR 48, the languages, beside English, whose decimal sign is a point, with commas between groups of digits;
# first those where all groups but the last may have two digits (1,00,000).
_LAKHS = "as bn gu hi kn ml mr ne or pa sa ta te ur"
_COMMAS = (
    "am ar bo ceb ckb cmn cy fa fil ga gd ha haw he ig ja km ko kok lg mi mni ms mt my nso om sat sd si sn so st sw "
    "th ti tn ug xh yi yo yue zh zu"
)
_GROUPED = {"en": (",", 3), **dict.fromkeys(_LAKHS.split(), ("[,٬]", 2)), **dict.fromkeys(_COMMAS.split(), ("[,٬]", 3))}
_ITALIAN = "po' mo' di' fa' va' da' sta' be' to' ve' ca' de' ne' co' a' su' que' vo'"
_DUTCH = "'s 't 'n 'k 'r 'm 'ns 'tis"
_EDGE_WORDS = {
    "en": frozenset({"'em", "'til", "'cause", "'tis", "'twas", "'round", "'bout"}),
    "it": frozenset(_ITALIAN.split()),
    "nl": frozenset(_DUTCH.split()),
}
UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages written without spaces between words."""


def normalize(text: str, language: str) -> str:
    """The words of ``text`` as ``language`` writes them, in lower case, by the rules of this module.

    Idempotent. What is left are letters, combining marks, apostrophes and single spaces between words; and digits,
    in the languages that are not in :data:`SPELLED`.

    Raises:
        PathwaysError: if ``language`` is no code of a language.
    """
    language = check_language(language)
    if text.isascii() and text.isalpha() and text.islower():
        return text
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if _visible(c))
    while (shorter := _BRACKETS.sub(" ", text)) != text:
        text = shorter
    text = text.translate(_APOSTROPHES)
    text = _numbers(unicodedata.normalize("NFC", text), language)
    if language in ("az", "tr"):
        text = text.replace("I", "ı").replace("İ", "i")
    text = unicodedata.normalize("NFC", text.lower())
    if language == "ru":
        text = text.replace("ё", "е")
    kept = "'" if language in SPELLED else "'0123456789〇"
    text = "".join(c if c in kept or unicodedata.category(c)[0] in "LM" else " " for c in text)
    edge_words = _EDGE_WORDS.get(language, frozenset())
    words = (word if word in edge_words else word.strip("'") for word in text.split())
    return " ".join(re.sub("''+", "'", word) for word in words if word)


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
    return fold_accents(plain) if check_language(language) == "es" else plain


def letters_apart(text: str, language: str) -> str:
    """In languages written without spaces between words, each letter with its marks is a word of its own.

    So word errors are character errors there, as in Whisper's paper (Radford et al. 2022, arXiv 2212.04356,
    appendix C). Text of other languages stays as it is.
    """
    if plain_language(language) not in UNSPACED:
        return text
    apart = (c if unicodedata.category(c)[0] == "M" else f" {c}" for c in text if c not in " '")
    return "".join(apart).strip()


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cf", "Cs", "Co", "Cn")


def _numbers(text: str, language: str) -> str:
    if not re.search(r"\d", text):
        return text
    text = re.sub(r"\d", lambda match: str(int(match[0])), text)
    if language not in SPELLED:
        return _ungroup(text, language)
    ordinals = _ORDINALS.get(language)
    if ordinals:
        text = ordinals.sub(lambda match: _apart(match, _ordinal(match[1], match[2], language)), text)
    return _NUMBER.sub(lambda match: _apart(match, _cardinal(match[0], language)), _ungroup(text, language))


def _apart(match: re.Match[str], words: str) -> str:
    """The words set apart from what stands around the number, but for an apostrophe before it (``l'8``)."""
    return f"{words} " if match.string[: match.start()].endswith("'") else f" {words} "


def _ungroup(text: str, language: str) -> str:
    separator, least = _GROUPED.get(language, (r"\.", 3))
    groups = rf"(?<![\d.,])\d{{1,3}}(?:{separator}\d{{{least},3}})*{separator}\d{{3}}(?![\d])"
    return re.sub(groups, lambda match: re.sub(r"\D", "", match[0]), text)


def _cardinal(number: str, language: str) -> str:
    parts = re.split("[.,]", number)
    if len(parts) == 2 and len(parts[0]) <= 6 and len(parts[1]) <= SPELLED[language] and not _by_digit(parts[0]):
        return _say(float(f"{parts[0]}.{parts[1]}"), language)
    words = []
    for part in parts:
        for piece in part if _by_digit(part) else [part]:
            words.append(_say(int(piece), language))
    return " ".join(words)


def _by_digit(digits: str) -> bool:
    return len(digits) > 12 or (len(digits) > 1 and int(digits[0]) == 0)


def _ordinal(digits: str, ending: str, language: str) -> str:
    word = _say(int(digits), language, to="ordinal")
    if ending == "ª" and language == "pt":
        return re.sub(r"o\b", "a", word)  # every part of it: vigésima segunda
    if ending == "ª" and word.endswith("o"):
        return word[:-1] + "a"
    if language == "fr" and int(digits) == 1 and ending.lower().startswith("re"):
        return "première"
    return word


def _say(number: float, language: str, to: str = "cardinal") -> str:
    from num2words import num2words

    words = str(num2words(number, lang=_CONVERTERS.get(language, language), to=to))
    return re.sub(*_REPAIRS[language], words) if language in _REPAIRS else words
