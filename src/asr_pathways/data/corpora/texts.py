"""Lines of text for synthetic speech, from Debian packages, with everyday and technical words.

Sources: the game dialogues (:mod:`asr_pathways.data.corpora.dialogues`, training levels only), the ``fortunes``
packages (quotations and proverbs), the LibreOffice help (instructions), and lines made by rule: numbers, spelled
letters, and frequent words by themselves. A line is one utterance: 2 to 14 words of the language's alphabet.
"""

from __future__ import annotations

import hashlib
import html
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from asr_pathways.data.corpora.debian import unpacked
from asr_pathways.data.corpora.dialogues import PACKAGE as DIALOGUES
from asr_pathways.data.corpora.dialogues import read_dialogues
from asr_pathways.data.corpus import SPLITS, spoken_rows
from asr_pathways.data.languages import check_language, is_language
from asr_pathways.data.normalize import normalize
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_text, write_text

MIN_WORDS, MAX_WORDS = 2, 14
FREQUENT_WORDS = 600  # lines of one frequent word
NUMBER_LINES = 600
LETTER_LINES = 120
FORTUNE_SHARE = 0.6  # of the limit: quotations leave room for instructions

_LATIN = "abcdefghijklmnopqrstuvwxyz'"
ALPHABETS = {
    "en": _LATIN,
    "es": _LATIN + "áéíóúüñ",
    "fr": _LATIN + "àâæçéèêëîïôœùûüÿ",
    "it": _LATIN + "àèéìíîòóùú",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "cs": _LATIN + "áčďéěíňóřšťúůýž",
    "nl": _LATIN + "áéëèïíóöüú",
}
_FORTUNES = {"en": "fortunes", "es": "fortunes-es", "it": "fortunes-it", "ru": "fortunes-ru", "cs": "fortunes-cs"}
_HELP = {
    language: f"libreoffice-help-{'en-us' if language == 'en' else language}"
    for language in ("en", "es", "fr", "it", "ru", "cs", "nl")
}
_GRAVE = dict(zip("aeiouAEIOU", "àèìòùÀÈÌÒÙ", strict=True))
_ELIDED = frozenset({"po", "mo", "di", "fa", "va", "da", "sta", "be", "to", "ve", "ca", "de", "ne", "co", "a", "su"})


def write_texts(
    out: Path, languages: Sequence[str], source: Path | None = None, exclude: Collection[str] = (), limit: int = 12_000
) -> dict[str, int]:
    """Writes ``out/<language>.txt``: normalised, distinct lines in a fixed shuffled order.

    Args:
        out: a folder.
        languages: which languages.
        source: a tree of the unpacked packages, or a folder of ``.deb`` files; None fetches what is needed.
        exclude: normalised texts to leave out, such as those of dev and test splits.
        limit: at most so many lines of sentences per language; lines made by rule come on top.

    Returns:
        How many lines each language got.

    Raises:
        PathwaysError: if no packages are known for a language, or they cannot be fetched or have no text.
    """
    for language in languages:
        if language not in ALPHABETS:
            raise PathwaysError(f"no Debian texts in {language!r}: choose among {', '.join(ALPHABETS)}")
    packages = [table[language] for language in languages for table in (_FORTUNES, _HELP) if language in table]
    counts = {}
    with unpacked(list(dict.fromkeys([DIALOGUES, *packages])), source) as root:
        for language in languages:
            lines = [line for line in texts(root, language, limit) if line not in exclude]
            write_text(out / f"{language}.txt", "".join(f"{line}\n" for line in lines))
            counts[language] = len(lines)
    return counts


