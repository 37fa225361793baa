"""Figures and signs as they are read: grouped numbers, decimals, ordinals, percentages, amounts of money, degrees.

How a language groups digits, names units and currencies and says "and" is CLDR's (by Babel); how it says a number is
num2words'. A sign that neither can say in a language stays, as a word of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babel import Locale

_SPELLED = "be cs de en eo es fi fr he id is it kk lt lv nl pl pt ro ru sk sl sv th uk"
SPELLED: Mapping[str, int] = {**dict.fromkeys(_SPELLED.split(), 4), "hu": 3, "ca": 0, "fa": 0}
"""The languages whose numbers are spelled out, and with how many decimals at most they are said as one number.

num2words 0.5.14 has converters for more. Left out are those that do not end (am), say two numbers alike (az, cy, tet,
tr), stop at 10 digits (kn, te), say or write numbers as nobody does (ar, da, no, vi, and sr in Latin letters), could
not be compared with CLDR's spelled numbers (bn, ce, tg), or whose language writes digits (ja, ko).
"""

SIGNS = frozenset("%‰$€£¥₽₹₩₴₪₺฿₫₦₱₲₵₸₾&@°§№+<=>±×÷≤≥≠≈√∞−½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒²³")
"""Signs that are read, and so are never dropped."""

_FIGURES = r"\d+(?:[.,]\d+)*"
_ORDINALS = {
    "en": re.compile(r"(\d{1,12})(st|nd|rd|th)\b", re.IGNORECASE),
    "es": re.compile(r"(\d{1,12})\.?([ºª])"),
    "fr": re.compile(r"(\d{1,12})(ers?|res?|èmes?|emes?|es?)\b", re.IGNORECASE),
    "it": re.compile(r"(\d{1,12})\.?([ºª°])(?![CF]\b)"),
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
_CURRENCIES = {
    **{"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₽": "RUB", "₹": "INR", "₩": "KRW", "₴": "UAH", "₪": "ILS"},
    **{"₺": "TRY", "฿": "THB", "R$": "BRL", "US$": "USD", "A$": "AUD", "C$": "CAD", "HK$": "HKD", "NZ$": "NZD"},
}
"""Signs and codes (ISO 4217); one with letters is a word by itself: not the end of ``AUR$``."""

_CURRENCY = rf"(?:(?<![^\W\d_])(?:{'|'.join(re.escape(sign) for sign in _CURRENCIES if len(sign) > 1)})|[$€£¥₽₹₩₴₪₺฿])"
_UNITS = {
    "%": "percent",
    "‰": "permille",
    "°": "angle-degree",
    "°C": "temperature-celsius",
    "°F": "temperature-fahrenheit",
}
_FOREIGN_NAMES = frozenset({"hu"})
"""Languages in which num2words names currencies in English."""

_NO_BREAK = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}\N{FIGURE SPACE}"
_MINUS = re.compile(rf"(?<![\w.,:'−-])[-−](?={_CURRENCY}?\d)")
_MEASURE = re.compile(rf"({_FIGURES})[ {_NO_BREAK}]?(%|‰|°[ {_NO_BREAK}]?[CF]\b|°)")
_LAKHS = frozenset(["as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "or", "pa", "sa", "ta", "te", "ur"])
"""Languages in which groups of digits, but for the last, may have two (1,00,000)."""


def spell(text: str, language: str) -> str:
    """``text`` (NFC) with figures as words, in the languages of :data:`SPELLED`; elsewhere digits, in one group.

    Args:
        text: of one utterance.
        language: an ISO 639 code.
    """
    text = _and(text, language)
    if not re.search(r"\d", text):
        return text
    text = _ungroup(re.sub(r"\d", lambda match: str(int(match[0])), text), language)
    if language not in SPELLED:
        return _MINUS.sub("−", text)
    ordinals = _ORDINALS.get(language)
    if ordinals:
        text = ordinals.sub(lambda match: _apart(match, _ordinal(match[1], match[2], language)), text)
    text = _MINUS.sub(lambda match: _apart(match, _minus(language)), text)
    if re.search(_CURRENCY, text):
        text = _amounts(language).sub(lambda match: _apart(match, _amount(match, language)), text)
    text = _MEASURE.sub(lambda match: _apart(match, _measure(match, language)), text)
    return re.sub(_FIGURES, lambda match: _apart(match, _cardinal(match[0], language)), text)


@cache
def _locale(language: str) -> Locale | None:
    from babel import Locale, UnknownLocaleError

    try:
        return Locale.parse({"no": "nb"}.get(language, language))
    except (UnknownLocaleError, ValueError):
        return None


def _and(text: str, language: str) -> str:
    """``&`` as the word between the last two items of a list."""
    if "&" not in text or (locale := _locale(language)) is None:
        return text
    word = re.fullmatch(r"\{0\} (\w+) \{1\}", locale.list_patterns["standard"]["2"])
    return text.replace("&", f" {word[1]} ") if word else text


def _apart(match: re.Match[str], words: str) -> str:
    """The words set apart from what stands around the number, but for an apostrophe before it (``l'8``)."""
    return f"{words} " if match.string[: match.start()].endswith("'") else f" {words} "


@cache
def _groups(language: str) -> re.Pattern[str]:
    """A number whose digits are in groups of three: with CLDR's sign between them, or with spaces.

    A space that does not break a line is one between groups in any language. A plain one is, where CLDR has spaces, or
    where a group begins with a zero; not where more figures stand around, as in a telephone number. Where digits stay,
    plain spaces stay, too: a decimal comma is one afterwards.
    """
    locale = _locale(language)
    symbols = {} if locale is None else locale.number_symbols.get("latn", {})
    marks = [r"\." if symbols.get("decimal", ",") == "," else "," if language == "en" else "[,٬]"]
    if language in ("de", "fr", "it"):
        marks.append("'")  # as the Swiss write
    least = 2 if language in _LAKHS else 3
    kinds = [rf"\d{{1,3}}(?:{mark}\d{{{least},3}})*{mark}\d{{3}}" for mark in marks]
    plain = language in SPELLED and str(symbols.get("group", ".")) in _NO_BREAK
    spaces = _NO_BREAK + (" " if plain else "")
    kinds += [rf"(?<!\d{space})[1-9]\d{{0,2}}(?:{space}\d{{3}})+(?!{space}\d)" for space in spaces]
    if language in SPELLED:
        kinds.append(r"[1-9]\d{0,2}(?: \d{3})* 0\d{2}(?: \d{3})*")
    return re.compile(rf"(?<![\d.,])(?:{'|'.join(kinds)})(?!\d)")


def _ungroup(text: str, language: str) -> str:
    if not re.search(rf"\d[.,٬' {_NO_BREAK}]\d", text):  # nearly always: spares the language's data
        return text
    return _groups(language).sub(lambda match: re.sub(r"\D", "", match[0]), text)


def _minus(language: str) -> str:
    """What is said before a number below zero."""
    from num2words import CONVERTER_CLASSES

    word = getattr(CONVERTER_CLASSES[_CONVERTERS.get(language, language)], "negword", "")  # some say it otherwise
    return str(word or _say(-1, language).removesuffix(_say(1, language))).strip() or "−"


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


def _measure(match: re.Match[str], language: str) -> str:
    """``50 %`` as "fifty percent", by CLDR's pattern of the unit for that number."""
    from babel.numbers import format_decimal
    from babel.units import format_unit

    locale, number, sign = _locale(language), match[1], re.sub(r"\s", "", match[2])
    value = _value(number)
    around = format_unit(value, _UNITS[sign], "long", locale=locale).split(format_decimal(value, locale=locale))
    said = _cardinal(number, language)
    return said.join(around) if len(around) == 2 else f"{said} {sign}"


@cache
def _amounts(language: str) -> re.Pattern[str]:
    """A sign of a currency before or after figures, which may be followed by a word such as "million"."""
    locale = _locale(language)
    patterns = locale.compact_decimal_formats["long"].values() if locale is not None else ()
    words = {word for forms in patterns for p in forms.values() for word in re.findall(r"[^\W\d_]{2,}", str(p.pattern))}
    scale = "|".join(sorted(map(re.escape, words), key=len, reverse=True)) or "(?!)"
    space, sign = f"[ {_NO_BREAK}]?", _CURRENCY
    return re.compile(
        rf"(?P<before>{sign}){space}(?P<first>{_FIGURES})(?:\s(?P<scale>{scale})\b)?"
        rf"|(?P<second>{_FIGURES})(?:\s(?P<scaled>{scale}))?{space}(?P<after>{sign})",
        re.IGNORECASE,
    )


def _amount(match: re.Match[str], language: str) -> str:
    sign, number = match["before"] or match["after"], match["first"] or match["second"]
    scale = match["scale"] or match["scaled"]
    code = _CURRENCIES[sign.upper()]
    exact = re.fullmatch(r"(\d{1,12})(?:[.,](\d\d))?", number)
    if exact and not scale and not _by_digit(exact[1]):
        whole, rest = _coins(f"{exact[1]}.{exact[2] or '00'}", code, language)
        if whole:
            return f"{whole} {rest}" if int(exact[2] or 0) else whole
    five, _ = _coins("5.00", code, language)
    name = five.removeprefix(_say(5, language)).strip() or _currency_name(code, number, language)
    return " ".join(filter(None, (_cardinal(number, language), scale, name)))


def _coins(value: str, code: str, language: str) -> tuple[str, str]:
    """An amount in whole units and in hundredths, as num2words says it; two empty texts where it cannot."""
    from num2words import num2words

    if language in _FOREIGN_NAMES:
        return "", ""
    if language == "pt":  # whose converter says Brazil's currency, and as if in that all others
        return (str(num2words(Decimal(value), lang="pt_BR", to="currency")) if code == "BRL" else ""), ""
    try:
        words = num2words(
            Decimal(value), lang=_CONVERTERS.get(language, language), to="currency", currency=code, separator="|"
        )
    except (NotImplementedError, TypeError, IndexError):  # what its converters without that currency raise
        return "", ""
    whole, _, rest = str(words).partition("|")
    if language == "en":
        whole = whole.replace(" sterling", "")
        whole = whole if value.startswith("1.") else re.sub("euro$", "euros", whole)
    return whole.strip(), rest.strip()


def _currency_name(code: str, number: str, language: str) -> str:
    from babel.numbers import get_currency_name

    return str(get_currency_name(code, count=_value(number), locale=_locale(language)))


def _value(number: str) -> Decimal:
    """What decides the plural: of more figures than one number has, just many."""
    parts = re.split("[.,]", number)
    return Decimal(".".join(parts)) if len(parts) <= 2 and len(parts[0]) <= 12 else Decimal(5)


def _say(number: float, language: str, to: str = "cardinal") -> str:
    from num2words import num2words

    words = str(num2words(number, lang=_CONVERTERS.get(language, language), to=to))
    return re.sub(*_REPAIRS[language], words) if language in _REPAIRS else words
