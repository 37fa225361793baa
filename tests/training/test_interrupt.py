from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from asr_pathways.errors import Interrupted
from asr_pathways.training.interrupt import Interrupts, resumable


def ask(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_next_check(number: int) -> None:
    before = signal.getsignal(number)
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.check()
        ask(number)
        done.append("the rest of the step")
        interrupts.check()
        done.append("another step")
    assert done == ["the rest of the step"]
    assert not interrupts.forced
    assert signal.getsignal(number) is before


def test_a_second_one_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        ask()
        ask(signal.SIGTERM)
        pytest.fail("it waited")
    assert interrupts.forced


def test_a_job_that_ignores_interrupts_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            ask()
            interrupts.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes() -> None:
    before, errors = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        try:
            with Interrupts() as interrupts:
                interrupts.check()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_runs_outside_of_steps_ends_with_a_line(number: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="runs/one: stopped; go on with --resume"), resumable(Path("runs/one")):
        ask(number)
        pytest.fail("it went on")
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_it_only_renames_what_is_raised() -> None:
    raised: list[str] = []

    def work() -> None:
        try:
            with resumable(Path("one")):
                raise KeyboardInterrupt
        except Interrupted as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == ["one: stopped; go on with --resume"]
