"""The output of a training run while it runs: a progress bar, a log of lines, TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asr_pathways.errors import PathwaysError
from asr_pathways.files import writing

_EVENTS = "events.out.tfevents."


class TrainingProgress:
    """Progress bar with loss, rate (seconds of audio a second) and time left, on stderr; TensorBoard in ``folder``.

    Where stderr is not a terminal, a line every 30 seconds replaces the bar. Without a folder, for ranks
    beside the first, nothing is shown but warnings.
    """

    _LINE_EVERY = 30.0  # seconds

    def __init__(self, folder: Path | None, description: str, step: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:.0f} s of audio/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=folder is None or not self._console.is_terminal,
        )
        self._description, self._steps = description, steps
        self._task = self._bar.add_task(description, total=steps, completed=step, loss=float("nan"), rate=0.0)
        # What a killed run had logged beyond its checkpoint, which is of after this step, is not shown twice.
        self._folder = folder or Path()
        self._board: SummaryWriter | None = None
        if folder is not None:
            with writing(folder):
                _put_first(folder)
                self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        self._loss = self._rate = float("nan")
        self._last = self._last_line = self._began = time.monotonic()
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
        self._bar.update(self._task, completed=step, loss=self._loss, rate=self._rate)
        self.scalars(step, {"train/loss": loss, **scalars})
        if not self._console.is_terminal and now - self._last_line >= self._LINE_EVERY:
            self._last_line = now
            left = (now - self._began) / max(1, step - self._first_step) * (self._steps - step)
            self.line(
                f"{self._description}: step {step}/{self._steps}, loss {self._loss:.3f}, "
                f"{self._rate:.0f} s of audio/s, {left / 60:.1f} min left"
            )

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
        self._bar.console.print(text, highlight=False, soft_wrap=True)

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
