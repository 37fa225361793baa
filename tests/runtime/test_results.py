from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.runtime.results import COLUMNS, LONGEST, Captions, Result, Segment, Word


def words(text: str, start: float = 0.0, each: float = 0.4) -> tuple[Word, ...]:
    return tuple(
        Word(word, start + each * place, start + each * (place + 0.9), 0.5) for place, word in enumerate(text.split())
    )


def result(*segments: Segment) -> Result:
    return Result(" ".join(segment.text for segment in segments), "en", segments, 60.0)


def cues(captions: str) -> list[tuple[float, float, list[str]]]:
    """(start, end, lines) of SubRip captions."""
    found = []
    for number, block in enumerate(captions.split("\n\n"), 1):
        index, times, *lines = block.strip().split("\n")
        assert index == str(number)
        match = re.fullmatch(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})", times)
        assert match
        first, last = ([int(part) for part in match.groups()[at : at + 4]] for at in (0, 4))
        start, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (first, last))
        found.append((start, end, lines))
    return found


TWO = result(
    Segment("Hello, world.", 0.5, 1.25, "en", words("Hello, world.", 0.5), 0.01, -0.25),
    Segment("Tom & Jerry <3 --> end", 3723.0, 3725.5, "fr"),
)


def test_subrip() -> None:
    assert TWO.to_srt() == (
        "1\n00:00:00,500 --> 00:00:01,260\nHello, world.\n\n2\n01:02:03,000 --> 01:02:05,500\nTom & Jerry <3 -> end\n"
    )


def test_webvtt() -> None:
    assert TWO.to_vtt() == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.260\nHello, world.\n\n"
        "01:02:03.000 --> 01:02:05.500\nTom &amp; Jerry &lt;3 --&gt; end\n"
    )


def test_nothing_said_makes_no_caption() -> None:
    for empty in (result(), result(Segment("", 0.0, 30.0, "en"), Segment(" \n ", 30.0, 31.0, "en"))):
        assert empty.to_srt() == ""
        assert empty.to_vtt() == "WEBVTT\n"
        assert empty.words == ()
        assert "words" not in empty.to_dict()


def test_json_has_the_names_of_verbose_json() -> None:
    found = json.loads(json.dumps(TWO.to_dict()))
    assert list(found) == ["task", "language", "duration", "text", "segments", "words"]
    assert found["segments"][0] == {
        "id": 0,
        "start": 0.5,
        "end": 1.25,
        "text": "Hello, world.",
        "language": "en",
        "avg_logprob": -0.25,
        "no_speech_prob": 0.01,
    }
    assert found["segments"][1]["no_speech_prob"] is None
    assert found["words"][1] == {"word": "world.", "start": 0.9, "end": 1.26, "probability": 0.5}


def test_numbers_of_numpy_become_json() -> None:
    half = np.float32(0.5)
    segment = Segment("a", half, half, "en", (Word("a", half, half, half),), half, half)
    found = json.loads(json.dumps(Result("a", "en", (segment,), half, {"en": half}).to_dict()))
    assert found["languages"] == {"en": 0.5}
    assert found["words"][0]["probability"] == found["segments"][0]["avg_logprob"] == 0.5


def test_rows_to_train_on_are_of_segments_with_words_and_never_of_a_test() -> None:
    half = np.float32(0.5)
    heard = result(
        Segment("Bonjour !", half, np.float32(1.25), "fr", (), None, np.float32(-0.25)), Segment(" ", 2.0, 3.0, "fr")
    )
    row = {"audio_filepath": "/calls/1.wav", "offset": 0.5, "duration": 0.75, "text": "Bonjour !", "lang": "fr"}
    expected = {**row, "split": "train", "avg_logprob": -0.25}
    assert json.loads(json.dumps(heard.to_manifest(Path("/calls/1.wav")))) == [expected]
    assert heard.to_manifest(Path("/calls/1.wav"), channel=1) == [{**expected, "channel": 1}]


@pytest.mark.parametrize("timed", [True, False])
def test_long_segments_become_several_captions_of_two_lines(timed: bool) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    segment = Segment(text, 10.0, 34.0, "en", words(text, 10.0) if timed else ())
    found = cues(result(segment).to_srt())
    assert len(found) > 3
    assert " ".join(" ".join(lines) for _, _, lines in found) == text
    for start, end, lines in found:
        assert len(lines) <= 2
        assert max(map(len, lines)) <= COLUMNS
        assert end - start <= LONGEST
    assert found[0][0] == 10.0
    assert [start for start, *_ in found] == sorted(start for start, *_ in found)
    assert found[-1][1] == pytest.approx(33.96 if timed else 34.0)


@pytest.mark.parametrize("timed", [True, False])
def test_text_without_spaces_is_cut_at_characters_and_gets_none(timed: bool) -> None:
    text = "今日はいい天気ですね。" * 6
    of_text = tuple(Word(letter, 0.1 * place, 0.1 * place + 0.1, 0.5) for place, letter in enumerate(text))
    found = cues(result(Segment(text, 0.0, 6.6, "ja", of_text if timed else ())).to_srt())
    assert "".join("".join(lines) for _, _, lines in found) == text
    assert 20 <= max(len(line) for *_, lines in found for line in lines) <= COLUMNS // 2