def read_texts(folder: Path, languages: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The lines of ``folder/<language>.txt``, normalised, empty ones left out.

    Args:
        folder: a folder of text files, one utterance a line.
        languages: which languages; None: of every file that is named after a language.

    Raises:
        PathwaysError: if a language is unknown, or a file is missing, is not UTF-8, or has no text.
    """
    if languages is None:
        languages = sorted(path.stem for path in folder.glob("*.txt") if path.is_file() and is_language(path.stem))
    if not languages:
        raise PathwaysError(f"{folder}: no text files named after a language, such as en.txt")
    lines = {}
    for language in languages:
        check_language(language)
        path = folder / f"{language}.txt"
        lines[language] = [text for line in read_text(path).splitlines() if (text := normalize(line, language))]
        if not lines[language]:
            raise PathwaysError(f"{path}: no text in it")
    return lines


def texts_in(data: Path) -> set[str]:
    """The texts of a data folder, normalised, as `write_texts` leaves them out.

    Raises:
        PathwaysError: if it is not a data folder, or it is broken.
    """
    rows = (row for split in SPLITS for row in spoken_rows(data, split))
    return {normalize(text, language) for language, text, *_ in rows}


def texts(root: Path, language: str, limit: int = 12_000) -> list[str]:
    """Normalised, distinct lines in ``language`` from a tree of unpacked packages; see :func:`write_texts`."""
    parts = [
        (_dialogue_lines(root, language), limit),
        (_fortune_lines(root, language), int(FORTUNE_SHARE * limit)),
        (_help_lines(root, language), limit),
    ]
    chosen: dict[str, None] = {}
    for part, most in parts:
        fresh = sorted((line for line in dict.fromkeys(part) if line not in chosen), key=_shuffled)
        chosen.update(dict.fromkeys(fresh[: min(most, limit - len(chosen))]))
    frequent = Counter(word for line in chosen for word in line.split() if len(word) > 2)
    ranked = sorted(frequent.items(), key=lambda item: (-item[1], item[0]))
    made = [word for word, _ in ranked[:FREQUENT_WORDS]] + _number_lines(language) + _letter_lines(language)
    return sorted(dict.fromkeys([*chosen, *made]), key=_shuffled)


def sentences(text: str, language: str) -> Iterator[str]:
    """Normalised utterances in a running text: sentences, and clauses of those that are too long."""
    alphabet = frozenset(ALPHABETS[language] + " ")
    for sentence in re.split(r"(?<=[^\d\s.][.!?…])[\s\"»”)]+|[;:\n]|\s[-–—]+\s|(?<=\w)[.!?]{2,}", text):
        for piece in sentence.split(",") if len(sentence.split()) > MAX_WORDS else [sentence]:
            line = normalize(piece, language)
            if MIN_WORDS <= len(line.split()) <= MAX_WORDS and alphabet.issuperset(line):
                yield line


def _dialogue_lines(root: Path, language: str) -> Iterator[str]:
    for line in read_dialogues(root, language):
        if split_of(line.level) == "train":
            yield from sentences(line.text, language)


def _fortune_lines(root: Path, language: str) -> Iterator[str]:
    if language not in _FORTUNES:
        return
    folder = root / "usr/share/games/fortunes" / ("" if language == "en" else language)
    for path in sorted(path for path in folder.glob("*") if path.is_file() and not path.is_symlink()):
        if path.suffix in (".dat", ".u8") or (language == "en" and path.name in ("zippy", "perl", "ascii-art")):
            continue
        for cookie in re.split(r"(?m)^%\s*$", path.read_text(encoding="utf-8", errors="replace")):
            kept = [line for line in cookie.splitlines() if not re.match(r"\s*(--|—|\t)", line)]
            text = " ".join(" ".join(kept).split())
            if "\ufffd" in text or re.search(r"[_=<>{}\\|@#$^~*+\[\]]", text):
                continue
            yield from sentences(_italian(text) if language == "it" else text, language)


def _italian(text: str) -> str:
    """With accents in place of final apostrophes (``perche'``), but for elisions (``po'``)."""

    def accent(match: re.Match[str]) -> str:
        stem, vowel = match[1] or "", match[2]
        if (stem + vowel).lower() in _ELIDED:
            return match[0]
        if vowel == "e" and stem.lower().endswith("ch"):
            return f"{stem}é"
        return stem + _GRAVE[vowel]

    return re.sub(r"\b([a-zA-Z]*?)([aeiouAEIOU])'(?=[\s.,;:!?)\"-]|$)", accent, text)


def _help_lines(root: Path, language: str) -> Iterator[str]:
    folder = root / "usr/share/libreoffice/help" / ("en-US" if language == "en" else language) / "text"
    for path in sorted(folder.rglob("*.html")):
        if "sbasic" in path.parts:
            continue
        page = path.read_text(encoding="utf-8", errors="replace")
        page = page[page.find('id="DisplayArea"') :]
        for paragraph in re.findall(r"<p [^>]*>(.*?)</p>", page, re.DOTALL):
            text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", paragraph)).split())
            # Code, key names, menu paths and product names are not spoken.
            if not re.search(r"[^\w\s.,;:!?'’()«»\"“”-]|\d|\w\.\w|[a-z][A-Z]|[A-Z]{3}", text):
                yield from sentences(text, language)


def _number_lines(language: str) -> list[str]:
    """Spoken numbers: 0-100, then random cardinals, digit strings and groups of two digits."""
    rng = random.Random(f"numbers {language}")
    lines = [str(number) for number in range(101)]
    while len(lines) < NUMBER_LINES:
        kind = rng.randrange(3)
        if kind == 0:
            lines.append(str(rng.randrange(101, 10_000)))
        elif kind == 1:
            lines.append(" ".join(str(rng.randrange(10)) for _ in range(rng.randrange(2, 8))))
        else:
            lines.append(" ".join(str(rng.randrange(100)) for _ in range(rng.randrange(2, 5))))
    return [normalize(line, language) for line in lines]


def _letter_lines(language: str) -> list[str]:
    """Spelled letters."""
    rng = random.Random(f"letters {language}")
    letters = ALPHABETS[language].replace("'", "")[:26] if language != "ru" else ALPHABETS["ru"]
    return [" ".join(rng.choices(letters, k=rng.randrange(2, 6))) for _ in range(LETTER_LINES)]


def _shuffled(line: str) -> bytes:
    return hashlib.sha256(line.encode()).digest()
