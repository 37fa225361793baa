"""Acted speech of several characters: the dialogues of the game Fish Fillets NG, Czech and Dutch.

Debian's ``fillets-ng-data`` holds the texts in many languages, ``fillets-ng-data-cs`` and ``-nl`` the sound. All
of a level goes into one split, so that no scene is in two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_pathways.data.audio import SAMPLE_RATE, read_audio
from asr_pathways.data.corpora.debian import unpacked
from asr_pathways.data.corpora.prompts import MAX_SECONDS
from asr_pathways.data.corpus import About, build_corpus, why_unfit
from asr_pathways.data.normalize import normalize
from asr_pathways.data.progress import track
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError

LANGUAGES = ("cs", "nl")
PACKAGE = "fillets-ng-data"

_ROOT = "usr/share/games/fillets-ng"
_STRING = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}\s*,\s*{_STRING}\s*\)(?:\s*dialogStr\(\s*{_STRING}\s*\))?", re.DOTALL
)


@dataclass(frozen=True)
class DialogueLine:
    """One line of a scene: its level, its id in the level, and its text."""

    level: str
    identifier: str
    text: str


def prepare_dialogues(out: Path, source: Path | None, languages: Sequence[str]) -> dict[str, Counter[str]]:
    """Makes a data folder from the game's dialogues.

    Args:
        out: the data folder to make.
        source: a tree of the unpacked packages, or a folder of their ``.deb`` files; None fetches them.
        languages: which of :data:`LANGUAGES`.

    Returns:
        For each language, how many lines were left out and why.

    Raises:
        PathwaysError: if a language is unknown, packages cannot be fetched, or a language has no lines.
    """
    for language in languages:
        if language not in LANGUAGES:
            raise PathwaysError(f"no dialogues in {language!r}: choose among {', '.join(LANGUAGES)}")
    packages = [PACKAGE, *(f"{PACKAGE}-{language}" for language in languages)]
    dropped: dict[str, Counter[str]] = {}
    with unpacked(packages, source) as root, build_corpus(out, [_about(x) for x in languages]) as corpus:
        for language in languages:
            dropped[language] = reasons = Counter[str]()
            sounds = {
                (path.relative_to(root / _ROOT / "sound").parts[0], path.stem): path
                for path in sorted((root / _ROOT / "sound").glob(f"**/{language}/*.ogg"))
            }
            kept = set()
            for line in track(list(read_dialogues(root, language)), f"dialogues {language}"):
                text = normalize(line.text, language)
                sound = sounds.get((line.level, line.identifier))
                if not text or sound is None or sound in kept:
                    reason = "no words" if not text else "no sound file" if sound is None else "a second text"
                    reasons[reason] += 1
                    continue
                try:
                    samples = read_audio(sound)
                except PathwaysError:
                    reasons["no audio in its file"] += 1  # one file of the Dutch package is empty
                    continue
                if unfit := why_unfit(text, len(samples) / SAMPLE_RATE, MAX_SECONDS):
                    reasons[unfit] += 1
                    continue
                kept.add(sound)
                corpus.add(split_of(line.level), f"{language}-{line.level}-{line.identifier}", language, text, samples)
            if not kept:
                raise PathwaysError(f"{root}: no {language!r} dialogues with text and sound in {_ROOT}")
    return dropped


def read_dialogues(root: Path, language: str) -> Iterator[DialogueLine]:
    """The lines of all levels in ``language``, as the game's scripts have them, sorted by file.

    Raises:
        PathwaysError: if there are no scripts in that language.
    """
    paths = sorted((root / _ROOT / "script").glob(f"*/*dialogs_{language}.lua"))
    if not paths:
        raise PathwaysError(
            f"{root}: no dialogues in {language!r} in {_ROOT}/script: unpack {PACKAGE} there with `dpkg-deb -x`"
        )
    for path in paths:
        for match in _LINE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            identifier, _, english, translated = match.groups()
            text = translated if translated is not None else english if language == "en" else ""
            if text:
                plain = re.sub(r"\\(.)", lambda match: " " if match[1] in "nt" else match[1], text)
                yield DialogueLine(path.parent.name, identifier, plain)


def _about(language: str) -> About:
    return {
        "name": f"{PACKAGE}-{language}",
        "licence": "GPL-2",
        "attribution": f"Fish Fillets NG, dialogues in {language}: ALTAR interactive, Ivo Danihelka and others; "
        f"Debian packages {PACKAGE} and {PACKAGE}-{language}",
    }
