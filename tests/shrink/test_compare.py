from __future__ import annotations

from pathlib import Path

from asr_pathways.shrink import compare
from asr_pathways.shrink.compare import System, not_faster


def system(name: str, seconds: float) -> System:
    return System(name=name, scores={}, nbytes=1, seconds=seconds, audio=10.0)


def test_a_pruned_model_that_is_no_faster_is_called_that() -> None:
    dense, tuned = system("dense", 9.0), system("finetuned, dense", 2.0)
    assert not_faster([dense, system("pruned, 50%", 8.0)]) == []
    (line,) = not_faster([dense, tuned, system("pruned, 50%", 3.0)])
    assert line.startswith("pruned, 50%: smaller, but no faster here than finetuned, dense:")


def test_what_takes_no_time_is_timed_again(dense_model: Path, speech: Path) -> None:
    tested = compare.TestSet.of(speech, ["en", "fr"]).part(1)
    found = tested.compared("dense", dense_model, 7)
    assert (found.nbytes, len(tested.cuts)) == (7, 2) and found.audio > 0 < found.seconds
    assert sum(one.utterances for one in found.scored.languages) == 2  # each is scored once
