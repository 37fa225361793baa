"""Runs in processes forked from one that has imported everything: a start costs milliseconds, and so does a kill."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asr_pathways.errors import PathwaysError
from tests.stress.points import Points

FAILED, CRASHED = 1, 3


@dataclass(frozen=True)
class Ended:
    """How a process ended: by kill -9, or with a status; and what it said."""

    killed: bool
    status: int
    said: str

    @property
    def done(self) -> bool:
        return not self.killed and self.status == 0

    @property
    def one_line(self) -> bool:
        """Whether it failed as the command line does, without a traceback."""
        return not self.killed and self.status == FAILED and "Traceback" not in self.said


def warm_up() -> None:
    """Imports what runs import when they need it."""
    import torch

    import tests.warm  # noqa: F401

    torch.set_num_threads(1)  # threads do not outlive a fork


def start(run: Callable[[], object], log: Path, points: Points | None = None, counts: Path | None = None) -> int:
    """Forks a process that does ``run``; what it says goes to ``log``, the points that it passed to ``counts``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    status = CRASHED
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if points is not None:
            points.install()
        try:
            run()
            status = 0
        except PathwaysError as error:
            os.write(2, f"asr-pathways: {error}\n".encode())
            status = FAILED
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        if counts is not None and points is not None:
            counts.write_text(json.dumps(points.passed))
    finally:
        os._exit(status)


def end(child: int, log: Path, kill_after: float | None = None, limit: float = 300.0) -> Ended:
    """Waits for a process, or kills it after so many seconds.

    Raises:
        TimeoutError: if it takes longer than ``limit`` seconds: it hangs.
    """
    began = time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            said = log.read_text(errors="replace") if log.exists() else ""
            return Ended(os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status), said)
        passed = time.monotonic() - began
        if passed > (limit if kill_after is None else kill_after):
            os.kill(child, signal.SIGKILL)
            if kill_after is None:
                os.waitpid(child, 0)
                raise TimeoutError(f"no end in {limit:.0f} s:\n{log.read_text(errors='replace')}")
        time.sleep(0.002)


def whole(run: Callable[[], object], log: Path) -> Ended:
    """Does ``run`` in a process, to its end."""
    return end(start(run, log), log)
