"""Which utterances make the next batch: one language a batch, alike in duration, languages by temperature.

Every choice is a pure function of (seed, language, epoch) or (seed, step), so the whole state is a step number
and one (epoch, position) per language: resuming is exact and takes no replay, which Lhotse's dynamic samplers
need. A step has one or more batches, on one or more ranks; whichever rank has them, they are the same batches.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from asr_pathways.config import Config
from asr_pathways.errors import PathwaysError


class SamplingConfig(Config):
    """How batches are drawn."""

    max_seconds: float = Field(default=120.0, gt=0)  # of padded audio in a batch (longest utterance times count)
    temperature: float = Field(default=2.0, gt=0)  # T in p(language) ~ hours^(1/T): 1 as the data is, .inf all alike
    speed_factors: tuple[float, ...] = (0.9, 1.0, 1.1)  # one drawn for each utterance in each epoch
    seed: int = Field(default=0, ge=0)
    language_each: Literal["step", "batch"] = "step"  # a language is drawn for all batches of a step, or for each

    @field_validator("speed_factors")
    @classmethod
    def _sensible(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if not factors or not all(0.5 <= factor <= 2 for factor in factors):
            raise ValueError("speed factors must lie between 0.5 and 2, and there must be one")
        return factors


@dataclass(frozen=True)
class Draw:
    """One batch to be made: the utterances of ``language`` by index, each with its speed factor."""

    language: str
    epoch: int
    items: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class _Clock:
    epoch: int
    position: int


class LanguageSampler:
    """An endless, seeded, resumable sequence of language-homogeneous batches.

    Args:
        durations: for each language, its utterances' durations in seconds.
        config: how to draw.
        rank: which of ``world_size`` processes this is.
        world_size: how many processes share the data.
        accumulate: batches of a step on each of them.

    Raises:
        PathwaysError: if there is no utterance, or a language has too few for a step.
    """

    def __init__(
        self,
        durations: Mapping[str, Sequence[float]],
        config: SamplingConfig,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not any(len(values) for values in durations.values()):
            raise PathwaysError("sampling: no utterances to draw from")
        self.config = config
        self._own = range(rank * accumulate, (rank + 1) * accumulate)
        self._batches = world_size * accumulate  # of a step
        self._together = self._batches if config.language_each == "step" else 1  # of one language
        self._durations = {
            language: np.asarray(durations[language], dtype=np.float64)
            for language in sorted(durations)
            if len(durations[language])
        }
        self._plans: dict[str, tuple[int, list[list[Draw]]]] = {}
        self._step = 0
        self._clocks = dict.fromkeys(self._durations, _Clock(0, 0))

    @cached_property
    def weights(self) -> dict[str, float]:
        """The probability of each language: hours^(1/T), normalised (Arivazhagan et al. 2019)."""
        hours = np.array([values.sum() / 3600 for values in self._durations.values()])
        powers = hours ** (1 / self.config.temperature)
        return dict(zip(self._durations, (powers / powers.sum()).tolist(), strict=True))

    def next(self) -> list[Draw]:
        """Draws the batches of the next step that are this rank's, and moves on."""
        drawn = [
            draw
            for group in range(self._batches // self._together)
            for draw in self._next_group(self._step * (self._batches // self._together) + group)
        ]
        self._step += 1
        return [drawn[index] for index in self._own]

    def _next_group(self, number: int) -> list[Draw]:
        """The next batches of a language, as many as share it; ``number`` counts such groups."""
        weights = self.weights
        rng = np.random.default_rng([self.config.seed, 1, number])
        language = str(rng.choice(list(weights), p=list(weights.values())))
        clock = self._clocks[language]
        plan = self._plan(language, clock.epoch)
        last = clock.position + 1 == len(plan)
        self._clocks[language] = _Clock(clock.epoch + 1, 0) if last else _Clock(clock.epoch, clock.position + 1)
        return plan[clock.position]

    def state_dict(self) -> dict[str, Any]:
        """The place in the sequence, as plain JSON values."""
        return {
            "step": self._step,
            "languages": {name: [clock.epoch, clock.position] for name, clock in self._clocks.items()},
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where :meth:`state_dict` was taken.

        Raises:
            PathwaysError: if the data, the config or the number of batches in a step are not those of the state.
        """
        if state["fingerprint"] != self._fingerprint:
            raise PathwaysError(
                "sampling: the data, the sampling config or the number of batches in a step changed since this "
                "checkpoint: resume with those it was made with, or start a new run"
            )
        self._step = int(state["step"])
        self._clocks = {name: _Clock(*map(int, clock)) for name, clock in state["languages"].items()}

    def _plan(self, language: str, epoch: int) -> list[list[Draw]]:
        """The batches of one epoch, in order, in groups of those that come together."""
        known = self._plans.get(language)
        if known is not None and known[0] == epoch:
            return known[1]
        together = self._together
        rng = np.random.default_rng([self.config.seed, 2, zlib.crc32(language.encode()), epoch])
        durations = self._durations[language]
        factors = rng.choice(np.array(self.config.speed_factors), len(durations))
        seconds = durations / factors
        # Sorting by a jittered duration puts like with like, and yet other company in every epoch.
        order = np.argsort(seconds * rng.uniform(0.9, 1.1, len(seconds)), kind="stable")
        batches = _pack(order.tolist(), seconds, self.config.max_seconds)
        if len(batches) < together:
            raise PathwaysError(
                f"sampling: {language!r} has {len(batches)} batches, and a step takes {together}: "
                "lower max_seconds, use fewer processes, or draw a language for each batch (language_each)"
            )
        surplus = set(rng.permutation(len(batches))[: len(batches) % together].tolist())
        batches = [batch for index, batch in enumerate(batches) if index not in surplus]
        draws = [Draw(language, epoch, tuple((index, float(factors[index])) for index in batch)) for batch in batches]
        groups = rng.permutation(len(batches) // together).tolist()
        plan = [draws[group * together : (group + 1) * together] for group in groups]
        self._plans[language] = (epoch, plan)
        return plan

    @cached_property
    def _fingerprint(self) -> int:
        checksum = zlib.crc32(json.dumps([self.config.model_dump(), self._batches]).encode())
        for language, durations in self._durations.items():
            checksum = zlib.crc32(durations.tobytes(), zlib.crc32(language.encode(), checksum))
        return checksum


def _pack(order: Sequence[int], seconds: np.ndarray[Any, Any], max_seconds: float) -> list[list[int]]:
    """Cuts ``order`` into batches whose longest utterance times their size is at most ``max_seconds``.

    An utterance that is longer than that by itself is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in order:
        longest = max(longest, seconds[index])
        if batches and batches[-1] and longest * (len(batches[-1]) + 1) <= max_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = seconds[index]
    return batches
