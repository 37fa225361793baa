"""What a terminal shows while somebody speaks, and how Ctrl-C ends a recording without losing its last words."""

from __future__ import annotations

import select
import shutil
import signal
import sys
from types import FrameType
from typing import Any, BinaryIO

import typer

from asr_pathways.errors import visible

_PLAIN_WIDTH = 100  # cells of a partial text where stderr is no terminal


class PartialLine:
    """The partial text on one line of stderr: rewritten in place on a terminal, elsewhere a line for each change.

    Only its end is shown, as much as fits the line: written whole each time, a long text would grow with its square.
    """

    def __init__(self) -> None:
        self._shown = ""
        self._terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Shows a text if it changed."""
        if text == self._shown:
            return
        self._shown = text
        width = shutil.get_terminal_size().columns - 1 if self._terminal else _PLAIN_WIDTH
        line = f"... {_end(visible(text), max(1, width - 4))}"
        typer.echo(f"\r\x1b[K{line}" if self._terminal else line, err=True, nl=not self._terminal)

    def clear(self) -> None:
        """Makes room for the final text."""
        if self._shown and self._terminal:
            typer.echo("\r\x1b[K", err=True, nl=False)
        self._shown = ""


def _end(text: str, width: int) -> str:
    """The last words of a text that fit ``width`` cells, or letters if not one word does."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    text = text[-width:]
    while cell_len(text) > width:
        text = text[1:]
    return text.partition(" ")[2] or text


class UntilInterrupted:
    """Bytes that end at Ctrl-C as they do at their end; what waits in the pipe then is still read.

    Used as a context, in the main thread. A second Ctrl-C interrupts at once.

    Attributes:
        interrupted: whether Ctrl-C ended them.
    """

    def __init__(self, sound: BinaryIO) -> None:
        self.interrupted = False
        self._sound: Any = sound
        self._waiting = False
        self._before: Any = None

    def __enter__(self) -> UntilInterrupted:
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):  # a background job ignores Ctrl-C
            self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end."""
        held = bytearray()
        while len(held) < size and (not self.interrupted or self._available()):
            try:
                self._waiting = True
                part = self._sound.read1(size - len(held))
            except _Stopped:
                continue
            finally:
                self._waiting = False
            if not part:
                break
            held += part
        return bytes(held)

    def _available(self) -> bool:
        """Whether there is something to read at once."""
        try:
            return bool(select.select([self._sound.fileno()], [], [], 0)[0])
        except (OSError, ValueError):  # no file, or a system that waits for sockets only
            return False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self._waiting:
            raise _Stopped


class _Stopped(BaseException):
    """Ends a wait for sound."""
