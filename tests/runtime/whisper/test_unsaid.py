"""Speech that a text leaves out at its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.voice_activity import FRAME
from asr_pathways.runtime.results import Word
from asr_pathways.runtime.whisper import engine as engine_module
from asr_pathways.runtime.whisper import unsaid as module
from asr_pathways.runtime.whisper.engine import WhisperEngine, _Found
from asr_pathways.runtime.whisper.unsaid import LEFT, unsaid
from tests.runtime.test_speech_parts import frames
from tests.runtime.whisper.test_search import cache_folder, engine_of, folder, sound  # noqa: F401


@pytest.fixture(autouse=True)
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loud frames are speech."""

    def probabilities(samples: Samples) -> np.ndarray:
        return np.abs(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)).max(axis=1)

    monkeypatch.setattr(module, "speech_probabilities", probabilities)


SECOND = SAMPLE_RATE / FRAME  # frames


@pytest.mark.parametrize("late", [-6, 0, 6])
def test_what_is_left_begins_in_the_pause_after_the_last_word(late: int) -> None:
    """However badly the word's end is known, by some frames."""
    recording = frames(3, 97, 8, 150)
    place = unsaid(recording, (104 + late) / SECOND)
    assert place is not None and 100 * FRAME <= place <= 108 * FRAME


def test_speech_without_a_pause_is_cut_at_the_last_word() -> None:
    place = unsaid(frames(0, 250), 100 / SECOND)
    assert place is not None and abs(place - 100 * FRAME) <= 10 * FRAME


@pytest.mark.parametrize(
    ("recording", "end"),
    [
        (frames(3, 97, 150), 100 / SECOND),  # silence
        (frames(3, 97, 100, 20, 30), 100 / SECOND),  # a short word or a noise
        (frames(3, 97), 99 / SECOND),  # nothing
        (frames(3, 97), 100 / SECOND - 0.9 * LEFT),  # too little for the times of words
        (frames(0, 250), 0.9 * LEFT),
    ],
)
def test_otherwise_nothing_is_left(recording: Samples, end: float) -> None:
    assert unsaid(recording, end) is None


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> WhisperEngine:  # noqa: F811
    """Of a window of 1.2 s, where 0.5 s are long."""
    monkeypatch.setattr(engine_module, "LONG", 0.5)
    return engine_of(folder, 1)[0]


def test_what_is_left_is_recognised_by_itself(engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words have the times of the recording, and the text is the same whether words are timed or not."""
    guarded = engine._guarded
    monkeypatch.setattr(engine, "_guarded", lambda *arguments: replace(guarded(*arguments)))  # as if it had ended
    samples, places = sound(3), [6_000, 4_000]
    parts = [samples, samples[6_000:], samples[10_000:]]  # the last is not long, and so the end
    monkeypatch.setattr(engine_module, "LEAST_LOG_PROBABILITY", -100.0)  # of random weights nothing is sure
    monkeypatch.setattr(engine_module, "unsaid", lambda *_: None)
    alone = [engine.recognize(part, "fr", words=True) for part in parts]
    asked: list[tuple[int, float]] = []

    def scripted(rest: Samples, end: float) -> int:
        asked.append((len(rest), end))
        return places[len(asked) - 1]

    monkeypatch.setattr(engine_module, "unsaid", scripted)
    found = engine.recognize(samples, "fr", words=True)
    assert found is not None and all(alone)
    assert found.text == " ".join(one.text for one in alone if one) and (found.start, found.end) == (0.0, 1.0)
    wanted = [(word, begin) for one, begin in zip(alone, (0.0, 0.375, 0.625), strict=True) if one for word in one.words]
    assert [word.text for word in found.words] == [word.text for word, _ in wanted]
    assert [word.start for word in found.words] == pytest.approx([word.start + by for word, by in wanted], abs=0.011)
    assert asked == [
        (len(part), pytest.approx(one.words[-1].end, abs=0.011))
        for part, one in zip(parts[:2], alone, strict=False)
        if one
    ]
    probabilities = [one.log_probability for one in alone if one and one.log_probability is not None]
    assert found.log_probability is not None and min(probabilities) <= found.log_probability <= max(probabilities)
    asked.clear()
    untimed = engine.recognize(samples, "fr")
    assert untimed is not None and untimed.text == found.text and untimed.words == ()


def test_a_text_without_room_for_its_end_goes_on_from_its_last_word(
    engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be cut, and is recognised again."""
    monkeypatch.setattr(module, "LEFT", 0.1)
    rests: list[int] = []

    def find(network: object, samples: Samples, language: str, begin: float, words: bool) -> _Found:
        rests.append(len(samples))
        if begin:
            return _Found(
                "three four", (Word("three", begin, begin + 0.2), Word("four", begin + 0.2, 1.0)), [-0.1], None, False
            )
        return _Found(
            "one two thr", (Word("one", 0.0, 0.2), Word("two", 0.2, 0.4), Word("thr", 0.4, 1.0)), [-0.2], None, True
        )

    monkeypatch.setattr(engine, "_find", find)
    found = engine.recognize(frames(0, 12, 2, 26)[:16_000], "fr", words=True)
    assert found is not None and found.text == "one two three four"
    assert [word.text for word in found.words] == found.text.split() and found.log_probability == pytest.approx(-0.15)
    assert rests == [16_000, 16_000 - 13 * FRAME]


def test_what_the_model_is_not_sure_of_has_no_rest(engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noise it would be as little worth."""
    monkeypatch.setattr(engine_module, "unsaid", lambda *_: None)
    alone = engine.recognize(sound(3), "fr")
    monkeypatch.setattr(engine_module, "unsaid", lambda *_: 6_000)
    assert alone is not None and alone.log_probability is not None and alone.log_probability < -1
    assert engine.recognize(sound(3), "fr") == alone
