"""Ctrl-C and SIGTERM (a preempted run) stop training between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from asr_pathways.errors import Interrupted


class Interrupts:
    """Inside this context an interrupt waits for the next :meth:`check`, which raises KeyboardInterrupt.

    Weights, masks, optimizer, clocks and data belong together and change one after another in a step: a state
    saved half-way would not resume exactly. A second interrupt raises KeyboardInterrupt at once, and sets ``forced``:
    nothing in memory is fit to be saved.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False  # whether an interrupt is waiting
        self.forced = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # a background job ignores Ctrl-C
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt if an interrupt is waiting."""
        if self.asked:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.forced = True
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Inside this context Ctrl-C and SIGTERM end what a run in ``out`` does outside training's steps, with one line.

    Raises:
        Interrupted: at either.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    if changed := main and before not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{out}: stopped; go on with --resume") from None
    finally:
        if changed:
            signal.signal(signal.SIGTERM, before)
