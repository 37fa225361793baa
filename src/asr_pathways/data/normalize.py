"""Text normalisation, per language, the same for training targets, references and hypotheses.

The rules, in order:

1. Cues in brackets, ``[..] (..) {..}``, are dropped with what they hold, and so are tags (``<hum>``, ``</i>``,
   ``<|fr|>``, but not ``2 < 3``); invisible characters too, such as the one that makes a sign an emoji, but for joiners
   in the languages that spell with them.
2. One letter is one code point: NFC; NFKC for full-width and half-width forms, ligatures (``ﬁ``, ``ĳ``), Roman
   numerals, and Arabic and Hebrew presentation forms (not for letters that NFKC takes apart or makes another word of:
   Thai am, jamo, superscripts); all apostrophes, Uzbek and Hawaiian letters and the Hebrew geresh among them, become
   ``'``; Arabic tatweel goes; the letters of :data:`_SAME` are those of the language.
3. Numbers, and the signs that are read with them, as `numerals.spell` says.
4. Lower case; in Russian ``ё`` becomes ``е``, since Russian print uses them interchangeably; in Turkish and Azerbaijani
   ``I`` becomes ``ı``, and ``İ`` becomes ``i``.
5. Everything but letters, combining marks, apostrophes, the digits that rule 3 leaves and the signs of
   `numerals.SIGNS` becomes a space; so do hyphens. A sign is a word of its own.
6. A dot stays between two l of a Catalan word (``col·legi``). An apostrophe stays inside a word (``don't``,
   ``l'eau``). At a word's edge it stays only in the words that the language writes so (English ``'em``, Italian
   ``po'``, Dutch ``'s``) and, before a word, in the languages in which it is a letter (Hawaiian); elsewhere it was a
   quotation mark.
7. Runs of spaces collapse; what has no letter, digit or sign in it is no word.
"""

from __future__ import annotations

import re
import unicodedata

from asr_pathways.data.languages import check_language, plain_language
from asr_pathways.data.numerals import SIGNS, SPELLED, spell

_BRACKETS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<[/|]?[^\W\d][^<>]*(?<!\s)>|\{[^{}]*\}")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ′＇`´ʻʽʾʿˈꞌ׳", "'"))
_COMPATIBLE = re.compile(
    "[\N{LATIN CAPITAL LIGATURE IJ}\N{LATIN SMALL LIGATURE IJ}\N{LATIN SMALL LETTER LONG S}Ǆ-ǌǱ-ǳ\N{MICRO SIGN}"
    "\u2160-\u217f\u2f00-\u2fd5\ufb00-\ufb06\ufb13-\ufb17\ufb1d-\ufb4f\ufb50-\ufdfc\ufe70-\ufefc\uff01-\uffdc]+"
)
_TATWEEL = "\N{ARABIC TATWEEL}"
_PERSIAN = {"ي": "ی", "ى": "ی", "ك": "ک"}
_CHILLU = {  # Malayalam: a consonant, virama and joiner, as Unicode wrote it before 5.1
    "ണ്\u200d": "ൺ",
    "ന്\u200d": "ൻ",
    "ര്\u200d": "ർ",
    "ല്\u200d": "ൽ",
    "ള്\u200d": "ൾ",
    "ക്\u200d": "ൿ",
}
_SAME = {
    "ro": {"ş": "ș", "ţ": "ț", "Ş": "Ș", "Ţ": "Ț"},
    "fa": _PERSIAN,
    "ur": {**_PERSIAN, "ه": "ہ"},
    "ckb": _PERSIAN,
    "ar": {"ی": "ي", "ک": "ك"},
    "az": {"ǝ": "ə", "Ǝ": "Ə"},
    "ca": {"ŀ": "l·", "Ŀ": "L·"},
    "ml": _CHILLU,
}
"""Letters that a language writes by one code point, and fonts draw alike by another."""

_JOINED = "as bn ckb fa gu hi kn ku ml mr ne or pa ps sd si ta te ug ur"
"""Languages that spell with ZERO WIDTH JOINER and NON-JOINER; scoring folds them."""

_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that are not seen: fillers, and selectors of one of a character's glyphs."""

