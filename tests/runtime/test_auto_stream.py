"""Streams whose language is identified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_pathways import Recognizer
from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime import auto_stream as module
from asr_pathways.runtime import local_agreement
from asr_pathways.runtime.auto_stream import AutoStream
from asr_pathways.runtime.results import Word
from asr_pathways.runtime.stream import Endpointing, Incoming, StreamResult
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.recognition import cache_folder  # noqa: F401
from tests.runtime.test_speech_parts import PADDING, Loudness, frames


@pytest.fixture(autouse=True)
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VoiceActivity", Loudness)
    monkeypatch.setattr(local_agreement, "VoiceActivity", Loudness)


class Counting:
    """Writes how many frames of a segment are speech."""

    def __init__(self, language: str) -> None:
        self.language, self._start = language, 0
        self._begin()

    def _begin(self) -> None:
        self._incoming, self._samples = Incoming(), np.zeros(0, np.float32)

    def accept(self, samples: Samples, rate: int = SAMPLE_RATE) -> None:
        self._samples = np.concatenate([self._samples, self._incoming.accept(samples, rate)])

    def partial(self, final: bool = False) -> StreamResult:
        start, end = (self._start) / SAMPLE_RATE, (self._start + len(self._samples)) / SAMPLE_RATE
        count = round(float((self._samples > 0).sum()) / FRAME)
        text = str(count) if count else ""
        words = (Word(text, round(start, 2), round(end, 2)),) if text else ()
        return StreamResult(self.language, text, text, words, start, end, final, [(text, round(start, 2))])

    def final(self) -> StreamResult:
        result = self.partial(True)
        self._start += len(self._samples)
        self._begin()
        return result

    def switch(self, language: str) -> None:
        self._incoming.require_end()
        self.language = language

    def endpoint(self) -> bool:
        return len(self._samples) > 0 and not self._samples[-25 * FRAME :].any()


class Script:
    """Identifies one language after another."""

    def __init__(self, *languages: str) -> None:
        self.languages, self.asked = list(languages), list[tuple[int, str | None]]()

    def __call__(self, samples: Samples, before: str | None) -> str:
        self.asked.append((len(samples) // FRAME, before))
        return self.languages.pop(0)


def check(language: str) -> str:
    if language not in ("en", "fr"):
        raise PathwaysError(f"unknown language {language!r}")
    return language


def stream_of(script: Script) -> AutoStream:
    return AutoStream(Counting, script, check, Endpointing())


def test_the_first_segment_is_decoded_from_its_first_word_once_two_seconds_were_said() -> None:
    stream = stream_of(script := Script("fr"))
    for _ in range(4):
        stream.accept(frames(25))
        assert stream.partial() == stream.partial() and stream.language == "auto"
    assert stream.endpoint()  # there was silence enough
    stream.accept(frames(0, 40, 10))
    assert stream.partial().text == "" and script.asked == []
    stream.accept(frames(0, 23))
    result = stream.partial()
    assert (result.text, result.stable, result.language) == ("63", "63", "fr") and not result.final
    assert script.asked == [(PADDING + 73, None)]
    start = (100 - PADDING) * FRAME / SAMPLE_RATE
    assert (result.start, result.end) == pytest.approx((start, 173 * FRAME / SAMPLE_RATE))
    assert result.words[0].start == pytest.approx(start, abs=0.01) == result.tokens[0][1]
    stream.accept(frames(25))
    assert stream.endpoint()
    last = stream.final()
    assert last.final and last.text == "63" and last.end == pytest.approx(198 * FRAME / SAMPLE_RATE)


def test_the_next_segment_is_decoded_again_if_it_is_in_another_language() -> None:
    stream = stream_of(script := Script("fr", "en", "en"))
    stream.accept(frames(10, 70))
    assert stream.final().language == "fr"
    stream.accept(frames(20, 30))
    result = stream.partial()
    assert (result.text, result.stable, result.language) == ("30", "", "fr")
    stream.accept(frames(0, 40))
    result = stream.partial()
    assert (result.text, result.stable, result.language) == ("70", "70", "en")
    assert result.start == pytest.approx((100 - PADDING) * FRAME / SAMPLE_RATE)
    assert stream.final().end == pytest.approx(170 * FRAME / SAMPLE_RATE)
    stream.accept(frames(0, 70))
    result = stream.final()
    assert result.start == pytest.approx(170 * FRAME / SAMPLE_RATE) and result.text == "70"
    assert [before for _, before in script.asked] == [None, "fr", "en"]


def test_a_pause_or_the_end_decides_on_less_and_a_click_on_nothing() -> None:
    stream = stream_of(script := Script("en", "fr"))
    stream.accept(frames(10, 2, 20))
    assert stream.partial().text == "" and stream.final().language == "auto" and script.asked == []
    stream.accept(frames(0, 9, 16))
    assert stream.partial().text == "9" and stream.final().language == "en"
    stream.accept(frames(0, 9))
    assert stream.final().language == "fr" and len(script.asked) == 2


def test_speech_whose_language_is_not_known_yet_is_no_silence() -> None:
    stream = stream_of(script := Script("fr"))
    for _ in range(5):  # 0.8 s of silence, then 1.8 s of speech
        stream.accept(frames(5, 11) if stream._position else frames(25, 1))
        assert not stream.endpoint() and script.asked == []
    stream.accept(frames(0, 55))
    assert not stream.endpoint() and len(script.asked) == 1


@pytest.mark.parametrize("step", [100, FRAME, 5_000, 1 << 20])
def test_the_same_speech_is_identified_however_it_comes(step: int) -> None:
    """Neither the silence before it nor the clicks in that."""
    recording = frames(5, 2, 900, 1, 30, 2, 400, 70, 3)[: -FRAME // 3]
    stream = stream_of(script := Script("fr"))
    for start in range(0, len(recording), step):
        stream.accept(recording[start : start + step])
        stream.partial()
    result = stream.final()
    assert result.text == "70" and result.start == pytest.approx((1340 - PADDING) * FRAME / SAMPLE_RATE)
    ((heard, before),) = script.asked
    assert before is None and PADDING + 63 <= heard <= PADDING + 73


def test_a_named_language_is_not_identified_and_auto_identifies_again() -> None:
    stream = stream_of(script := Script("en"))
    stream.accept(frames(30))
    with pytest.raises(PathwaysError, match="a segment has begun"):
        stream.switch("fr")
    stream.final()
    with pytest.raises(PathwaysError, match="unknown language 'nl'"):
        stream.switch("nl")
    stream.switch("fr")
    stream.accept(frames(0, 5))
    result = stream.partial()
    assert (result.text, result.stable, result.language) == ("5", "5", "fr")
    assert stream.final().start == pytest.approx(30 * FRAME / SAMPLE_RATE) and script.asked == []
    stream.switch("auto")
    stream.accept(frames(0, 70))
    assert stream.final().language == "en" and script.asked == [(70, None)]
    stream.switch("fr")
    stream.accept(frames(0, 5))
    assert stream.final().language == "fr" and len(script.asked) == 1


def test_other_rates_are_resampled_once() -> None:
    stream = stream_of(Script("fr"))
    speech = frames(0, 140)[::2].copy()
    for part in np.array_split(speech, 9):
        stream.accept(part, 8_000)
    result = stream.final()
    assert (result.text, result.language) == ("140", "fr")
    assert result.end == pytest.approx(len(speech) / 8_000, abs=0.001)


def test_a_recogniser_has_streams_in_languages_that_its_model_tells_apart(
    hub_folder: Callable[[str], Path],  # noqa: F811
) -> None:
    """The words are those of the identified language, alone and beside others."""
    recognizer = Recognizer(load_model(hub_folder("whisper")), languages=["en", "fr"])
    samples = np.concatenate([frames(0, 70), np.zeros(40 * FRAME, np.float32)])
    window = round(recognizer._engine.window * SAMPLE_RATE)
    shares = recognizer._engine.probabilities(samples[:window], ["en", "fr"])
    streams = [recognizer.stream("auto"), recognizer.stream("fr"), recognizer.stream("auto")]
    for stream in streams[:2]:
        stream.accept(samples)
    recognizer.decode(streams)
    auto, named, silent = (stream.final() for stream in streams)
    assert auto.language == max(shares, key=lambda code: shares[code]) and silent.language == "auto"
    wanted = recognizer.stream(auto.language)
    wanted.accept(samples)
    assert auto.text == wanted.final().text and named.language == "fr"


def test_a_model_that_tells_no_languages_apart_has_none(five_file: Path) -> None:
    with pytest.raises(PathwaysError, match="cannot tell languages apart"):
        Recognizer(five_file).stream("auto")
