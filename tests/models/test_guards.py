from __future__ import annotations

import subprocess
import sys

import pytest

from asr_pathways.models.guards import compression, is_silence, loop_end, varied

WORDS = [
    "so",
    "the",
    "children",
    "went",
    "down",
    "to",
    "the",
    "river",
    "where",
    "an",
    "old",
    "boat",
    "lay",
    "and",
    "nobody",
    "knew",
    "whose",
    "it",
    "had",
    "been",
]


@pytest.mark.parametrize(
    ("start", "round_", "times", "rest"),
    [
        ([], [5], 24, []),
        ([1, 2, 3], [5], 60, []),
        ([9, 5], [5, 6, 7], 8, [5, 6]),
        (list(range(100, 140)), list(range(20)), 4, []),
        (list(range(100, 140)), list(range(70)), 4, [0, 1]),
        ([7, 7], [5, 5, 6], 9, []),  # a loop that has a repetition in it
    ],
)
def test_a_loop_is_cut_to_its_first_round(start: list[int], round_: list[int], times: int, rest: list[int]) -> None:
    assert loop_end(start + round_ * times + rest) == len(start) + len(round_)


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [1],
        [5] * 23,  # "zero zero zero ..."
        [1, 2, 3] * 7,
        list(range(30)) * 3,  # a chorus
        [5] * 40 + [6],  # over
        [*range(200)],
        [1, 2] * 11 + [3, 4] * 11,
    ],
)
def test_what_people_say_is_no_loop(tokens: list[int]) -> None:
    assert loop_end(tokens) is None


def test_a_loop_is_noticed_as_soon_as_it_is_one() -> None:
    tokens = [50, 51]
    while loop_end(tokens) is None:
        tokens += [5 + len(tokens) % 3]
    assert len(tokens) == 26 and loop_end(tokens) == 5


def test_compression_is_that_of_letters_in_any_script() -> None:
    text = " ".join(WORDS)
    georgian = text.translate({ord("a") + place: chr(0x10D0 + place) for place in range(26)})
    assert compression(georgian) == pytest.approx(compression(text))
    assert 0.9 < compression(text) < 1.6
    assert compression("") == 0.0 and compression("yes") < 1
    assert compression("天" * 10 + "".join(map(chr, range(0x4E00, 0x4F80)))) < 2.4
    assert compression(" ".join(WORDS * 6)) > 2.4


def test_text_that_repeats_itself_with_small_changes_is_cut() -> None:
    tokens = [*range(len(WORDS)), *(token for number in range(60) for token in (100, 101, 102, 200 + number))]
    words = dict(enumerate(WORDS)) | {100: "and", 101: "that", 102: "is"} | {200 + n: str(n) for n in range(60)}

    def text(ids: object) -> str:
        return " ".join(words[token] for token in ids)  # type: ignore[attr-defined]

    assert loop_end(tokens) is None
    keep = varied(tokens, text)
    assert len(WORDS) < keep < len(tokens) // 2
    assert compression(text(tokens[:keep])) <= 2.4
    assert varied(tokens[: len(WORDS)], text) == len(WORDS) and varied([], text) == 0


@pytest.mark.parametrize(
    ("no_speech", "log_probability", "silent"),
    [(0.9, -1.5, True), (0.9, -0.2, False), (0.1, -1.5, False), (0.0, -9.0, False)],
)
def test_silence_needs_both_signs(no_speech: float, log_probability: float, silent: bool) -> None:
    assert is_silence(no_speech, log_probability) is silent


def test_torch_is_not_imported() -> None:
    code = "import sys, asr_pathways.models.guards; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