_JOINERS = "\u200c\u200d"
_SILENT = "'" + _JOINERS
_NO_JOINERS = dict.fromkeys(map(ord, _JOINERS))
_SPANISH = str.maketrans("áéíóúü", "aeiouu")
_LETTER_BEFORE = frozenset({"haw", "sm", "to", "ty"})
"""Languages in which an apostrophe may begin a word: it is a consonant."""

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
    if language == "he":
        text = re.sub(r"(?<=\w)[״\"”](?=\w)", "", text)  # an acronym's sign, within its word
    joiners = _JOINERS if language in _JOINED.split() else ""
    text = spell(_spoken(text, language, joiners), language)
    if language in ("az", "tr"):
        text = text.replace("I", "ı").replace("İ", "i")
    text = unicodedata.normalize("NFC", text.lower())
    if language == "ru":
        text = text.replace("ё", "е")
    if language == "ca":
        text = re.sub("(?<!l)·|·(?!l)", " ", re.sub("(?<=l)[•‧∙⋅](?=l)", "·", text))
    kept = ("'·" if language == "ca" else "'" if language in SPELLED else "'0123456789〇") + joiners
    text = "".join(
        f" {c} " if c in SIGNS else c if c in kept or unicodedata.category(c)[0] in "LM" else " " for c in text
    )
    edge_words = _EDGE_WORDS.get(language, frozenset())
    words = (word if word in edge_words else _trimmed(word, language) for word in text.split())
    return " ".join(re.sub("''+", "'", word) for word in words if _sounds(word))


def written_text(text: str, language: str) -> str | None:
    """``text`` with its case, punctuation and digits, by rules 1 and 2 of this module, as models of free text write.

    Returns:
        None if it is nothing, no more than `normalize` leaves, or has capitals alone, which say nothing of case.

    Raises:
        PathwaysError: if ``language`` is no code of a language.
    """
    language = check_language(language)
    written = " ".join(_spoken(text, language, _JOINERS if language in _JOINED.split() else "").split())
    return None if written.isupper() or written == normalize(text, language) else written


def _spoken(text: str, language: str, joiners: str) -> str:
    """What is spoken of a text, and one code point a letter: rules 1 and 2."""
    for written, letter in _SAME.get(language, {}).items():
        text = text.replace(written, letter)
    text = _INVISIBLE.sub("", text)
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if c in joiners or _visible(c))
    while (shorter := _BRACKETS.sub(" ", text)) != text:
        text = shorter
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text).translate(_APOSTROPHES)
    return unicodedata.normalize("NFC", text).replace(_TATWEEL, "")


def _trimmed(word: str, language: str) -> str:
    """A word without apostrophes at its edges, but for those that are letters."""
    if language == "uz":
        return word.lstrip("'") if re.search("[og]'$", word) else word.strip("'")
    return word.rstrip("'") if language in _LETTER_BEFORE else word.strip("'")


def fold_accents(text: str) -> str:
    """``text`` without its combining marks (``número`` becomes ``numero``), for comparing spellings."""
    return unicodedata.normalize(
        "NFC", "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    )


def scoring_text(text: str, language: str) -> str:
    """What is compared when free text (cased, punctuated) is scored: :func:`normalize`, and in Spanish no accents.

    The Spanish references of the prompts lack accents here and there; both sides lose them. ñ is a letter and stays.
    """
    plain = normalize(text, language)
    return plain.translate(_SPANISH) if check_language(language) == "es" else plain


def letters_apart(text: str, language: str) -> str:
    """In languages written without spaces between words, each letter with its marks is a word of its own.

    So word errors are character errors there, as in Whisper's paper (Radford et al. 2022, arXiv 2212.04356,
    appendix C). Text of other languages stays as it is, but for joiners, which are spelling and not sound.
    """
    text = text.translate(_NO_JOINERS)
    if plain_language(language) not in UNSPACED:
        return text
    apart = (c if unicodedata.category(c)[0] == "M" else f" {c}" for c in text if c not in " '")
    return "".join(apart).strip()


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cf", "Cs", "Co", "Cn", "Me")


def _sounds(word: str) -> bool:
    """Whether there is more in a word than marks, joiners and apostrophes."""
    return any(c not in _SILENT and unicodedata.category(c)[0] != "M" for c in word)
