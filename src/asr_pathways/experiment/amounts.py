"""How many utterances the corpora of a plan have: counted where they are at hand, else by what their recipes say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asr_pathways.data.corpus import SPLITS, spoken_rows
from asr_pathways.data.splits import DEV
from asr_pathways.experiment.corpora import data_folder, folder_at_hand
from asr_pathways.experiment.paces import UTTERANCE
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.experiment.recipe import MergedSource, SpeechSource

_ALL = 520
"""Utterances of a language of the prompts, and of a corpus of which nothing is known."""

_HELD_OUT = 0.11
"""Share of its dev, and of its test."""


class Amounts:
    """Counts utterances.

    Args:
        plan: whose recipe names the corpora.
        root: the experiment's folder.
    """

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root
        self._counted: dict[Path, Counter[tuple[str, str]]] = {}

    def utterances(self, cell: Cell, splits: Sequence[str], most: int) -> int:
        """Those of a cell's languages in some splits of its corpus, at most so many of each; 0: all."""
        data, languages = cell.spec["data"], cell.spec["languages"]
        folds = data.get("folds", 0)
        folder = folder_at_hand(self._root, self._plan.recipe, data)
        if folder is None:
            each = [sum(self._guess(data["name"], split, folds) for split in splits)] * len(languages or (None,))
        else:
            counted = self._counts(folder)
            languages = languages or {language for _, language in counted}
            if folder == data_folder(self._root, self._plan.recipe, data):
                each = [sum(counted[split, language] for split in splits) for language in languages]
            else:
                every = [sum(counted[split, language] for split in SPLITS) for language in languages]
                each = [sum(_share(split, folds) for split in splits) * count for count in every]
        return sum(min(round(one), most or round(one)) for one in each)

    def _counts(self, folder: Path) -> Counter[tuple[str, str]]:
        if folder not in self._counted:
            self._counted[folder] = Counter(
                (split, language) for split in SPLITS for language, *_ in spoken_rows(folder, split)
            )
        return self._counted[folder]

    def _guess(self, corpus: str, split: str, folds: int) -> float:
        """Utterances a language."""
        source = self._plan.recipe.data[corpus]
        if isinstance(source, MergedSource):
            return sum(self._guess(part, split, folds) for part in source.of)
        if isinstance(source, SpeechSource):
            return source.hours * 3600 / UTTERANCE * _share(split, folds, source.held_out)
        return _ALL * _share(split, folds)


def _share(split: str, folds: int, held_out: float = _HELD_OUT) -> float:
    """Of a corpus that is in a split: of one of so many folds, or where dev and test are fixed (0)."""
    test, dev = (1 / folds, DEV * (1 - 1 / folds)) if folds else (held_out, held_out)
    return {"train": 1 - dev - test, "dev": dev, "test": test}[split]
