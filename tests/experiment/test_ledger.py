from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import UtteranceCounts
from asr_pathways.evaluation.wer import Utterance
from asr_pathways.experiment import ledger
from asr_pathways.experiment.ledger import read_entry, write_entry

UTTERANCES = [
    Utterance("b", "en", "one two three", "one too three four"),
    Utterance("a", "en", "five", "five"),
]


def test_counts_in_order_of_ids() -> None:
    counts = UtteranceCounts.of(UTTERANCES, 1.5)
    assert (counts.words, counts.word_errors) == ([1, 3], [0, 2])
    assert (counts.characters, counts.character_errors) == ([4, 13], [0, 6])
    assert counts == UtteranceCounts.of(UTTERANCES[::-1], 1.5)
    other = [UTTERANCES[0], Utterance("a", "en", "six", "five")]
    assert counts.utterances != UtteranceCounts.of(other, 1.5).utterances
    guess = [UTTERANCES[0], Utterance("a", "en", "five", "six")]
    assert counts.utterances == UtteranceCounts.of(guess, 1.5).utterances


def test_an_entry_comes_back(tmp_path: Path) -> None:
    assert read_entry(tmp_path, "abc") is None
    counts = {"en": UtteranceCounts.of(UTTERANCES, 1.5)}
    write_entry(tmp_path, "abc", {"label": "é", "tested": counts, "history": [{"wer": 1 / 3}]})
    entry = read_entry(tmp_path, "abc")
    assert entry is not None and entry["label"] == "é" and entry["history"] == [{"wer": 0.333333}]
    assert ledger.tested(entry) == counts
    assert len((tmp_path / "abc.json").read_text().splitlines()) < 10


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 4)), st.floats(0, 100).map(lambda x: round(x, 6)))
def test_any_counts_come_back(rows: list[tuple[int, int, int, int]], loss: float) -> None:
    import tempfile

    lists = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    counts = {"xx": UtteranceCounts("digest", *lists, loss)}
    with tempfile.TemporaryDirectory() as folder:
        write_entry(Path(folder), "n", {"tested": counts})
        entry = read_entry(Path(folder), "n")
    assert entry is not None and ledger.tested(entry) == counts


def test_damage_is_told(tmp_path: Path) -> None:
    write_entry(tmp_path, "abc", {"tested": {"en": UtteranceCounts.of(UTTERANCES, 1.5)}})
    path = tmp_path / "abc.json"
    good = path.read_text()
    path.rename(tmp_path / "other.json")
    with pytest.raises(PathwaysError, match=r"other.json: the entry of another cell, abc"):
        read_entry(tmp_path, "other")
    for broken, message in (
        (good[:-9], "abc.json: not valid JSON"),
        ("[]", "abc.json: not a ledger entry of this version"),
        (good.replace('"version": 1', '"version": 2'), "not a ledger entry of this version"),
    ):
        path.write_text(broken)
        with pytest.raises(PathwaysError, match=message):
            read_entry(tmp_path, "abc")
    entry = json.loads(good)
    for change in ({"words": "1"}, {"words": "1 x"}, {"loss": None, "words": None}):
        damaged = {**entry, "tested": {"en": {**entry["tested"]["en"], **change}}}
        with pytest.raises(PathwaysError, match="ledger entry abc: damaged counts"):
            ledger.tested(damaged)
