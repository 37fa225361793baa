"""A recogniser in a separate process: its threads, peak memory and time to load, imports included, are its alone."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from asr_pathways.errors import PathwaysError, reason_of

PATIENCE = 10.0
"""Seconds that a process may take to end."""


@dataclass(frozen=True)
class Answer:
    """One recording, recognised.

    Attributes:
        text: as the system wrote it.
        seconds: that it took.
        first_token: seconds until the first token was known; None if the system does not report it.
        peak: the most memory that the process had so far, in MiB.
    """

    text: str
    seconds: float
    first_token: float | None
    peak: float


class Worker:
    """The process of one system; for use in a ``with`` block, which ends it.

    Attributes:
        load: seconds from its start until it could recognise.
    """

    def __init__(self, system: str, place: Path | str, language: str, threads: int) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            PathwaysError: if it cannot load the system; the message is its own.
        """
        began = time.perf_counter()
        self._system = system
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asr_pathways.bench.worker", system, str(place), language, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        self.load = time.perf_counter() - began

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transcribe(self, samples: Path) -> Answer:
        """Recognises the samples (N,) float32 at 16 kHz of a ``.npy`` file.

        Raises:
            PathwaysError: if the system fails.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: why, `_answer` finds out
            self._process.stdin.write(f"{samples}\n")
            self._process.stdin.flush()
        return Answer(**self._answer())

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            self._process.communicate(timeout=PATIENCE)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise PathwaysError(f"{self._system}: {answer['error']}")
            return answer
        status = self._process.wait()
        self._errors.seek(0)
        last = next((line.strip() for line in reversed(self._errors.readlines()) if line.strip()), "no message")
        raise PathwaysError(f"{self._system}: its process ended with status {status}: {last}")


def peak_memory() -> float:
    """The most memory that this process had, in MiB; getrusage would count what the one had that started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main(system: str, place: str, language: str, threads: str) -> None:
    """Loads a system, then answers each path on standard input by a line of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print, too

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        import numpy as np

        from asr_pathways.bench.recognizers import open_recognizer

        recognizer = open_recognizer(system, Path(place), language, int(threads))
        recognizer.load()
        answer(ready=True)
        for line in sys.stdin:
            samples = np.load(line.rstrip("\n"))
            times: list[float] = []
            began = time.perf_counter()
            text = recognizer.transcribe(samples, partial(_note, times))
            seconds = time.perf_counter() - began
            answer(text=text, seconds=seconds, first_token=times[0] - began if times else None, peak=peak_memory())
    except Exception as error:  # whatever a library raises: the one who asked is told, in one line
        answer(error=reason_of(error)[:300])
        raise


def _note(times: list[float]) -> None:
    times.append(time.perf_counter())


if __name__ == "__main__":
    main(*sys.argv[1:])
