"""Dense and pruned models side by side: WER, speed and bytes, all as a user runs them on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from asr_pathways.bundle.load import load_model
from asr_pathways.config import Config
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Scores, Utterance, score
from asr_pathways.formats import percent, percent_interval, size
from asr_pathways.model_folder.decode import pair
from asr_pathways.runtime.recognizer import Recognizer

MOST = 200
"""Utterances a language that are scored, at most."""

_SHORT, _AGAIN = 1.0, 4
"""What takes less than so many seconds is timed so often again."""


class System(Config):
    """A row of the comparison.

    Attributes:
        name: of the system.
        scores: as `Scores.to_dict` has them.
        nbytes: of its files.
        seconds: to recognise all utterances, one thread.
        audio: seconds of them.
    """

    name: str
    scores: dict[str, Any]
    nbytes: int
    seconds: float
    audio: float

    @property
    def scored(self) -> Scores:
        return Scores.from_dict(self.scores)


@dataclass(frozen=True)
class TestSet:
    """What models are compared on: at most `MOST` utterances of each language, by id."""

    split: str
    cuts: list[Any]

    @classmethod
    def of(cls, data: Path, languages: Sequence[str]) -> TestSet:
        """The test split; dev where that has nothing in these languages, which is said.

        Raises:
            PathwaysError: if neither has anything.
        """
        for split in ("test", "dev"):
            found: dict[str, list[Any]] = {language: [] for language in languages}
            for cut in sorted(load_cuts(data, split), key=lambda cut: cut.id):
                if len(group := found.get(_language(cut), [])) < MOST:
                    group.append(cut)
            if cuts := [cut for group in found.values() for cut in group]:
                missing = [language for language, group in found.items() if not group]
                if missing:
                    print(f"{data}: no {split} utterances of {', '.join(missing)}: not compared", file=sys.stderr)
                if split == "dev":
                    print(f"{data}: no test utterances: compared on dev, by which models are chosen", file=sys.stderr)
                return cls(split, cuts)
        raise PathwaysError(
            f"{data}: no test utterances of {', '.join(languages)}, and none in dev: nothing to score on"
        )

    def part(self, most: int) -> TestSet:
        """The first ``most`` utterances of each language."""
        taken: dict[str, list[Any]] = {}
        for cut in self.cuts:
            taken.setdefault(_language(cut), []).append(cut)
        return TestSet(self.split, [cut for group in taken.values() for cut in group[:most]])

    def longest(self, language: str) -> Any:
        """The longest utterance in a language; of any, if there is none in that one."""
        cuts = [cut for cut in self.cuts if _language(cut) == language] or self.cuts
        return max(cuts, key=lambda cut: cut.duration)

    def compared(self, name: str, model: Path, nbytes: int) -> System:
        """Recognises all, one utterance after another; what takes next to no time is timed again, for less noise."""
        recognizer, utterances, seconds = Recognizer(model), list[Utterance](), 0.0
        for language in dict.fromkeys(map(_language, self.cuts)):  # what is made at the first call is not counted
            recognizer.transcribe(read_cut(next(c for c in self.cuts if _language(c) == language)), language=language)
        for cut in track(self.cuts, f"Recognising by {name}"):
            spoken = cut.supervisions[0]
            text, took = _recognised(recognizer, cut)
            seconds += took
            utterances.append(pair(cut.id, spoken.language, spoken.text, text, recognizer.free_text))
        for _ in range(_AGAIN if seconds < _SHORT else 0):
            seconds = min(seconds, sum(_recognised(recognizer, cut)[1] for cut in self.cuts))
        audio = float(sum(cut.duration for cut in self.cuts))
        return System(
            name=name, scores=score(utterances).to_dict(), nbytes=nbytes, seconds=round(seconds, 3), audio=audio
        )


def _recognised(recognizer: Recognizer, cut: Any) -> tuple[str, float]:
    """The text of a cut, and the seconds that it took."""
    samples = read_cut(cut)
    began = time.monotonic()
    text = recognizer.transcribe(samples, language=_language(cut)).text
    return text, time.monotonic() - began


def bytes_of(model: Path) -> int:
    """Of a file, of all files in a folder but those of a run, or of a model of the hub its weights in float32."""
    if model.is_file():
        return model.stat().st_size
    if model.is_dir():
        return sum(path.stat().st_size for path in model.iterdir() if path.is_file())
    return 4 * sum(parameter.numel() for parameter in load_model(model).model.parameters())


def comparison(systems: Sequence[System]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one a system, without its name: WER of each language, their mean with its interval, bytes,
    speed.
    """
    languages = [entry.language for entry in systems[0].scored.languages]
    rows = []
    for system in systems:
        scores = system.scored
        mean = f"{percent(scores.mean_wer)} ({percent_interval(scores.mean_wer_ci)})"
        rates = [percent(scores.language(language).wer.rate) for language in languages]
        rows.append([*rates, mean, size(system.nbytes), f"{system.audio / system.seconds:.1f}"])
    return [*languages, "mean (95% CI)", "on disk", "times as fast as speech"], rows


def comparison_table(systems: Sequence[System], split: str) -> Table:
    """`comparison` for a terminal."""
    words = sum(entry.words for entry in systems[0].scored.languages)
    table = Table("", title=f"WER % on {split} ({words:,} words), size, and speed on this machine (one thread)")
    headings, rows = comparison(systems)
    for heading in headings:
        table.add_column(heading, justify="right")
    for system, row in zip(systems, rows, strict=True):
        table.add_row(system.name, *row)
    return table


def not_faster(systems: Sequence[System]) -> list[str]:
    """A line if the last system, the pruned one, is not faster than the fastest of the others."""
    *others, pruned = systems
    fastest = min(others, key=lambda system: system.seconds)
    if pruned.seconds < fastest.seconds:
        return []
    return [f"{pruned.name}: smaller, but no faster here than {fastest.name}: docs/performance.md has what zeros gain"]


def _language(cut: Any) -> str:
    return str(cut.supervisions[0].language)
