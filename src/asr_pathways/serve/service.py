"""What all requests share: the recogniser, bounded pools of threads that run it, and counters."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from asr_pathways.data.languages import known_language
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.auto_stream import AUTO
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.stream import Stream
from asr_pathways.serve.batches import Batches
from asr_pathways.serve.shares import kept_shares

T = TypeVar("T")

WAITING = 8
"""Recordings that may wait for each thread; one more is refused."""

PIECE, LONG_PIECE = 1.0, 30.0
"""Seconds of a stream that are decoded at once, at most: then other streams have their turn. Of a model that does not
stream the second: all that waits is decoded once.
"""

UPLOADS = 64
"""Requests whose bodies are received at once; one more is refused."""


@dataclass(frozen=True)
class Options:
    """Of a server.

    Attributes:
        threads: recordings that are recognised at once, and as many pieces of streams.
        max_streams: streams that are open at once.
        max_upload: bytes of a request.
        token: what clients must send; None: they need none.
    """

    threads: int = 2
    max_streams: int = 16
    max_upload: int = 100_000_000
    token: str | None = None


def release_memory() -> None:
    """Frees what only refers to itself, and returns to the system what glibc keeps: after many streams that is much."""
    # Python's cache of look-ups keeps the names, and torch makes some anew for each: all over the memory of streams.
    for clear in ("_clear_internal_caches", "_clear_type_cache"):  # from Python 3.13, and before
        if hasattr(sys, clear):
            getattr(sys, clear)()
            break
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class Busy(Exception):
    """Refused: there is already as much to do as the options allow."""


class Service:
    """One model and its limits. All but `run`'s functions is called in the thread of the event loop.

    Args:
        model: the MODEL.
        options: limits.

    Raises:
        PathwaysError: as `Recognizer` does, or for a token that no header can carry.
    """

    def __init__(self, model: Path, options: Options) -> None:
        if options.token is not None and not re.fullmatch("[!-~]+", options.token):
            raise PathwaysError("--token: letters, digits and marks of ASCII are needed, without spaces")
        self.recognizer = Recognizer(model)
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(1)  # requests run side by side
        self.name = model.resolve().name.removesuffix(".asrp") if model.exists() else str(model)
        self.options = options
        self.kept = kept_shares(model)
        self.auto = self.recognizer.identifies_languages
        self.counts = Counter[tuple[str, str, int]]()
        """Responses by (method, route, status)."""
        self.audio_seconds = self.compute_seconds = 0.0
        self.streams = self.jobs = self._uploads = 0
        self.batches = Batches(self.recognizer, self.run, options.threads)
        self.piece = PIECE if self.recognizer.streams else LONG_PIECE
        gc.collect()
        gc.freeze()  # what is here now stays: looking through it again would stop all threads for a while
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="stream")
        self._recordings = ThreadPoolExecutor(options.threads, thread_name_prefix="recording")
        """Apart, since streams do not wait for recordings, which may take minutes."""

    def language(self, asked: str | None) -> str:
        """The code of a language that a client names; of one that names none: ``auto``, or the model's only one.

        Raises:
            PathwaysError: for an unknown language, ``auto`` where the model tells none apart, or none named.
        """
        known = self.recognizer.languages
        if not asked or asked == AUTO:
            if len(known) == 1:
                return known[0]
            if not self.auto:
                raise PathwaysError(f"language: choose one of {' '.join(known)}")
            return AUTO
        return known_language(asked, known)

    def open(self, language: str) -> Stream:
        """A stream in a language, or ``auto``, from which it can be switched to any other. Run it by `run`."""
        if not self.auto:
            return self.recognizer.stream(language)
        stream = self.recognizer.stream(AUTO)
        stream.switch(language)
        return stream

    @contextmanager
    def upload(self) -> Iterator[None]:
        """While a body is received.

        Raises:
            Busy: if too many are.
        """
        if self._uploads >= UPLOADS:
            raise Busy("too many uploads at once: try again in a second")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """While a stream is open.

        Raises:
            Busy: if too many are.
        """
        if self.streams >= self.options.max_streams:
            raise Busy(f"all {self.options.max_streams} streams are in use: try again later")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1
            if not self.streams:
                with suppress(RuntimeError):  # the server ends
                    self._pool.submit(release_memory)

    async def recording(self, function: Callable[[], T]) -> T:
        """Runs what recognises a recording in a thread; not at all, if it is cancelled before its turn has come.

        Raises:
            Busy: if too many wait already.
        """
        if self.jobs >= self.options.threads * (1 + WAITING):
            raise Busy("too many recordings wait already: try again in a second")
        job = self._recordings.submit(_timed, function)
        ended = asyncio.wrap_future(job)
        self.jobs += 1
        ended.add_done_callback(self._ended)
        try:
            return (await asyncio.shield(ended))[0]
        except asyncio.CancelledError:
            job.cancel()  # what has begun cannot be stopped: it counts until it ends
            raise

    def _ended(self, job: asyncio.Future[tuple[T, float]]) -> None:
        self.jobs -= 1
        if not job.cancelled() and job.exception() is None:
            self.compute_seconds += job.result()[1]

    async def run(self, function: Callable[[], T]) -> T:
        """Runs what is short in a thread of the pool of streams, and counts its time."""
        result, seconds = await asyncio.wrap_future(self._pool.submit(_timed, function))
        self.compute_seconds += seconds
        return result

    def close(self) -> None:
        """Waits for no recording that has not begun."""
        for pool in (self._pool, self._recordings):
            pool.shutdown(wait=False, cancel_futures=True)

    def metrics(self) -> str:
        """All counts in Prometheus' text format."""
        lines = ["# TYPE asr_pathways_responses_total counter"]
        for (method, route, status), count in sorted(self.counts.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            lines.append(f"asr_pathways_responses_total{{{labels}}} {count}")
        for name, kind, value in (
            ("audio_seconds_total", "counter", round(self.audio_seconds, 3)),
            ("compute_seconds_total", "counter", round(self.compute_seconds, 3)),
            ("streams", "gauge", self.streams),
            ("streams_limit", "gauge", self.options.max_streams),
            ("recordings", "gauge", self.jobs),
        ):
            lines += [f"# TYPE asr_pathways_{name} {kind}", f"asr_pathways_{name} {value}"]
        return "\n".join([*lines, ""])


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    """A function's result, and the seconds that it took."""
    begun = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begun
