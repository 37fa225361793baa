"""The output of a training run while it runs: a progress bar, a log of lines, TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from asr_pathways.console import make_console, text_column
from asr_pathways.data.progress import LogPace
from asr_pathways.errors import PathwaysError
from asr_pathways.files import writing
from asr_pathways.formats import duration

_EVENTS = "events.out.tfevents."

T = TypeVar("T")


class TrainingProgress:
    """Progress bar with loss, rate (seconds of audio a second) and time left, on stderr; TensorBoard in ``folder``.

    Where stderr is not a terminal, a line after some seconds and then every 30 replaces the bar. Without a folder, for
    ranks beside the first, nothing is shown but warnings.
    """

    def __init__(self, folder: Path | None, description: str, step: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._console = make_console(stderr=True)
        self._bar = Progress(
            text_column("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            text_column("{task.fields[state]}"),
            TimeElapsedColumn(),
            text_column("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=folder is None or not self._console.is_terminal,
        )
        self._description, self._steps = description, steps
        self._task = self._bar.add_task(description, total=steps, completed=step, state="first step")
        # What a killed run had logged beyond its checkpoint, which is of after this step, is not shown twice.
        self._folder = folder or Path()
        self._board: SummaryWriter | None = None
        if folder is not None:
            with writing(folder):
                _put_first(folder)
                self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        self._loss = self._rate = float("nan")
        self._last = self._began = time.monotonic()
        self._pace = LogPace()
        self._first_step = step

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if self._board is not None:
            # The first error is to be reported.
            with suppress(PathwaysError) if kind else nullcontext(), writing(self._folder):
                self._board.close()

    def step(self, step: int, loss: float, audio_seconds: float, scalars: Mapping[str, float]) -> None:
        """One optimizer step is done."""
        now = time.monotonic()
        rate = audio_seconds / max(now - self._last, 1e-9)
        self._last = now
        first = self._loss != self._loss
        self._loss = loss if first else 0.98 * self._loss + 0.02 * loss
        self._rate = rate if first else 0.95 * self._rate + 0.05 * rate
        state = f"loss {self._loss:.3f}, {self._rate:.0f} s of audio/s"
        self._bar.update(self._task, completed=step, state=state)
        self.scalars(step, {"train/loss": loss, **scalars})
        if not self._console.is_terminal and self._pace.due():
            left = (now - self._began) / max(1, step - self._first_step) * (self._steps - step)
            self.line(f"{self._description}: step {step}/{self._steps}, {state}, about {duration(left)} left")

    def track(self, items: Iterable[T], label: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
        """The items, with a second bar, or lines, while they last; each moves it on by its ``size`` up to ``total``."""
        task, pace, done = self._bar.add_task(label, total=total, state=""), LogPace(), 0
        try:
            for item in items:
                yield item
                done += size(item)
                self._bar.update(task, completed=done)
                if not self._console.is_terminal and pace.due() and done < total:
                    self.line(pace.line(label, done, total))
        finally:
            self._bar.remove_task(task)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values to TensorBoard.

        Raises:
            PathwaysError: if they cannot be written.
        """
        if self._board is not None:
            with writing(self._folder):
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Waits until all that was logged is in the file, so that a kill loses nothing of it.

        Raises:
            PathwaysError: if it cannot be written.
        """
        if self._board is not None:
            with writing(self._folder):
                self._board.flush()

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._board is not None:
            self.warning(text)

    def warning(self, text: str) -> None:
        """Prints a line above the bar, on any rank."""
        self._bar.console.print(text, soft_wrap=True)

    def resumed(self) -> None:
        """Time since the last step (an evaluation) does not count into the rate."""
        self._last = time.monotonic()


def _put_first(folder: Path) -> None:
    """Renames event files, which TensorBoard reads in the order of their names, so that a new one comes after them.

    A name begins with the second in which the file was made; a clock that was set back since would put it last.
    """
    paths = sorted(folder.glob(f"{_EVENTS}*"))
    if any(path.name >= f"{_EVENTS}{int(time.time()):010d}" for path in paths):
        for number, path in enumerate(paths):
            path.rename(path.with_name(f"{_EVENTS}{number:010d}.{path.name.removeprefix(_EVENTS).partition('.')[2]}"))
