from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asr_pathways.data.sampling import Draw, LanguageSampler, SamplingConfig
from asr_pathways.errors import PathwaysError

DURATIONS = {
    "en": np.random.default_rng(0).uniform(0.5, 12, 90).tolist(),
    "fr": np.random.default_rng(1).uniform(0.5, 12, 30).tolist(),
}
CONFIG = SamplingConfig(max_seconds=30)


def draws(sampler: LanguageSampler, count: int) -> list[Draw]:
    return [draw for _ in range(count) for draw in sampler.next()]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 5))
def test_resume_continues_exactly(before: int, after: int, seed: int) -> None:
    config = SamplingConfig(max_seconds=30, seed=seed)
    sampler = LanguageSampler(DURATIONS, config)
    draws(sampler, before)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = draws(sampler, after)
    resumed = LanguageSampler(DURATIONS, config)
    resumed.load_state_dict(state)
    assert draws(resumed, after) == expected


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["en", "fr", "ru"]), st.lists(st.floats(0.1, 40), min_size=1, max_size=40), min_size=1
    ),
    st.floats(5, 60),
)
def test_batches_fit_and_an_epoch_has_each_utterance_once(durations: dict[str, list[float]], most: float) -> None:
    sampler = LanguageSampler(durations, SamplingConfig(max_seconds=most, speed_factors=(0.9, 1.1)))
    seen: dict[tuple[str, int], Counter[int]] = {}
    for draw in draws(sampler, 150):
        seconds = [durations[draw.language][index] / speed for index, speed in draw.items]
        assert len(seconds) == 1 or max(seconds) * len(seconds) <= most * (1 + 1e-9)
        seen.setdefault((draw.language, draw.epoch), Counter()).update(index for index, _ in draw.items)
    for (language, epoch), counts in seen.items():
        assert max(counts.values()) == 1
        if (language, epoch + 1) in seen:
            assert len(counts) == len(durations[language])


def test_epochs_differ_and_seeds_matter() -> None:
    one = LanguageSampler({"en": DURATIONS["en"]}, CONFIG)
    plan = draws(one, 200)
    first = [draw.items for draw in plan if draw.epoch == 0]
    second = [draw.items for draw in plan if draw.epoch == 1]
    assert sorted(first) != sorted(second)
    other = LanguageSampler({"en": DURATIONS["en"]}, SamplingConfig(max_seconds=30, seed=1))
    assert [draw.items for draw in draws(other, len(first))] != first


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.8), (2.0, 2 / 3), (float("inf"), 0.5)])
def test_temperature_weights(temperature: float, expected: float) -> None:
    durations = {"en": [4.0] * 400, "fr": [4.0] * 100}
    sampler = LanguageSampler(durations, SamplingConfig(max_seconds=20, temperature=temperature))
    assert sampler.weights["en"] == pytest.approx(expected)
    drawn = Counter(draw.language for draw in draws(sampler, 1500))
    assert drawn["en"] / 1500 == pytest.approx(expected, abs=0.05)


def test_batches_are_alike_in_duration() -> None:
    sampler = LanguageSampler({"en": DURATIONS["en"] * 10}, CONFIG)
    padded = spoken = 0.0
    for draw in draws(sampler, 100):
        seconds = [DURATIONS["en"][index % 90] / speed for index, speed in draw.items]
        padded, spoken = padded + max(seconds) * len(seconds), spoken + sum(seconds)
    assert spoken / padded > 0.85


def test_ranks_share_the_language_and_nothing_else() -> None:
    ranks = [LanguageSampler(DURATIONS, CONFIG, rank, 3) for rank in range(3)]
    used: Counter[tuple[str, int, int]] = Counter()
    for _ in range(60):
        batch = [draw for rank in ranks for draw in rank.next()]
        assert len({(draw.language, draw.epoch) for draw in batch}) == 1
        used.update((draw.language, draw.epoch, index) for draw in batch for index, _ in draw.items)
    assert max(used.values()) == 1


@pytest.mark.parametrize("language_each", ["step", "batch"])
def test_the_batches_of_a_step_are_the_same_however_many_ranks_share_them(language_each: str) -> None:
    config = SamplingConfig(max_seconds=30, language_each=language_each)
    alone = LanguageSampler(DURATIONS, config, 0, 1, 4)
    pairs = [LanguageSampler(DURATIONS, config, rank, 2, 2) for rank in range(2)]
    each = [LanguageSampler(DURATIONS, config, rank, 4) for rank in range(4)]
    mixed = set()
    for step in range(60):
        expected = alone.next()
        mixed.add(len({draw.language for draw in expected}))
        for ranks in (pairs, each):
            assert [draw for rank in ranks for draw in rank.next()] == expected
        if step == 30:  # a run goes on with another number of ranks
            state = each[0].state_dict()
            pairs = [LanguageSampler(DURATIONS, config, rank, 2, 2) for rank in range(2)]
            for rank in pairs:
                rank.load_state_dict(state)
    assert (max(mixed) > 1) == (language_each == "batch")


def test_foreign_state_and_bad_input_are_refused() -> None:
    state = LanguageSampler(DURATIONS, CONFIG).state_dict()
    for durations, config, world in [
        ({"en": DURATIONS["en"]}, CONFIG, 1),
        (DURATIONS, SamplingConfig(max_seconds=31), 1),
        (DURATIONS, CONFIG, 2),
    ]:
        with pytest.raises(PathwaysError, match="changed since this checkpoint"):
            LanguageSampler(durations, config, 0, world).load_state_dict(state)
    with pytest.raises(PathwaysError, match="no utterances"):
        LanguageSampler({"en": []}, CONFIG)
    with pytest.raises(PathwaysError, match="'fr' has 1 batches, and a step needs 2"):
        sampler = LanguageSampler({"fr": [1.0]}, CONFIG, 0, 2)
        sampler.next()
    for bad in ({"speed_factors": ()}, {"speed_factors": (0.0,)}, {"temperature": 0}, {"max_seconds": -1}):
        with pytest.raises(ValidationError):
            SamplingConfig(**bad)
