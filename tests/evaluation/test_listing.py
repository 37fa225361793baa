from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.listing import alignment_text, read_evaluation, write_alignments, write_evaluation
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.files import write_json

WRONG = Utterance("fr-1", "fr", "le numéro est le un deux trois", "le numero est un deux trois fois")


def test_errors_stand_under_the_words() -> None:
    assert alignment_text(WRONG) == (
        "fr-1 (fr): 1S 1D 1I\n"
        "  REF  le numéro est le  un deux trois ***\n"
        "  HYP  le numero est *** un deux trois fois\n"
        "          S          D                 I\n"
    )


def test_right_utterance_is_short() -> None:
    assert alignment_text(Utterance("1", "en", "all right", "all right")) == "1 (en): no error\n  REF  all right\n"


def test_columns_stand_whatever_the_script() -> None:
    lines = alignment_text(Utterance("1", "ja", "日本 go on", "e\u0301té go")).splitlines()
    assert lines[1] == "  REF  日本 go on"
    assert lines[2] == "  HYP  e\u0301té  go ***"


def test_alignments_file(tmp_path: Path) -> None:
    path = tmp_path / "errors.txt"
    write_alignments(path, [WRONG, Utterance("2", "ru", "да", "")])
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    assert blocks[0] + "\n" == alignment_text(WRONG)
    assert blocks[1].startswith("2 (ru): 1D")


def test_evaluation_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    utterances = [WRONG, Utterance("2", "ru", "да нет", "да")]
    scores = score(utterances)
    write_evaluation(path, scores, utterances)
    assert read_evaluation(path) == (scores, utterances)


@pytest.mark.parametrize("data", [{}, [], {"utterances": [{"id": "1"}]}, {"utterances": []}])
def test_foreign_file_is_refused(tmp_path: Path, data: object) -> None:
    path = tmp_path / "other.json"
    write_json(path, data)
    with pytest.raises(PathwaysError, match=r"other\.json: not an evaluation"):
        read_evaluation(path)
