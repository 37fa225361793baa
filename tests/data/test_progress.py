from __future__ import annotations

import time

import pytest

from asr_pathways.data.progress import LogPace, track


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_log_gets_a_line_within_seconds_and_then_every_half_a_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(range(100), "Decoding"):
        clock.now += 2.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Decoding: 2 of 100, about 3 min 16 s left"
    assert lines[1] == "Decoding: 17 of 100, about 2 min 46 s left"
    assert lines[-1] == "Decoding: 100 in 3 min 20 s" and len(lines) == 8


def test_what_is_done_at_once_is_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(["a", "b"], "Reading", 5, len)) == ["a", "b"]
    assert capsys.readouterr().err == "Reading: 2 in 0 s\n"


def test_a_pace_is_due_once(clock: Clock) -> None:
    pace = LogPace()
    due = []
    for _ in range(40):
        clock.now += 1.0
        due.append(pace.due())
    assert [second for second, one in enumerate(due, 1) if one] == [3, 33]
