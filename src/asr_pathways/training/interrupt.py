"""Ctrl-C and SIGTERM (a preempted run) stop training between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Inside this context an interrupt waits for the next :meth:`check`, which raises KeyboardInterrupt.

    Weights, masks, optimizer, clocks and data belong together and change one after another in a step: a state
    saved half-way would not resume exactly. Whoever asks a second time gets KeyboardInterrupt at once, and
    ``forced`` says that nothing in memory is fit to be saved.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.forced = False
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # a background job ignores Ctrl-C
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether an interrupt is waiting."""
        return self._asked

    def check(self) -> None:
        """Raises KeyboardInterrupt if one was asked for."""
        if self._asked:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self.forced = True
            raise KeyboardInterrupt
        self._asked = True
