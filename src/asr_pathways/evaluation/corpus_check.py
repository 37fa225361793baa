"""What a user is to know of a data folder before training on it: parts that are missing, too small, or not apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from asr_pathways.data.corpus import SPLITS, spoken_rows
from asr_pathways.evaluation.significance import detectable
from asr_pathways.formats import points

DEVIATION = 0.5
"""Standard deviation of the difference of two systems in errors a word, as the recipes of experiments count on."""

TELLING = 0.05
"""A test split that shows no smaller difference in WER than this is called small."""

WINDOW = 30.0
"""Seconds of Whisper's window."""

_WITHOUT = {
    "train": "there is nothing to train on",
    "dev": "models are chosen by the other languages, or not at all",
    "test": "nothing can be scored",
}


def smallest_difference(words: int) -> str:
    """``5.1 points``: the difference of two systems' WER that so many words show with 80% power, about."""
    return f"{points(detectable(words, DEVIATION))[1:]} points"


def concerns(data: Path) -> list[str]:
    """Lines on what is missing in a data folder, or makes its scores say less; empty if there is nothing.

    Raises:
        PathwaysError: if the folder is broken.
    """
    words: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    texts: dict[str, dict[str, set[int]]] = defaultdict(lambda: {split: set() for split in SPLITS})
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS}
    long: Counter[str] = Counter()
    for split in SPLITS:
        for language, text, speaker, seconds in spoken_rows(data, split):
            long[language] += split == "train" and seconds > WINDOW
            words[language][split] += len(text.split())
            texts[language][split].add(hash(text))
            if speaker:
                speakers[split].add(speaker)
    lines = []
    for split, without in _WITHOUT.items():
        if missing := [language for language, counts in sorted(words.items()) if not counts[split]]:
            lines.append(f"{', '.join(missing)}: no {split} utterances: {without}; add 'split' to rows of the manifest")
    for language, counts in sorted(words.items()):
        if long[language]:
            lines.append(
                f"{language}: {long[language]:,} utterances of train are longer than {WINDOW:g} s: Whisper is trained "
                "without them"
            )
        if counts["test"] and detectable(counts["test"], DEVIATION) > TELLING:
            shown = smallest_difference(counts["test"])
            lines.append(
                f"{language}: {counts['test']:,} words in test: differences below {shown} of WER are not shown"
            )
        repeated = texts[language]["test"] & texts[language]["train"]
        if repeated:
            of = len(texts[language]["test"])
            lines.append(f"{language}: {len(repeated):,} of {of:,} texts of test are in train too: WER will flatter")
    if shared := speakers["test"] & speakers["train"]:
        count, of = len(shared), len(speakers["test"])
        lines.append(f"{count:,} of {of:,} speakers of test are in train too: WER of other voices will be higher")
    return lines
