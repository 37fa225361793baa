"""Progress on stderr, so that stdout stays clean for results: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from operator import length_hint
from typing import TypeVar

from asr_pathways.console import make_console, text_column
from asr_pathways.formats import duration

T = TypeVar("T")


class LogPace:
    """When to write the next line of progress into a log: after some seconds, then every half a minute."""

    FIRST, EVERY = 3.0, 30.0  # seconds

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._next = self.began + self.FIRST

    def due(self) -> bool:
        """Whether it is time; the next line is then due later."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.EVERY
        return True

    def line(self, label: str, done: float, total: float) -> str:
        """``Decoding: 40 of 113, about 22 s left``."""
        left = (time.monotonic() - self.began) / done * (total - done) if done else 0.0
        return f"{label}: {done:g} of {total:g}" + (f", about {duration(left)} left" if left >= 1 else "")


def track(
    items: Iterable[T], label: str, total: float | None = None, size: Callable[[T], float] = lambda item: 1
) -> Generator[T, None, None]:
    """The items, with progress that each moves on by its ``size``, up to ``total`` (None: their number)."""
    console = make_console(stderr=True)
    total = length_hint(items) if total is None else total
    if not console.is_terminal:
        pace, done = LogPace(), 0.0
        for item in items:
            yield item
            done += size(item)
            if pace.due() and done < total:
                console.print(pace.line(label, done, total), soft_wrap=True)
        console.print(f"{label}: {done:g} in {duration(time.monotonic() - pace.began)}", soft_wrap=True)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = text_column("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))
