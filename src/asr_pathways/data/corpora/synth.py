"""Synthetic speech: lines of text said by eSpeak NG in many voices, at many rates and pitches.

For machines without recordings, and for text that no recording has. Dev and test hold texts and voices that are
not in train. The same texts and seed give the same speech: each language is made by a process of its own, since
what eSpeak NG says depends on what it said before.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.corpus import CorpusBuilder, build_corpus, cut_row
from asr_pathways.data.languages import check_language
from asr_pathways.data.normalize import normalize
from asr_pathways.data.progress import track
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError

HELD_OUT = 0.02  # share of the texts in dev, and in test, unless asked for otherwise
MIN_SECONDS, MAX_SECONDS = 0.2, 20.0

ACCENTS = {
    "en": ("en-us", "en-us", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029"),
    "es": ("es-419", "es-419", "es"),
    "fr": ("fr", "fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "ru": ("ru",),
    "cs": ("cs",),
    "nl": ("nl",),
    "pt": ("pt-br", "pt"),
    "no": ("nb",),
    "nn": ("nb",),
    "zh": ("cmn",),
}
"""eSpeak NG's voices of a language, the more frequent more often; of any other, the one named as its code is."""
# Variants that sound like people: no robots, whispers or creatures.
VOICES: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("f1", "f2", "f3", "f4", "m1", "m2", "m3", "m4", "m5", "m7", "klatt", "klatt2", "klatt3"),
        *("Alex", "Alicia", "Andy", "Annie", "Gene", "Henrique", "Jacky", "Lee", "Marco", "Mario", "Michael"),
        *("Mike", "Reed", "adam", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "edward"),
        *("grandma", "grandpa", "gustave", "ian", "iven", "john", "linda", "marcelo", "michel", "miguel"),
        *("norbert", "pablo", "quincy", "rob", "robert", "sandro", "shelby", "travis", "victor", "zac"),
    ),
    "dev": ("f5", "m6", "Denis", "Andrea", "pedro"),
    "test": ("anika", "m8", "Hugo", "steph", "paul"),
}


@dataclass(frozen=True)
class SynthLine:
    """One line to say, and how."""

    index: int
    split: str
    text: str
    voice: str
    rate: int  # words a minute
    pitch: int  # 0 to 100
    range: int  # 0 to 100
    gain: float  # factor on the samples


def prepare_synth(
    out: Path,
    texts: Mapping[str, Sequence[str]],
    seed: int = 0,
    hours: float | None = None,
    held_out: float = HELD_OUT,
) -> dict[str, int]:
    """Makes a data folder of synthetic speech.

    Args:
        out: the data folder to make.
        texts: for each language, lines to say; they are normalised here. Several codes of one language are one.
        seed: chooses voices, rates and pitches.
        hours: how much speech to make per language: lines are said again, in other voices, or left unsaid, until
            it is reached; None says each line once.
        held_out: share of the texts that only dev says, and of those that only test says.

    Returns:
        How many lines each language left out because nothing, or too much, came out.

    Raises:
        PathwaysError: if a language is unknown or has no text, or eSpeak NG is not installed, or
            does not speak it.
    """
    lines: dict[str, list[str]] = {}
    for code, raw in texts.items():
        language = check_language(code)
        said = (text for line in raw if (text := normalize(line, language)))
        lines[language] = list(dict.fromkeys([*lines.get(language, ()), *said]))
        if not lines[language]:
            raise PathwaysError(f"synth: no text in {language!r}")
    sources = [
        {
            "name": f"espeak-ng-{language}",
            "licence": "speech made from texts by eSpeak NG (a GPL-3 program)",
            "attribution": f"synthetic speech ({language}) by eSpeak NG",
        }
        for language in lines
    ]
    with build_corpus(out, sources) as corpus:
        return {language: _say_all(corpus, language, lines[language], seed, hours, held_out) for language in lines}


def utterances(
    lines: Sequence[str], language: str, seed: int, rounds: int | None = 1, held_out: float = HELD_OUT
) -> Iterator[SynthLine]:
    """How each line is said; endless without ``rounds``."""
    index = 0
    turn = 0
    while rounds is None or turn < rounds:
        order = list(lines)
        random.Random(f"{seed} {language} {turn}").shuffle(order)
        for text in order:
            rng = random.Random(f"{seed} {language} {turn} {text}")
            split = split_of(f"{language} {text}", held_out)
            yield SynthLine(
                index=index,
                split=split,
                text=text,
                voice=f"{rng.choice(ACCENTS.get(language, (language,)))}+{rng.choice(VOICES[split])}",
                rate=rng.randint(130, 210),
                pitch=rng.randint(30, 70),
                range=rng.randint(30, 80),
                gain=10 ** (rng.uniform(-15, 0) / 20),
            )
            index += 1
        turn += 1


def _say_all(
    corpus: CorpusBuilder, language: str, lines: Sequence[str], seed: int, hours: float | None, held_out: float
) -> int:
    """Adds what eSpeak NG makes of the lines; returns how many are left out."""

    def size(row: Mapping[str, Any]) -> float:
        return 1 if hours is None else row["samples"] / SAMPLE_RATE

    task = {"language": language, "lines": lines, "seed": seed, "hours": hours, "held_out": held_out}
    total = len(lines) if hours is None else hours * 3600
    left_out = 0
    with (
        closing(_spoken({**task, "folder": str(corpus.folder)})) as rows,
        closing(track(rows, f"synth {language}", total, size)) as tracked,
    ):
        for row in tracked:
            if row["samples"]:
                utterance = cut_row(row["id"], row["audio"], row["samples"], language, row["text"], row["voice"])
                corpus.add_row(row["split"], utterance)
            else:
                left_out += 1
    return left_out


def _spoken(task: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
    """One row for each line that a process of its own has said, or could not say; it ends with the iteration."""
    command = [sys.executable, "-m", "asr_pathways.data.corpora.synth_worker"]
    with tempfile.TemporaryFile("w+") as complaints, tempfile.TemporaryFile("w+") as stdin:
        json.dump(task, stdin)
        stdin.seek(0)
        with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=complaints, text=True) as worker:
            assert worker.stdout is not None
            try:
                yield from map(json.loads, worker.stdout)
            except BaseException:
                worker.kill()
                raise
        if worker.returncode != 0:
            complaints.seek(0)
            said = [line for line in complaints.read().splitlines() if line.strip()]
            problem = said[-1] if said else f"stopped with {worker.returncode}"
            name = f"synth {task['language']}: "
            raise PathwaysError(name + problem.removeprefix(name))
