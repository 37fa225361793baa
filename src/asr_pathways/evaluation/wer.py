"""Word and character error rates with bootstrap confidence intervals, per language and over languages.

Conventions: corpus-level rates (all errors over all reference words) per language, then the unweighted mean
over languages. Texts are scored as they are, split at white space; normalising them is the data package's work.
CER counts Unicode code points, the single spaces between words included, as jiwer does. Rates are fractions:
0.25 is 25%, and insertions can make a rate exceed 1.

Intervals are 95% percentile intervals of the bootstrap of Bisani & Ney, "Bootstrap estimates for confidence
intervals in ASR performance evaluation" (ICASSP 2004): whole utterances are resampled within each language,
and the mean over languages is taken within each replicate. A language's draws depend on the seed, its name
and its number of utterances only, so two systems scored on the same utterances are resampled alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Literal

import jiwer
import numpy as np
import numpy.typing as npt

from asr_pathways.data.languages import plain_language
from asr_pathways.data.normalize import UNSPACED
from asr_pathways.errors import PathwaysError

REPLICATIONS = 10_000

Interval = tuple[float, float]
Rates = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Utterance:
    """Reference and hypothesis, both normalised."""

    id: str
    language: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Edit:
    """One step of an alignment; ``reference`` is None in an insertion, ``hypothesis`` in a deletion."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True)
class ErrorCounts:
    """Edits of a minimal alignment, and the number of reference words (or characters)."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        return self.errors / self.reference_length


@dataclass(frozen=True)
class LanguageScore:
    """One language's corpus-level counts; ``wer_ci`` is the 95% interval of its WER."""

    language: str
    utterances: int
    wer: ErrorCounts
    cer: ErrorCounts
    wer_ci: Interval

    @property
    def words(self) -> int:
        return self.wer.reference_length


