"""The benchmark of the server, on a tiny model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from asr_pathways.runtime.recognizer import Recognizer
from benchmarks.serve import SILENCE, Spoken, _opened, _shown, _talk, _words
from tests.serve.conftest import SPOKEN, Running, as_read, running
from tests.serve.test_streams import until_free


def spoken() -> Spoken:
    silence = np.zeros(round(SILENCE * 16_000), np.float32)
    return Spoken("one", np.concatenate([as_read(SPOKEN[:16_000]), silence]), 1.0, "")


def test_a_word_is_final_no_earlier_than_it_ends(two_file: Path) -> None:
    recognizer, one = Recognizer(two_file, "fr"), spoken()
    latencies, computing, text = _shown(recognizer, one.samples)
    assert text and len(latencies) == len(text.split()) and computing > 0
    assert all(0 < latency < 10 for latency in latencies)


def test_streams_end_and_those_that_are_cut_leave_nothing(two_file: Path) -> None:
    with running(two_file, max_streams=30) as server:
        host, one = server.url.removeprefix("http://"), spoken()
        wanted = _words(host, one, "fr")
        asyncio.run(_opened(host, one, "fr", 20, 2, seed=0, within=0.2))
        until_free(server)
        assert _words(host, one, "fr") == wanted


def test_the_final_result_comes_after_speech(server: Running) -> None:
    one = spoken()
    (latency,) = asyncio.run(_talk(server.url.removeprefix("http://"), "fr", [one], 0.0, 1.0, late=0.1))
    assert latency is None or latency > 0
