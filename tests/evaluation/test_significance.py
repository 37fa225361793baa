from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import kaldialign
import numpy as np
import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation import wer
from asr_pathways.evaluation.significance import Bootstrap, Runs, UtteranceCounts, detectable, detectable_by
from asr_pathways.evaluation.wer import Utterance
from tests.experiment.example import counts


def made(digest: str, words: list[int], errors: list[int], loss: float = 1.0) -> UtteranceCounts:
    return UtteranceCounts(digest, words, errors, [4 * count for count in words], [2 * count for count in errors], loss)


def run(name: str, rate: float, fold: int = 0, utterances: int = 40) -> dict[str, UtteranceCounts]:
    return {language: counts(language, fold, rate, name, utterances) for language in ("en", "fr")}


def test_equals_every_resample_enumerated() -> None:
    words = {"en": [1, 2, 4], "fr": [3, 1]}
    errors = {"a": {"en": [1, 0, 2], "fr": [1, 1]}, "b": {"en": [1, 2, 1], "fr": [2, 0]}}
    systems = {name: {7: {x: made(x, words[x], own[x]) for x in words}} for name, own in errors.items()}
    pair = Bootstrap(systems, replications=40_000).compare("a", "b")
    assert pair is not None

    differences = []
    for en in itertools.product(range(3), repeat=3):
        for fr in itertools.product(range(2), repeat=2):
            means = []
            for name in ("a", "b"):
                rates = [
                    sum(errors[name][x][i] for i in drawn) / sum(words[x][i] for i in drawn)
                    for x, drawn in (("en", en), ("fr", fr))
                ]
                means.append(sum(rates) / 2)
            differences.append(means[0] - means[1])
    exact = np.round(differences, 12)
    assert pair.wer.points == pytest.approx((3 / 7 + 2 / 4 - 4 / 7 - 2 / 4) / 2)
    assert pair.wer.error == pytest.approx(exact.std(), rel=0.02)
    assert pair.wer.p == pytest.approx(min(1, 2 * min((exact >= 0).mean(), (exact <= 0).mean())), abs=0.01)
    assert pair.wer.ci == pytest.approx(np.quantile(exact, [0.025, 0.975]), abs=0.02)


def test_equals_a_plain_reimplementation_over_folds_and_shared_tests() -> None:
    """Seeds 0 and 1 are tested on the same utterances, seed 2 on others."""
    folds = {0: 0, 1: 0, 2: 1}
    systems = {
        name: {seed: run(f"{name}{seed}", rate, fold) for seed, fold in folds.items()}
        for name, rate in (("a", 0.2), ("b", 0.3))
    }
    replications, seed = 40, 3
    found = Bootstrap(systems, replications=replications, seed=seed)
    means: dict[str, list[float]] = {}
    points = {}
    for name, runs in systems.items():
        rates, corpus = [], []
        for language in ("en", "fr"):
            shared = [
                (x.words[i], runs[0][language].word_errors[i] + runs[1][language].word_errors[i])
                for x in [runs[0][language]]
                for i in range(len(x.words))
            ]
            clusters = [(2 * length, wrong) for length, wrong in shared]
            clusters += list(zip(runs[2][language].words, runs[2][language].word_errors, strict=True))
            generator = np.random.default_rng([seed, *language.encode()])
            draws = generator.integers(len(clusters), size=(replications, len(clusters)))
            rates.append([sum(clusters[i][1] for i in d) / sum(clusters[i][0] for i in d) for d in draws])
            corpus.append(sum(wrong for _, wrong in clusters) / sum(length for length, _ in clusters))
            assert found.pooled(name).languages[language].utterances == len(clusters) == 80
            assert found.pooled(name).languages[language].words == sum(length for length, _ in clusters)
        means[name] = np.mean(rates, axis=0).tolist()
        points[name] = sum(corpus) / 2
        assert found.pooled(name).wer == pytest.approx(points[name])
        assert found.pooled(name).wer_ci == pytest.approx(np.quantile(means[name], [0.025, 0.975]))
    pair = found.compare("a", "b")
    assert pair is not None and pair.seeds == (0, 1, 2)
    differences = np.subtract(means["a"], means["b"])
    tails = [(1 + (differences >= 0).sum()) / (replications + 1), (1 + (differences <= 0).sum()) / (replications + 1)]
    assert pair.wer.p == pytest.approx(min(1, 2 * min(tails)))
    assert pair.wer.error == pytest.approx(differences.std(ddof=1))
    assert pair.relative == pytest.approx((points["a"] - points["b"]) / points["b"])


