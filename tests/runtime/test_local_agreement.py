"""Streams of models that do not stream."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr_pathways import Recognizer
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime import local_agreement as module
from asr_pathways.runtime.local_agreement import AgreementStream, _Agreement, _matching
from asr_pathways.runtime.results import Piece, Segment, Word
from asr_pathways.runtime.stream import Endpointing
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.runtime.test_speech_parts import Loudness, frames

SECOND = 32  # frames: a little more


@pytest.fixture(autouse=True)
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VoiceActivity", Loudness)


class Scripted:
    """Writes its texts one after another, the words of each spread evenly."""

    window = 30.0

    def __init__(self, *texts: str, times_words: bool = True) -> None:
        self.texts, self.times_words = list(texts), times_words
        self.heard: list[tuple[float, str]] = []

    def load(self, language: str) -> None:
        pass

    def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
        seconds = len(samples) / SAMPLE_RATE
        assert words == self.times_words and seconds <= self.window
        self.heard.append((seconds, language))
        text = self.texts.pop(0)
        one = seconds / max(1, len(text.split()))
        timed = tuple(Word(word, n * one, (n + 1) * one, 0.5) for n, word in enumerate(text.split()))
        return Segment(text, 0.0, seconds, language, timed if words else ()) if text else None


def stream_of(engine: Scripted, language: str = "fr", rules: Endpointing | None = None) -> AgreementStream:
    return AgreementStream(engine, language, lambda code: code, rules or Endpointing())


def test_words_are_stable_once_two_hypotheses_agree() -> None:
    engine = Scripted("one two", "one too three", "one too three four", "one to three for five", "one")
    stream = stream_of(engine)
    seen = []
    for _ in range(4):
        stream.accept(frames(0, SECOND))
        result = stream.partial()
        assert stream.partial() == result  # nothing is new
        seen.append((result.stable, result.text))
    stream.accept(frames(0, SECOND))
    last = stream.final()
    assert seen == [
        ("", "one two"),
        ("one", "one too three"),
        ("one too three", "one too three four"),
        ("one too three", "one too three for five"),
    ]
    assert (last.text, last.stable, last.final) == ("one too three", "one too three", True)
    assert [word.text for word in last.words] == ["one", "too", "three"] and last.words[0].probability == 0.5
    assert [seconds for seconds, _ in engine.heard] == pytest.approx(
        [number * SECOND * FRAME / SAMPLE_RATE for number in range(1, 6)]
    )
    assert last.end == pytest.approx(5 * SECOND * FRAME / SAMPLE_RATE)


def test_words_of_two_hypotheses_do_not_overlap() -> None:
    """Stable words have the times of an earlier hypothesis than those after them."""
    engine = Scripted("one two", "one two three", "one two three four five six seven eight nine")
    stream = stream_of(engine)
    for _ in range(3):
        stream.accept(frames(0, 3 * SECOND))
        words = stream.partial().words
        assert all(one.start <= one.end <= other.start for one, other in pairwise(words))
    assert len(words) == 9


def test_silence_is_not_decoded_and_ends_what_was_said() -> None:
    engine = Scripted("one", "one two", "three")
    stream = stream_of(engine)
    for _ in range(100):
        stream.accept(frames(1))
        assert not stream.partial().text and stream.endpoint() == (stream._speech.position >= 2.4 * SAMPLE_RATE)
    stream.accept(frames(0, SECOND))
    assert stream.partial().text == "one" and not stream.endpoint()
    for _ in range(100):
        stream.accept(frames(1))
        result = stream.partial()
    assert stream.endpoint() and result.stable == result.text == "one two" and len(engine.heard) == 2
    assert engine.heard[1][0] < (SECOND + 21) * FRAME / SAMPLE_RATE
    assert stream.final().end == pytest.approx((200 + SECOND) * FRAME / SAMPLE_RATE)
    stream.accept(frames(50, SECOND))
    result = stream.final()
    assert result.text == "three" and result.start == pytest.approx((200 + SECOND) * FRAME / SAMPLE_RATE)
    assert result.words[0].start == pytest.approx((200 + SECOND + 40) * FRAME / SAMPLE_RATE, abs=0.02)


def test_a_click_is_not_decoded() -> None:
    stream = stream_of(engine := Scripted("one"))
    for samples in np.split(frames(20, 2, 60), range(1600, 40_000, 1600)):
        stream.accept(samples)
        assert stream.partial().text == ""
    assert engine.heard == []
    stream.accept(frames(0, 20))
    assert stream.final().text == "one"


def test_what_was_said_before_a_pause_is_not_decoded_again() -> None:
    engine = Scripted("one", "two", "two three")
    stream = stream_of(engine)
    stream.accept(frames(0, 20, 50, 40))
    result = stream.partial()
    assert (result.text, result.stable) == ("one two", "one")
    stream.accept(frames(0, 40))
    result = stream.final()
    assert result.text == result.stable == "one two three" and len(result.words) == 3
    assert max(seconds for seconds, _ in engine.heard) < 100 * FRAME / SAMPLE_RATE


def test_the_longer_a_segment_the_shorter_the_pause_that_ends_it() -> None:
    stream = stream_of(Scripted(), rules=Endpointing(longest=8.0))
    for speech, silence, over in (
        (1.5, 0.7, False),
        (2.8, 0.3, False),
        (0.5, 0.4, True),
        (0.3, 0.0, False),
        (1.6, 0.0, True),
    ):
        stream.accept(frames(0, round(speech * SAMPLE_RATE / FRAME), round(silence * SAMPLE_RATE / FRAME)))
        assert stream.endpoint() == over


def test_speech_without_a_pause_is_cut_and_no_stable_word_is_lost_or_said_twice() -> None:
    """Words of a second each: the engine writes those of which it has a half."""
    size = SECOND * FRAME

    class Counting(Scripted):
        def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
            assert len(samples) <= 6.0 * SAMPLE_RATE
            found = []
            for number in range(20):
                (places,) = np.nonzero(np.isclose(samples, 0.6 + number / 10))
                if len(places) >= size / 2:
                    found.append(Word(f"w{number}", places[0] / SAMPLE_RATE, places[-1] / SAMPLE_RATE))
            text = " ".join(word.text for word in found)
            return Segment(text, 0.0, len(samples) / SAMPLE_RATE, language, tuple(found)) if found else None

    stream = stream_of(Counting(), rules=Endpointing(longest=6.0))
    shown = ""
    for second in range(20):
        for piece in np.array_split(np.full(size, 0.6 + second / 10, np.float32), 5):
            stream.accept(piece)
            result = stream.partial()
            assert result.stable.startswith(shown) and result.text.startswith(result.stable)
            shown = result.stable
    assert sum(part.cut for part in stream._speech.parts) > 3
    assert stream.final().text.split() == [f"w{number}" for number in range(20)]


def test_untimed_words_have_no_times() -> None:
    stream = stream_of(Scripted("one two.", "one two. three", times_words=False))
    stream.accept(frames(0, 40))
    stream.partial()
    stream.accept(frames(0, 40))
    result = stream.partial()
    assert (result.stable, result.text, result.words) == ("one two.", "one two. three", ())


def test_a_slow_model_decodes_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(Scripted("one", "one two"))
    now = iter([0.0, 2.0, 10.0, 12.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    texts = []
    for _ in range(4):
        stream.accept(frames(0, SECOND))
        texts.append(stream.partial().text)
    assert texts == ["one", "one", "one two", "one two"]


def pieces(text: str) -> list[Piece]:
    return [Piece(word, float(place), place + 0.9, True) for place, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("stable", "hypothesis", "count"),
    [
        ("", "a b", 0),
        ("a b", "a b c", 2),
        ("A, b.", "a b c", 2),
        ("a b c", "a x c d", 3),
        ("a b c", "a c d", 2),
        ("a b c", "a b", 2),
        ("a b c", "", 0),
        ("a b c", "a b x", 3),
        ("a a", "a a a a", 2),
    ],
)
def test_stable_words_are_found_in_another_hypothesis(stable: str, hypothesis: str, count: int) -> None:
    assert _matching(pieces(stable), pieces(hypothesis)) == count


@pytest.mark.parametrize("piece", [10, 20, 33])
def test_a_word_that_was_half_said_when_speech_was_cut_is_decoded_again(piece: int) -> None:
    """Words of a second each, of which the engine writes what is there; speech is softest, and so cut, between them."""

    class Writing(Scripted):
        def recognize(self, samples: Samples, language: str, words: bool = False) -> Segment | None:
            numbers = np.rint(50 * samples - 35)
            found = []
            for number in np.unique(numbers[numbers >= 0]).astype(int):
                (places,) = np.nonzero(numbers == number)
                half = "-" * (len(places) < 0.9 * SECOND * FRAME)
                found.append(Word(f"w{number}{half}", places[0] / SAMPLE_RATE, places[-1] / SAMPLE_RATE))
            return Segment(
                " ".join(word.text for word in found), 0.0, len(samples) / SAMPLE_RATE, language, tuple(found)
            )

    stream = stream_of(Writing(), rules=Endpointing(longest=6.0))
    speech = np.repeat(np.arange(35, 49, dtype=np.float32) / 50, SECOND * FRAME)
    speech.reshape(14, -1)[:, -FRAME:] = 0.6
    for samples in np.split(speech, range(piece * FRAME, len(speech), piece * FRAME)):
        stream.accept(samples)
        stream.partial()
    assert sum(part.cut for part in stream._speech.parts) > 1
    assert stream.final().text.split() == [f"w{number}" for number in range(14)]


def test_of_as_good_places_the_nearest_in_time_is_taken() -> None:
    for end, count in ((1.8, 2), (2.9, 3)):
        assert _matching([*pieces("a"), Piece("b", 1.0, end, True)], pieces("a x b c")) == count


def test_a_part_that_was_cut_leaves_later_words_to_the_next() -> None:
    known = _Agreement(pieces("a b c d")[:3], pieces("a b c d")[3:])
    later = known.split(2.0)
    assert [word.text for word in known.words] == ["a", "b"]
    assert [word.text for word in later.stable] == ["c"] and [word.text for word in later.rest] == ["d"]


def test_a_hypothesis_of_which_nothing_is_stable_comes_after_a_space() -> None:
    timed = [[Word("on", 0.0, 0.3)], [Word("on", 0.0, 0.3)], [Word("activated", 0.0, 2.9), Word("now", 2.9, 3.0)]]
    engine = Scripted()
    engine.recognize = lambda samples, language, words=False: Segment(  # type: ignore[method-assign]
        " ".join(word.text for word in timed[0]), 0, 3, language, tuple(timed.pop(0))
    )
    stream = stream_of(engine)
    for _ in range(3):
        stream.accept(frames(0, 40))
        result = stream.partial()
    assert (result.stable, result.text) == ("on", "on activated now")


def test_text_without_spaces_stays_without() -> None:
    engine = Scripted()
    word = [Word(letter, 0.1 * place, 0.1 * place + 0.1) for place, letter in enumerate("今天很好")]
    engine.recognize = (
        lambda samples, language, words=False: Segment(  # type: ignore[method-assign]
            "今天很好"[: len(samples) // FRAME // 20], 0, 1, "zh", tuple(word[: len(samples) // FRAME // 20])
        )
    )
    stream = stream_of(engine, "zh")
    stream.accept(frames(0, 40))
    stream.partial()
    stream.accept(frames(0, 40))
    result = stream.partial()
    assert (result.stable, result.text) == ("今天", "今天很好") and stream.final().text == "今天很好"


def test_a_whisper_streams_what_it_transcribes(
    hub_folder: Callable[[str], Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asr_pathways.runtime.recognizer.is_silent", lambda _: False)
    recognizer = Recognizer(hub_folder("whisper"), precision="float32")
    assert not recognizer.streams
    noise = (0.9 + 0.1 * np.random.default_rng(0).random(16 * FRAME)).astype(np.float32)
    stream, texts = recognizer.stream("fr"), []
    for language in ("fr", "en"):
        stream.switch(language)
        for piece in np.split(noise, [700, 5_000, 8_000]):
            stream.accept(piece)
        with pytest.raises(PathwaysError, match="a segment has begun: end it by final"):
            stream.switch("fr")
        result = stream.final()
        wanted = recognizer.transcribe(noise, language=language, words=True)
        assert result.text == wanted.text and result.language == stream.language == language
        assert [word.probability for word in result.words] == [word.probability for word in wanted.words]
        texts.append(result.text)
    assert all(texts)
    half = noise[::2]
    streams = [recognizer.stream("en") for _ in range(2)]
    for other in streams:
        other.accept(half, 8_000)
    recognizer.decode(streams)
    assert streams[0].final().text == streams[1].final().text
    for action, line in {
        lambda: recognizer.stream("xx"): "unknown language 'xx': this model knows en de fr",
        lambda: recognizer.stream(): "language: choose one of en de fr",
        lambda: stream.switch("xx"): "unknown language 'xx'",
        lambda: stream.accept(np.zeros(9)): "samples must be a float32 vector",
    }.items():
        with pytest.raises(PathwaysError, match=line):
            action()