@dataclass(frozen=True)
class Scores:
    """Scores by language in order of first appearance, and their unweighted means over languages."""

    languages: list[LanguageScore]
    mean_wer: float
    mean_cer: float
    mean_wer_ci: Interval

    def language(self, language: str) -> LanguageScore:
        """The score of one language.

        Raises:
            PathwaysError: if the language was not scored.
        """
        scores = {score.language: score for score in self.languages}
        if language not in scores:
            raise PathwaysError(f"no score for language {language!r}; there are: {' '.join(scores)}")
        return scores[language]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the derived rates and word counts are written too, for readers."""
        return {
            "mean": {"wer": self.mean_wer, "wer_ci": list(self.mean_wer_ci), "cer": self.mean_cer},
            "languages": {
                score.language: {
                    "utterances": score.utterances,
                    "words": score.words,
                    "wer": {"rate": score.wer.rate, "ci": list(score.wer_ci), **asdict(score.wer)},
                    "cer": {"rate": score.cer.rate, **asdict(score.cer)},
                }
                for score in self.languages
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`.

        Raises:
            PathwaysError: if ``data`` was not made by `to_dict`.
        """
        try:
            languages = [
                LanguageScore(
                    language=language,
                    utterances=entry["utterances"],
                    wer=ErrorCounts(*(int(entry["wer"][field.name]) for field in fields(ErrorCounts))),
                    cer=ErrorCounts(*(int(entry["cer"][field.name]) for field in fields(ErrorCounts))),
                    wer_ci=_interval(entry["wer"]["ci"]),
                )
                for language, entry in data["languages"].items()
            ]
            mean = data["mean"]
            return cls(languages, float(mean["wer"]), float(mean["cer"]), _interval(mean["wer_ci"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PathwaysError(f"not a table of scores: {type(error).__name__} at {error}") from None


def score(utterances: Iterable[Utterance], *, replications: int = REPLICATIONS, seed: int = 0) -> Scores:
    """Corpus-level scores of every language in ``utterances``, and their means.

    Raises:
        PathwaysError: if there are no utterances, or no reference of a language has words.
    """
    groups = _by_language(utterances)
    languages, resampled = [], []
    for language, group in groups.items():
        words = [word_counts(utterance) for utterance in group]
        characters = _total(character_counts(utterance) for utterance in group)
        counts = np.array([(count.errors, count.reference_length) for count in words], dtype=np.int64)
        sums = resampled_sums(counts, language, replications=replications, seed=seed)
        rates = sums[:, 0] / np.maximum(sums[:, 1], 1)  # a resample may have no words
        languages.append(LanguageScore(language, len(group), _total(words), characters, percentiles(rates)))
        resampled.append(rates)
    return Scores(
        languages=languages,
        mean_wer=float(np.mean([entry.wer.rate for entry in languages])),
        mean_cer=float(np.mean([entry.cer.rate for entry in languages])),
        mean_wer_ci=percentiles(np.mean(resampled, axis=0)),
    )


def require_words(references: Iterable[tuple[str, str]]) -> None:
    """Raises PathwaysError if a language has (language, reference) pairs, and none of them has words."""
    words: dict[str, bool] = {}
    for language, reference in references:
        words[language] = words.get(language, False) or bool(reference.split())
    for language, some in words.items():
        if not some:
            raise PathwaysError(f"{language}: none of its references has words once normalised: no error rate")


def without_words(utterances: Iterable[Utterance]) -> dict[str, int]:
    """How many references of each language have no words; languages without any such are left out."""
    counts: dict[str, int] = {}
    for utterance in utterances:
        if not utterance.reference.split():
            counts[utterance.language] = counts.get(utterance.language, 0) + 1
    return counts


def align(reference: str, hypothesis: str) -> list[Edit]:
    """A minimal word alignment, in order; both texts are split at white space."""
    words, guess = reference.split(), hypothesis.split()
    edits = []
    for chunk in jiwer.process_words(" ".join(words), " ".join(guess)).alignments[0]:
        left: list[str | None] = list(words[chunk.ref_start_idx : chunk.ref_end_idx])
        right: list[str | None] = list(guess[chunk.hyp_start_idx : chunk.hyp_end_idx])
        length = max(len(left), len(right))
        left += [None] * (length - len(left))
        right += [None] * (length - len(right))
        edits += [Edit(chunk.type, r, h) for r, h in zip(left, right, strict=True)]
    return edits


def _by_language(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances of each language sorted by id, so that their order does not change the draws."""
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.language, []).append(utterance)
    if not groups:
        raise PathwaysError("no utterances to score; check the split and the languages that were asked for")
    require_words((utterance.language, utterance.reference) for group in groups.values() for utterance in group)
    return {language: sorted(group, key=lambda u: u.id) for language, group in groups.items()}


def word_counts(utterance: Utterance) -> ErrorCounts:
    reference = " ".join(utterance.reference.split())
    output = jiwer.process_words(reference, " ".join(utterance.hypothesis.split()))
    length = output.hits + output.substitutions + output.deletions
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, length)


def character_counts(utterance: Utterance) -> ErrorCounts:
    """Spaces between words count as characters, in languages that have them."""
    space = "" if plain_language(utterance.language) in UNSPACED else " "
    reference = space.join(utterance.reference.split())
    output = jiwer.process_characters(reference, space.join(utterance.hypothesis.split()))
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, len(reference))


def _total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(*map(sum, zip(*map(astuple, counts), strict=True)))


def resampled_sums(counts: npt.NDArray[np.int64], language: str, *, replications: int, seed: int) -> Rates:
    """Column sums (replications, C) of resampled rows of ``counts`` (N, C).

    The draws depend on ``language``, ``seed`` and N alone, so columns of several systems are resampled alike, in one
    call or in several. Sums of whole numbers are exact.
    """
    generator = np.random.default_rng([seed, *language.encode()])
    size = len(counts)
    rows = max(1, 2_000_000 // size)  # bounds memory
    sums = []
    for start in range(0, replications, rows):
        number = min(rows, replications - start)
        draws = generator.integers(size, size=(number, size)) + size * np.arange(number)[:, None]
        times = np.bincount(draws.ravel(), minlength=number * size).reshape(number, size)
        sums.append(times.astype(np.float64) @ counts.astype(np.float64))  # in floats, for speed: still exact
    return np.concatenate(sums)


def percentiles(values: Rates) -> Interval:
    """The 95% percentile interval of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _interval(data: Sequence[float]) -> Interval:
    low, high = data
    return float(low), float(high)