def test_a_sentence_is_not_begun_at_the_end_of_a_caption() -> None:
    text = "This sentence is longer than a single line of it. So this begins anew."
    found = cues(result(Segment(text, 0.0, 5.0, "en", words(text, each=0.1))).to_srt())
    assert [lines[0][:4] for *_, lines in found] == ["This", "So t"]


def test_no_line_begins_with_a_mark_or_a_full_stop() -> None:
    text = "สวัสดีครับผมชื่อ" * 9 + "。"
    found = cues(result(Segment(text, 0.0, 6.0, "th")).to_srt())
    assert len(found) > 1
    assert all(unicodedata.category(line[0])[0] == "L" for *_, lines in found for line in lines)


def test_a_pause_parts_captions() -> None:
    text = "before after"
    first, last = words(text)
    pause = Segment(text, 0.0, 9.0, "en", (first, Word(last.text, 5.0, 5.4, 0.5)))
    assert [(start, end) for start, end, _ in cues(result(pause).to_srt())] == [(0.0, 0.36), (5.0, 5.4)]


def test_words_are_underlined_while_they_are_spoken() -> None:
    text = "One, two <3 four."
    spoken = (Word("One,", 0.0, 0.5), Word("two", 0.5, 0.5), Word("<3", 1.0, 1.25), Word("four.", 1.25, 2.0))
    one = result(Segment(text, 0.0, 2.0, "en", spoken))
    assert one.to_vtt(words=True) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:00.500\n<u>One,</u> two &lt;3 four.\n\n"
        "00:00:00.500 --> 00:00:01.000\nOne, <u>two</u> &lt;3 four.\n\n"
        "00:00:01.000 --> 00:00:01.250\nOne, two <u>&lt;3</u> four.\n\n"
        "00:00:01.250 --> 00:00:02.000\nOne, two &lt;3 <u>four.</u>\n"
    )
    pause = result(Segment("a b", 0.0, 2.0, "en", (Word("a", 0.25, 0.5), Word("b", 1.0, 2.0))))
    shown = cues(pause.to_srt(words=True))
    assert shown == [(0.25, 0.5, ["<u>a</u> b"]), (0.5, 1.0, ["a b"]), (1.0, 2.0, ["a <u>b</u>"])]
    untimed = result(Segment(text, 0.0, 2.0, "en"))
    assert untimed.to_srt(words=True) == untimed.to_srt()


@given(st.lists(st.integers(0, 40), min_size=12, max_size=12))
def test_captions_of_words_are_those_without_and_one_after_another(steps: list[int]) -> None:
    """Whatever the words' times: lengths of 0 and pauses, too."""
    ends = [sum(steps[:place]) / 8 for place in range(len(steps) + 1)]
    spoken = tuple(Word(f"word{place}", *ends[2 * place : 2 * place + 2]) for place in range(6))
    one = result(Segment(" ".join(word.text for word in spoken), 0.0, ends[-1], "en", spoken))
    plain, shown = cues(one.to_srt()), cues(one.to_srt(words=True))
    bare = [(start, end, [re.sub("</?u>", "", line) for line in lines]) for start, end, lines in shown]
    assert list(dict.fromkeys(tuple(lines) for *_, lines in bare)) == [tuple(lines) for *_, lines in plain]
    assert all(start < end for start, end, _ in shown) or any(start == end for start, end, _ in plain)
    assert all(before[1] <= after[0] for before, after in pairwise(shown))
    underlined = re.findall(r"<u>(.*?)</u>", " ".join(" ".join(lines) for *_, lines in shown))
    assert " ".join(underlined) == one.text


@given(st.lists(st.floats(0, 300_000), min_size=2, max_size=2).map(sorted), st.text("ab -<>&\n", min_size=1))
def test_any_segment_makes_well_formed_captions(times: list[float], text: str) -> None:
    one = result(Segment(text, *times, "en"))
    found = cues(one.to_srt()) if text.split() else []
    shown = " ".join(" ".join(lines) for _, _, lines in found)
    assert "-->" not in shown
    assert re.sub("-+>", "->", shown.replace(" ", "")) == re.sub("-+>", "->", "".join(text.split()))
    assert one.to_vtt().count("-->") == len(found)
    for start, end, _ in found:
        assert times[0] - 0.001 <= start <= end <= times[1] + 0.001


@pytest.mark.parametrize(("format", "whole"), [("srt", TWO.to_srt()), ("vtt", TWO.to_vtt())])
def test_captions_of_a_stream_go_on_where_those_before_ended(format: Literal["srt", "vtt"], whole: str) -> None:
    captions = Captions(format)
    assert "".join(captions.after(result(*segments)) for segments in ((), *([one] for one in TWO.segments))) == whole
