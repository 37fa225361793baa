from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.shrink import planning, plans
from asr_pathways.shrink.planning import choose_plan, tuning_of
from asr_pathways.training.estimate import Pace
from tests.models.hub.tiny import whisper

PACE = Pace(1.0, 1.0, 0.1, 0.0, 0, 0, 0)


class Clock:
    """Of seconds that pass when that is said."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def measure(self, *_: object) -> Pace:
        self.now += 100
        return PACE


def test_the_time_of_measuring_is_of_the_budget(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(planning, "time", clock)
    monkeypatch.setattr(planning, "measure", clock.measure)
    short, none = (plans.Plan(steps, steps, 0, (0.5, 0.5), (1.0, 2.0), "nowhere") for steps in (1, 0))
    monkeypatch.setattr(planning, "HUB", (short, none))

    def chosen(budget: float, where: str) -> tuple[int, str]:
        (tmp_path / where).mkdir()
        began, model = clock.now - 50, tmp_path / "tiny"  # 50 s of reading are over
        plan = choose_plan(model, speech, "", tmp_path / where, ["fr"], "accuracy", budget, began)
        return plan.steps, capsys.readouterr().err

    whisper(tmp_path / "tiny")
    # Reading, finetuning and pruning timed now and once more when they begin, two steps, loading and writing.
    steps, said = chosen(470, "enough")
    assert steps == 1 and "time: about 7 min 47 s" in said
    steps, said = chosen(466, "too little")
    assert steps == 0 and "time: about 7 min 45 s" in said  # and pruning without training was timed, too


def test_a_short_run_has_checkpoints_too() -> None:
    assert [tuning_of(steps, "32-true").checkpoint_every for steps in (2, 100, 500, 2000)] == [1, 25, 125, 250]
