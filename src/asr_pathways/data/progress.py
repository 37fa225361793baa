"""Progress bars on stderr, so that stdout stays clean for results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from operator import length_hint
from typing import TypeVar

from asr_pathways.console import make_console, text_column

T = TypeVar("T")


def track(
    items: Iterable[T], label: str, total: float | None = None, size: Callable[[T], float] = lambda item: 1
) -> Generator[T, None, None]:
    """The items, with a progress bar that each moves on by its ``size``, up to ``total`` (None: their number)."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = text_column("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=make_console(stderr=True)) as bar:
        task = bar.add_task(label, total=length_hint(items) if total is None else total)
        for item in items:
            yield item
            bar.advance(task, size(item))
