"""Decoding of streams: what waits at the same time is decoded in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from asr_pathways.data.audio import Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.stream import Stream, StreamResult

MOST = 32
"""Streams in a batch."""

Outcome = StreamResult | PathwaysError


class Run(Protocol):
    """Runs a function in a thread of the pool."""

    def __call__(self, function: Callable[[], list[Outcome]], /) -> Awaitable[list[Outcome]]: ...


@dataclass(frozen=True)
class _Piece:
    stream: Stream
    samples: Samples
    rate: int
    outcome: asyncio.Future[StreamResult]


class Batches:
    """Decodes pieces of streams, in batches where the recogniser can. Called in the thread of the event loop.

    While nothing else is decoded a piece is decoded at once; pieces that come meanwhile are the next batch.

    Args:
        recognizer: whose streams they are.
        run: what decodes, in another thread.
        threads: batches at once.
    """

    def __init__(self, recognizer: Recognizer, run: Run, threads: int) -> None:
        self._recognizer, self._run, self._free = recognizer, run, threads
        self._most = MOST if recognizer.batched else 1  # one by one, they are for all threads
        self._waiting: list[_Piece] = []
        self._tasks = set[asyncio.Task[None]]()

    async def advance(self, stream: Stream, samples: Samples, rate: int) -> StreamResult:
        """The partial result of a stream after some more samples; the final one if they have ended the segment.

        Raises:
            PathwaysError: as `Stream.accept` does.
        """
        piece = _Piece(stream, samples, rate, asyncio.get_running_loop().create_future())
        self._waiting.append(piece)
        self._begin()
        return await piece.outcome

    def _begin(self) -> None:
        while self._free and self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            self._free -= 1
            task = asyncio.create_task(self._decode(batch))
            self._tasks.add(task)  # the event loop itself keeps none
            task.add_done_callback(self._tasks.discard)

    async def _decode(self, batch: Sequence[_Piece]) -> None:
        try:
            outcomes: Sequence[Outcome | BaseException] = await self._run(partial(_advanced, self._recognizer, batch))
        except BaseException as raised:
            outcomes = [raised] * len(batch)
        finally:
            self._free += 1
            self._begin()
        for piece, outcome in zip(batch, outcomes, strict=True):
            if piece.outcome.done():  # its client has left
                continue
            if isinstance(outcome, StreamResult):
                piece.outcome.set_result(outcome)
            else:
                piece.outcome.set_exception(outcome)


def _advanced(recognizer: Recognizer, batch: Sequence[_Piece]) -> list[Outcome]:
    refused: dict[int, PathwaysError] = {}
    for place, piece in enumerate(batch):
        try:
            piece.stream.accept(piece.samples, piece.rate)
        except PathwaysError as raised:
            refused[place] = raised
    recognizer.decode([piece.stream for place, piece in enumerate(batch) if place not in refused])
    return [refused.get(place) or _outcome(piece.stream) for place, piece in enumerate(batch)]


def _outcome(stream: Stream) -> Outcome:
    """What one stream cannot do must not end those that are decoded with it."""
    try:
        result = stream.partial()
        return stream.final() if result.text and stream.endpoint() else result
    except PathwaysError as raised:
        return raised
