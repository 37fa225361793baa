"""Streams that wait together are decoded together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.stream import StreamResult
from asr_pathways.serve.batches import Batches


class Counted:
    """A stream that counts its samples, and ends at six."""

    def __init__(self) -> None:
        self.samples = self.decoded = 0

    def accept(self, samples: np.ndarray, rate: int) -> None:
        if rate < 0:
            raise PathwaysError("no rate")
        self.samples += len(samples)

    def partial(self, final: bool = False) -> StreamResult:
        return StreamResult("fr", str(self.decoded), "", (), 0.0, 0.0, final)

    def final(self) -> StreamResult:
        return self.partial(True)

    def endpoint(self) -> bool:
        return self.decoded >= 6


class Recorder:
    """A recogniser that waits to be let go on, and notes what it decodes at once."""

    def __init__(self, batched: bool) -> None:
        self.batched, self.batches = batched, list[int]()
        self.go = threading.Event()
        self.failure: Exception | None = None

    def decode(self, streams: Sequence[Counted]) -> None:
        self.go.wait(20)
        self.batches.append(len(streams))
        if self.failure:
            raise self.failure
        for stream in streams:
            stream.decoded = stream.samples


async def in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


def decoded(recognizer: Recorder, threads: int, rates: Sequence[int]) -> list[Any]:
    """Of one piece of each stream, all at once."""

    async def run() -> list[Any]:
        batches = Batches(recognizer, in_thread, threads)  # type: ignore[arg-type]
        jobs = [
            asyncio.ensure_future(batches.advance(Counted(), np.zeros(place + 1, np.float32), rate))  # type: ignore[arg-type]
            for place, rate in enumerate(rates)
        ]
        await asyncio.sleep(0)
        recognizer.go.set()
        return await asyncio.gather(*jobs, return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("batched", "threads", "sizes"), [(True, 1, [1, 7]), (True, 2, [1, 1, 6]), (False, 1, [1] * 8), (False, 3, [1] * 8)]
)
def test_what_comes_while_others_are_decoded_is_one_batch(batched: bool, threads: int, sizes: list[int]) -> None:
    recognizer = Recorder(batched)
    results = decoded(recognizer, threads, [16_000] * 8)
    assert sorted(recognizer.batches) == sizes
    assert [(result.text, result.final) for result in results] == [(str(n), n >= 6) for n in range(1, 9)]


def test_one_that_is_refused_does_not_hurt_the_others() -> None:
    recognizer = Recorder(True)
    results = decoded(recognizer, 1, [16_000, 16_000, -1, 16_000])
    assert [result.text for place, result in enumerate(results) if place != 2] == ["1", "2", "4"]
    assert isinstance(results[2], PathwaysError) and recognizer.batches == [1, 2]


def test_one_that_fails_when_it_ends_does_not_hurt_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def final(stream: Counted) -> StreamResult:
        if stream.samples == 7:
            raise PathwaysError("too short")
        return stream.partial(True)

    monkeypatch.setattr(Counted, "final", final)
    results = decoded(Recorder(True), 1, [16_000] * 8)
    assert [str(result) for result in results if isinstance(result, PathwaysError)] == ["too short"]
    assert [result.text for place, result in enumerate(results) if place != 6] == ["1", "2", "3", "4", "5", "6", "8"]


def test_a_failure_reaches_all_of_its_batch_and_nobody_waits_for_ever() -> None:
    recognizer = Recorder(True)
    recognizer.failure = ArithmeticError("broken")
    assert [str(result) for result in decoded(recognizer, 1, [16_000] * 3)] == ["broken"] * 3


def test_a_client_that_leaves_does_not_stop_the_rest() -> None:
    recognizer = Recorder(True)

    async def run() -> StreamResult:
        batches = Batches(recognizer, in_thread, 1)  # type: ignore[arg-type]
        jobs = [
            asyncio.ensure_future(batches.advance(Counted(), np.zeros(5, np.float32), 16_000))  # type: ignore[arg-type]
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        jobs[0].cancel()
        jobs[1].cancel()
        recognizer.go.set()
        return await jobs[2]

    assert asyncio.run(run()).text == "5"
