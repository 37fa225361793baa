"""Is one system better than another? Rates and paired comparisons, pooled over the seeds of an experiment.

A system is its runs: for each seed and language the errors of each tested utterance. Runs that were tested on the
same utterances share their clusters: an utterance's errors and words are summed over them. Runs on other utterances,
as the folds of a cross-validation are, bring other clusters. Rates are corpus-level for each language, then
the unweighted mean over languages; intervals are those of `evaluation.wer`, which does the resampling: clusters are
drawn within each language, and all systems are drawn alike.

Intervals and p-values say whether a difference would stay with other utterances of the same kind and voices. What
chance does in training is averaged over seeds, not resampled; `Paired.better` shows whether the seeds agree.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

import numpy as np
import numpy.typing as npt

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import (
    REPLICATIONS,
    Interval,
    Rates,
    Utterance,
    character_counts,
    percentiles,
    resampled_sums,
    word_counts,
)

ALPHA, POWER = 0.05, 0.8
FEW = 14
"""With fewer utterances of a language its resamples may all be alike, and a small p of the bootstrap says nothing."""

_QUANTILES = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)


@dataclass(frozen=True)
class UtteranceCounts:
    """The errors of one language's utterances, in order of their ids.

    Attributes:
        utterances: a hash of ids and references: two cells with the same one were tested on the same.
        words: reference words (N,).
        word_errors: substitutions, deletions and insertions (N,).
        characters: reference characters (N,).
        character_errors: likewise (N,).
        loss: of the model, in nats a word piece, over all of them.
    """

    utterances: str
    words: list[int]
    word_errors: list[int]
    characters: list[int]
    character_errors: list[int]
    loss: float

    @classmethod
    def of(cls, utterances: Iterable[Utterance], loss: float) -> UtteranceCounts:
        """Counts the errors of one language's utterances."""
        ordered = sorted(utterances, key=lambda u: u.id)
        known = hashlib.sha256("\n".join(f"{u.id} {u.reference}" for u in ordered).encode()).hexdigest()[:12]
        words = [word_counts(u) for u in ordered]
        characters = [character_counts(u) for u in ordered]
        return cls(
            known,
            [count.reference_length for count in words],
            [count.errors for count in words],
            [count.reference_length for count in characters],
            [count.errors for count in characters],
            loss,
        )


Runs = Mapping[int, Mapping[str, UtteranceCounts]]
"""The errors of one system in the test: {seed: {language: counts}}."""


@dataclass(frozen=True)
class LanguageRate:
    """One language's rates over all seeds; ``words`` are counted once for each seed, ``utterances`` once in all."""

    utterances: int
    words: int
    wer: float
    cer: float
    wer_ci: Interval


@dataclass(frozen=True)
class Pooled:
    """One system over ``seeds``.

    Attributes:
        wer, cer: unweighted means over languages, with 95% intervals.
        loss: nats a word piece, mean over languages and seeds.
        wer_by_seed: mean WER over languages of each seed by itself.
        replicates: resampled mean WER and mean CER (replications, 2).
        shares: {language: the part (N, 2) of each cluster in its WER and CER}.
    """

    seeds: tuple[int, ...]
    languages: dict[str, LanguageRate]
    wer: float
    wer_ci: Interval
    cer: float
    cer_ci: Interval
    loss: float
    wer_by_seed: dict[int, float]
    replicates: Rates = field(repr=False, compare=False)
    shares: dict[str, Rates] = field(repr=False, compare=False)

    @property
    def words(self) -> int:
        return sum(rate.words for rate in self.languages.values())


@dataclass(frozen=True)
class Difference:
    """A mean rate of the first system minus that of the second; ``error`` is the bootstrap's standard error.

    Where there are too few utterances to say, interval and error are infinite.
    """

    points: float
    ci: Interval
    p: float
    error: float

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