def evaluated(rates: Sequence[float]) -> list[list[Utterance]]:
    """The same utterances of two languages by systems that get each word wrong with a probability."""
    texts, noise = random.Random(0), random.Random(1)
    spoken = [
        (language, f"{language}-{index:02}", [texts.choice("abcdefgh") for _ in range(texts.randint(1, 8))])
        for language in ("en", "fr")
        for index in range(30)
    ]
    return [
        [
            Utterance(name, language, " ".join(words), " ".join("x" if noise.random() < rate else w for w in words))
            for language, name, words in spoken
        ]
        for rate in rates
    ]


def runs_of(system: Sequence[Utterance]) -> Runs:
    return {5: {x: UtteranceCounts.of([u for u in system if u.language == x], 1.0) for x in ("en", "fr")}}


def test_agrees_with_the_scores_of_an_evaluation() -> None:
    (system,) = evaluated([0.2])
    scores, pooled = (
        wer.score(system, replications=500),
        Bootstrap({"a": runs_of(system)}, replications=500).pooled("a"),
    )
    assert [pooled.wer, pooled.cer, *pooled.wer_ci] == pytest.approx(
        [scores.mean_wer, scores.mean_cer, *scores.mean_wer_ci]
    )
    for entry in scores.languages:
        rate = pooled.languages[entry.language]
        assert (rate.words, rate.utterances) == (entry.words, entry.utterances)
        assert [rate.wer, rate.cer, *rate.wer_ci] == pytest.approx([entry.wer.rate, entry.cer.rate, *entry.wer_ci])


def test_p_agrees_with_kaldialign() -> None:
    """Its probability that a system is better is one tail of ours, for one language."""
    a, b = ([u for u in system if u.language == "en"] for system in evaluated([0.30, 0.34]))
    references = [u.reference.split() for u in a]
    oracle = kaldialign.bootstrap_wer_ci(
        references, [u.hypothesis.split() for u in b], [u.hypothesis.split() for u in a]
    )
    pair = Bootstrap(
        {name: {0: {"en": UtteranceCounts.of(system, 1.0)}} for name, system in (("a", a), ("b", b))}
    ).compare("a", "b")
    better = oracle["p_s2_improv_over_s1"]
    assert pair is not None and 0.02 < better < 0.98
    assert pair.wer.p == pytest.approx(2 * min(better, 1 - better), abs=0.06)


def test_pairing_is_tighter_than_independent_resampling() -> None:
    (a,) = evaluated([0.3])
    b = [replace(u, hypothesis=u.hypothesis + " x" * (index % 20 == 0)) for index, u in enumerate(a)]
    bootstrap = Bootstrap({"a": runs_of(a), "b": runs_of(b)}, replications=500)
    pair, alone = bootstrap.compare("a", "b"), bootstrap.pooled("a").wer_ci
    assert pair is not None and pair.wer.ci[1] - pair.wer.ci[0] < (alone[1] - alone[0]) / 2


def test_a_true_difference_is_found_and_none_is_not() -> None:
    systems = {
        name: {seed: run(f"{name}{seed}", rate, utterances=400) for seed in range(3)}
        for name, rate in (("good", 0.20), ("bad", 0.25), ("as bad", 0.25))
    }
    found = Bootstrap(systems, replications=2000)
    pair, alike, itself = found.compare("good", "bad"), found.compare("as bad", "bad"), found.compare("bad", "bad")
    assert pair is not None and alike is not None and itself is not None
    assert pair.wer.ci[0] < -0.05 < pair.wer.ci[1] < 0 and pair.wer.p < 0.01 and pair.wer.significant
    assert pair.cer.significant and pair.better == 3 and pair.loss == pytest.approx(-0.05)
    assert alike.wer.ci[0] < 0 < alike.wer.ci[1] and not alike.wer.significant
    assert (itself.wer.points, itself.wer.p, itself.wer.ci, itself.better) == (0, 1.0, (0, 0), 0)


