from __future__ import annotations

import functools
import json
import random

import jiwer
import kaldialign
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import ErrorCounts, Scores, Utterance, align, resampled_sums, score, without_words

words = st.lists(st.sampled_from(["a", "bb", "c", "à", "é'e"]), max_size=7)
sentences = words.map(" ".join)
spoken = words.filter(bool).map(" ".join)


def brute_force_distance(left: str | list[str], right: str | list[str]) -> int:
    """Levenshtein distance straight from its definition."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        same = left[i - 1] == right[j - 1]
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (not same))

    return distance(len(left), len(right))


def corpus(language: str, size: int, error_rate: float, seed: int) -> list[Utterance]:
    """The references depend on language and size only; each word is wrong with probability ``error_rate``."""
    texts, noise = random.Random(f"{language}{size}"), random.Random(seed)
    utterances = []
    for index in range(size):
        reference = [texts.choice("abcdefgh") for _ in range(texts.randint(1, 9))]
        hypothesis = ["x" if noise.random() < error_rate else word for word in reference]
        utterances.append(Utterance(f"{language}-{index:03}", language, " ".join(reference), " ".join(hypothesis)))
    return utterances


@given(spoken, sentences)
def test_counts_equal_brute_force(reference: str, hypothesis: str) -> None:
    entry = score([Utterance("u", "en", reference, hypothesis)], replications=2).languages[0]
    assert entry.wer.errors == brute_force_distance(reference.split(), hypothesis.split())
    assert entry.cer.errors == brute_force_distance(reference, hypothesis)
    assert entry.words == len(reference.split())
    assert entry.cer.reference_length == len(reference)


@given(st.lists(st.tuples(spoken, sentences), min_size=1, max_size=5))
def test_rates_equal_jiwer_and_kaldialign_over_a_corpus(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    scores = score([Utterance(str(i), "en", *pair) for i, pair in enumerate(pairs)], replications=2)
    assert scores.mean_wer == pytest.approx(jiwer.wer(references, hypotheses))
    assert scores.mean_cer == pytest.approx(jiwer.cer(references, hypotheses))
    expected = kaldialign.batch_error_rate([r.split() for r in references], [h.split() for h in hypotheses])
    assert scores.mean_wer == pytest.approx(expected["err_rate"])


@given(sentences, sentences)
def test_alignment_is_minimal_and_spells_out_both_sides(reference: str, hypothesis: str) -> None:
    edits = align(reference, hypothesis)
    assert [e.reference for e in edits if e.reference is not None] == reference.split()
    assert [e.hypothesis for e in edits if e.hypothesis is not None] == hypothesis.split()
    for edit in edits:
        assert (edit.kind == "equal") == (edit.reference == edit.hypothesis)
        assert (edit.kind == "insert") == (edit.reference is None)
        assert (edit.kind == "delete") == (edit.hypothesis is None)
    wrong = sum(edit.kind != "equal" for edit in edits)
    assert wrong == brute_force_distance(reference.split(), hypothesis.split())


def test_white_space_does_not_count() -> None:
    scores = score([Utterance("u", "en", " one  two ", "one two")], replications=2)
    assert (scores.mean_wer, scores.mean_cer) == (0.0, 0.0)


def test_corpus_level_per_language_then_unweighted_mean() -> None:
    utterances = [
        Utterance("1", "fr", "un deux trois", "un deux trois"),
        Utterance("2", "fr", "quatre", "cinq six"),
        Utterance("3", "en", "one two", "two"),
    ]
    scores = score(utterances)
    french = scores.language("fr")
    assert [entry.language for entry in scores.languages] == ["fr", "en"]
    assert (french.wer.substitutions, french.wer.deletions, french.wer.insertions) == (1, 0, 1)
    assert (french.utterances, french.words, french.wer.rate) == (2, 4, 0.5)
    assert scores.language("en").wer.deletions == 1
    assert scores.mean_wer == 0.5
    with pytest.raises(PathwaysError, match="'ru'; there are: fr en"):
        scores.language("ru")


def test_rate_above_one_when_insertions_outnumber_words() -> None:
    assert score([Utterance("u", "en", "a", "b c d")]).mean_wer == 3.0


def test_interval_agrees_with_kaldialign() -> None:
    utterances = corpus("en", 150, 0.3, seed=1)
    low, high = score(utterances).languages[0].wer_ci
    oracle = kaldialign.bootstrap_wer_ci(
        [u.reference.split() for u in utterances], [u.hypothesis.split() for u in utterances]
    )
    assert low == pytest.approx(oracle["ci95min"], abs=0.006)
    assert high == pytest.approx(oracle["ci95max"], abs=0.006)


def test_mean_interval_is_narrower_than_each_language() -> None:
    scores = score([u for lang in ("en", "fr", "it", "ru") for u in corpus(lang, 80, 0.3, seed=2)])
    low, high = scores.mean_wer_ci
    assert low < scores.mean_wer < high
    assert high - low < min(entry.wer_ci[1] - entry.wer_ci[0] for entry in scores.languages)


def test_deterministic_and_independent_of_order_and_of_other_languages() -> None:
    english, french = corpus("en", 60, 0.3, seed=3), corpus("fr", 40, 0.3, seed=3)
    scores = score(english + french)
    assert score(english + french) == scores
    shuffled = random.Random(0).sample(english, len(english))
    assert score(shuffled).languages[0] == scores.language("en")
    assert score(english, seed=1).languages[0].wer_ci != scores.language("en").wer_ci


def test_one_utterance_gives_a_point_interval() -> None:
    assert score([Utterance("u", "en", "a b", "a")]).languages[0].wer_ci == (0.5, 0.5)


def test_words_where_the_reference_has_none_are_insertions() -> None:
    utterances = [
        Utterance("fine", "it", "uno", "uno"),
        Utterance("quiet", "it", "  ", "uno due"),
        Utterance("a", "en", "a", "a"),
    ]
    scores = score(utterances)
    assert scores.language("it").wer == ErrorCounts(0, 0, 2, 1) and scores.language("it").cer.insertions == 7
    assert without_words(utterances) == {"it": 1}
    assert all(0 <= value <= 4 for value in scores.language("it").wer_ci)
    assert [edit.kind for edit in align("", "uno due")] == ["insert", "insert"]


def test_a_language_without_any_word_in_its_references_is_refused() -> None:
    with pytest.raises(PathwaysError, match="it: none of its references has words"):
        score([Utterance("a", "en", "a", "a"), Utterance("quiet", "it", "  ", "uno")])


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(PathwaysError, match="no utterances"):
        score([])


def test_json_round_trip() -> None:
    scores = score(corpus("en", 20, 0.3, seed=4) + corpus("ru", 20, 0.5, seed=4))
    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores


@pytest.mark.parametrize("data", [{}, {"languages": {}}, {"languages": [], "mean": {}}, [], {"languages": {"en": 1}}])
def test_foreign_json_is_refused(data: object) -> None:
    with pytest.raises(PathwaysError, match="not a table of scores"):
        Scores.from_dict(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 300_000])
def test_resampled_sums_are_those_of_the_rows_drawn(size: int) -> None:
    """Whether draws fit into memory at once or not; columns do not change them."""
    counts = np.random.default_rng(0).integers(0, 9, (size, 3))
    replications = 8 if size > 1000 else 50
    found = resampled_sums(counts, "fr", replications=replications, seed=2)
    generator = np.random.default_rng([2, *b"fr"])
    expected = [counts[generator.integers(size, size=size)].sum(axis=0) for _ in range(replications)]
    assert np.array_equal(found, expected)
    assert np.array_equal(resampled_sums(counts[:, 1:], "fr", replications=replications, seed=2), found[:, 1:])