@dataclass(frozen=True)
class Paired:
    """Two systems over the seeds that both have; below zero, the first is better.

    Attributes:
        wer, cer: differences of the means over languages.
        relative: the difference in WER as a share of the second's WER; None if that is 0.
        loss: difference of mean losses, in nats a word piece.
        better: in how many of the seeds the first has the lower mean WER.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    wer: Difference
    relative: float | None
    cer: Difference
    loss: float
    better: int


class Bootstrap:
    """Pools and compares systems that were tested on the same utterances.

    Args:
        systems: runs by name; a system may lack seeds that others have.
        replications: how many times utterances are resampled.
        seed: of the draws.
    """

    def __init__(self, systems: Mapping[str, Runs], *, replications: int = REPLICATIONS, seed: int = 0) -> None:
        self._systems = systems
        self._replications = replications
        self._seed = seed
        self._known: dict[tuple[int, ...], dict[str, Pooled]] = {}

    def pooled(self, name: str, seeds: Sequence[int] | None = None) -> Pooled:
        """A system's rates over ``seeds``, which it must have; by default all that it has, and there must be some.

        Raises:
            PathwaysError: if systems were not tested on the same utterances.
        """
        chosen = tuple(self._systems[name] if seeds is None else seeds)
        if chosen not in self._known:
            # All systems that have these seeds at once, since drawing is slow.
            self._known[chosen] = self._pool(chosen)
        return self._known[chosen][name]

    def compare(self, first: str, second: str) -> Paired | None:
        """Is ``first`` better than ``second``? None if they have no seed in common.

        Raises:
            PathwaysError: if they were not tested on the same utterances.
        """
        seeds = tuple(seed for seed in self._systems[first] if seed in self._systems[second])
        if not seeds:
            return None
        a, b = self.pooled(first, seeds), self.pooled(second, seeds)
        resampled = a.replicates - b.replicates
        shares = [a.shares[language] - b.shares[language] for language in a.shares]
        return Paired(
            first,
            second,
            seeds,
            _difference(a.wer - b.wer, resampled[:, 0], [one[:, 0] for one in shares], self._seed),
            (a.wer - b.wer) / b.wer if b.wer else None,
            _difference(a.cer - b.cer, resampled[:, 1], [one[:, 1] for one in shares], self._seed),
            a.loss - b.loss,
            sum(a.wer_by_seed[seed] < b.wer_by_seed[seed] for seed in seeds),
        )

    def _pool(self, seeds: tuple[int, ...]) -> dict[str, Pooled]:
        systems = {name: runs for name, runs in self._systems.items() if all(seed in runs for seed in seeds)}
        languages = list(dict.fromkeys(code for runs in systems.values() for seed in seeds for code in runs[seed]))
        rates: dict[str, dict[str, LanguageRate]] = {name: {} for name in systems}
        replicates: dict[str, list[Rates]] = {name: [] for name in systems}
        shares: dict[str, dict[str, Rates]] = {name: {} for name in systems}
        for language in languages:
            counts = _clusters(systems, seeds, language)
            total = counts.sum(axis=0)
            sums = resampled_sums(counts, language, replications=self._replications, seed=self._seed)
            for place, name in enumerate(systems):
                errors = slice(2 * place + 2, 2 * place + 4)  # the first two columns are words and characters
                wer, cer = total[errors] / total[:2]
                shares[name][language] = counts[:, errors] / total[:2]
                resampled = sums[:, errors] / np.maximum(sums[:, :2], 1)  # a resample may have no words
                interval = percentiles(resampled[:, 0])
                rates[name][language] = LanguageRate(len(counts), int(total[0]), float(wer), float(cer), interval)
                replicates[name].append(resampled)
        return {
            name: _pooled(seeds, rates[name], np.mean(replicates[name], axis=0), shares[name], runs)
            for name, runs in systems.items()
        }


def detectable(words: int, deviation: float) -> float:
    """The smallest true difference in WER, as a fraction, that a paired test at `ALPHA` shows with probability `POWER`.

    ``words`` are the reference words that both systems are tested on, ``deviation`` is the standard deviation of the
    difference in errors a word between the two.
    """
    return _QUANTILES * deviation / math.sqrt(words)


def detectable_by(error: float) -> float:
    """The same, from the standard error of a difference that was measured."""
    return _QUANTILES * error


def _clusters(systems: Mapping[str, Runs], seeds: Sequence[int], language: str) -> npt.NDArray[np.int64]:
    """Counts (N, 2 + 2S) of each cluster: words and characters, then word and character errors of each system."""
    parts: dict[str, npt.NDArray[np.int64]] = {}
    for seed in seeds:
        if absent := [name for name, runs in systems.items() if language not in runs[seed]]:
            raise PathwaysError(f"{absent[0]}, seed {seed}: not tested on {language}")
        by_name = {name: runs[seed][language] for name, runs in systems.items()}
        (one, first), *others = by_name.items()
        for name, other in others:
            if (other.utterances, other.words, other.characters) != (first.utterances, first.words, first.characters):
                raise PathwaysError(f"{one} and {name} were not tested on the same utterances: {language}, seed {seed}")
        if not any(first.words):
            raise PathwaysError(f"{language}, seed {seed}: no utterance has words, so there is no WER")
        columns = [first.words, first.characters]
        for tested in by_name.values():
            columns += [tested.word_errors, tested.character_errors]
        counts = np.array(columns, dtype=np.int64).T
        known = parts.get(first.utterances)
        parts[first.utterances] = counts if known is None else known + counts
    return np.concatenate(list(parts.values()))


def _pooled(
    seeds: tuple[int, ...], rates: dict[str, LanguageRate], replicates: Rates, shares: dict[str, Rates], runs: Runs
) -> Pooled:
    by_seed = {
        seed: fmean(sum(runs[seed][name].word_errors) / sum(runs[seed][name].words) for name in rates) for seed in seeds
    }
    return Pooled(
        seeds,
        rates,
        fmean(rate.wer for rate in rates.values()),
        percentiles(replicates[:, 0]),
        fmean(rate.cer for rate in rates.values()),
        percentiles(replicates[:, 1]),
        fmean(runs[seed][name].loss for name in rates for seed in seeds),
        by_seed,
        replicates,
        shares,
    )


def _difference(points: float, resampled: Rates, shares: Sequence[Rates], seed: int) -> Difference:
    """Of resampled differences, and of the part of each cluster (N,) in that of each language."""
    # Equal systems differ by rounding in the mean only; that is a tie, and ties count for both sides.
    values = np.where(np.abs(resampled) < 1e-12, 0.0, resampled)
    sides = [(1 + int(np.count_nonzero(side))) / (len(values) + 1) for side in (values >= 0, values <= 0)]
    p = min(1.0, 2 * min(sides))
    if p < ALPHA and min(map(len, shares)) < FEW and (exact := _by_signs(np.concatenate(shares), seed)) > p:
        if exact >= ALPHA:
            return Difference(points, (-math.inf, math.inf), exact, math.inf)
        p = exact
    return Difference(points, percentiles(values), p, float(np.std(values, ddof=1)))


def _by_signs(shares: Rates, seed: int) -> float:
    """How often the difference is as large if either system may have been the better one on each cluster (N,).

    It is the exact test of paired samples (Fisher 1935) up to `FEW` clusters; from more, signs are drawn.
    """
    count = len(shares)
    if count < FEW:
        signs = 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1) - 1
        return float(np.mean(np.abs(signs @ shares) >= abs(shares.sum()) - 1e-12))
    generator, found = np.random.default_rng(seed), 1
    for _ in range(REPLICATIONS // 100):
        drawn = 2.0 * generator.integers(2, size=(100, count)) - 1
        found += int(np.count_nonzero(np.abs(drawn @ shares) >= abs(shares.sum()) - 1e-12))
    return found / (REPLICATIONS + 1)