def test_chance_alone_is_called_significant_as_often_as_the_level_says() -> None:
    trials = 150
    systems = {f"{name}{i}": {0: run(f"{name}{i}", 0.3)} for i in range(trials) for name in "ab"}
    found = Bootstrap(systems, replications=400)
    pairs = [found.compare(f"a{i}", f"b{i}") for i in range(trials)]
    wrong = sum(pair is not None and pair.wer.significant for pair in pairs)
    assert 0.01 < wrong / trials < 0.11


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    error = 0.5 / 5800**0.5
    assert detectable(5800, 0.5) == pytest.approx(2.8016 * error, rel=1e-4)
    assert detectable(5800, 0.5) == pytest.approx(detectable_by(error))
    threshold = NormalDist(0, error).inv_cdf(1 - 0.05 / 2)
    assert 1 - NormalDist(detectable(5800, 0.5), error).cdf(threshold) == pytest.approx(0.8)


@pytest.mark.parametrize(("count", "p"), [(1, 1.0), (2, 0.5), (5, 2 / 2**5), (6, 2 / 2**6), (13, 2 / 2**13)])
def test_few_utterances_show_no_more_than_signs_can(count: int, p: float) -> None:
    """Resamples of utterances that differ alike are all the same: p would be the smallest there is."""
    systems = {name: {0: {"en": made("x", [10] * count, [errors] * count)}} for name, errors in (("a", 1), ("b", 2))}
    pair = Bootstrap(systems).compare("a", "b")
    assert pair is not None and pair.wer.points == pytest.approx(-0.1)
    assert pair.wer.p == pytest.approx(max(p, 2 / 10_001)) and pair.wer.significant == (count > 5)
    assert np.isinf([*pair.wer.ci, pair.wer.error]).all() == (count <= 5)


def test_a_language_of_one_utterance_decides_nothing() -> None:
    many = made("x", [10] * 40, [2] * 40)
    systems = {"a": {0: {"en": many, "fr": made("y", [10], [1])}}, "b": {0: {"en": many, "fr": made("y", [10], [9])}}}
    pair = Bootstrap(systems, replications=500).compare("a", "b")
    assert pair is not None and pair.wer.points == pytest.approx(-0.4) and pair.wer.p == 1.0


def test_only_seeds_of_both_are_compared() -> None:
    systems = {"a": {0: run("a0", 0.2), 1: run("a1", 0.2)}, "b": {1: run("b1", 0.4)}, "c": {2: run("c2", 0.4)}}
    found = Bootstrap(systems, replications=100)
    pair = found.compare("a", "b")
    assert pair is not None and pair.seeds == (1,)
    a, b = found.pooled("a", (1,)), found.pooled("b")
    assert pair.wer.points == pytest.approx(a.wer - b.wer) and a.wer == found.pooled("a").wer_by_seed[1]
    assert found.pooled("a").seeds == (0, 1)
    assert found.compare("a", "c") is None


def test_nothing_to_be_relative_to() -> None:
    pair = Bootstrap({"a": {0: run("a", 0.2)}, "b": {0: run("b", 0.0)}}, replications=20).compare("a", "b")
    assert pair is not None and pair.relative is None


def test_other_utterances_are_not_compared() -> None:
    one = {"en": made("x", [1, 2], [0, 1])}
    for other, message in (
        ({"en": made("y", [1, 2], [0, 1])}, "a and b were not tested on the same utterances: en, seed 4"),
        ({"en": made("x", [2, 2], [0, 1])}, "not tested on the same utterances"),
        ({"fr": made("x", [1, 2], [0, 1])}, "b, seed 4: not tested on en"),
        ({**one, "fr": made("x", [1, 2], [0, 1])}, "a, seed 4: not tested on fr"),
    ):
        with pytest.raises(PathwaysError, match=message):
            Bootstrap({"a": {4: one}, "b": {4: other}}, replications=5).compare("a", "b")
    for none in (made("x", [], []), made("x", [0, 0], [1, 1])):
        with pytest.raises(PathwaysError, match="en, seed 4: no utterance has words, so there is no WER"):
            Bootstrap({"a": {4: {"en": none}}}, replications=5).pooled("a")


def test_what_is_written_where_nothing_was_said_counts() -> None:
    """As in `score`: else one such utterance would leave an experiment without its report."""
    pooled = Bootstrap({"a": {4: {"en": made("x", [0, 4], [2, 1])}}}, replications=50).pooled("a")
    assert pooled.wer == 0.75 and pooled.wer_ci[0] == 0.25
