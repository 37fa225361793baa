"""Kills a run again and again, starts it again each time, and compares what it leaves in the end."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from asr_pathways.training.state import checkpoints
from tests.stress.jobs import Job
from tests.stress.points import Points
from tests.stress.process import end, start

ANY_MOMENT = "any moment"


@dataclass
class Tally:
    """What became of the runs.

    Attributes:
        kills, runs: how many.
        lost: what was said by runs that did not end well.
        differing: what was not as in the uninterrupted run.
        left: temporary files and locks that are still there in the end.
        damaged: last checkpoints that were cut short between two starts.
        by_job, by_point: kills.
    """

    kills: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    damaged: int = 0
    by_job: Counter[str] = field(default_factory=Counter)
    by_point: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: what it left, how often it passed each point, and how long it took."""

    fingerprint: dict[str, str]
    passed: dict[str, int]
    seconds: float


def uninterrupted(job: Job, out: Path) -> Whole:
    """Runs a job to its end.

    Raises:
        RuntimeError: if it fails.
    """
    log, counts = out.with_suffix(".log"), out.with_suffix(".json")
    began = time.monotonic()
    ended = end(start(partial(job.run, out), log, Points(), counts), log)
    if not ended.done:
        raise RuntimeError(f"{job.name}: the uninterrupted run failed:\n{ended.said}")
    return Whole(job.fingerprint(out), json.loads(counts.read_text()), time.monotonic() - began)


def kill_until_done(job: Job, whole: Whole, out: Path, dice: random.Random, tally: Tally) -> None:
    """One run of a job, killed up to ``job.kills`` times; the folder goes if all is well."""
    log = out.with_suffix(".log")
    killed = 0
    while True:
        name, points, after = _moment(whole, dice) if killed < job.kills else ("", None, None)
        try:
            ended = end(start(partial(job.run, out), log, points), log, after)
        except TimeoutError as error:
            tally.lost.append(f"{job.name}: {error}")
            return
        if not ended.killed:
            break
        killed += 1
        tally.kills += 1
        tally.by_job[job.name] += 1
        tally.by_point[name] += 1
        tally.damaged += _damage(out, dice)
    tally.runs += 1
    if not ended.done:
        tally.lost.append(f"{job.name}: {ended.said}")
        return
    compare(job, whole, out, tally)


def compare(job: Job, whole: Whole, out: Path, tally: Tally) -> None:
    """Compares what a run left with what the uninterrupted one did; the folder goes if all is well."""
    found = job.fingerprint(out)
    wrong = sorted(
        key for key in found.keys() | whole.fingerprint.keys() if found.get(key) != whole.fingerprint.get(key)
    )
    tally.differing += [f"{job.name} in {out}: {key}" for key in wrong]
    left = [str(path) for path in out.rglob(".*") if ".tmp-" in path.name or path.name == ".lock"]
    tally.left += left
    if not wrong and not left:
        shutil.rmtree(out)


def _moment(whole: Whole, dice: random.Random) -> tuple[str, Points | None, float | None]:
    """When to kill next: some seconds after the start, or at a pass of a point; more often early than late."""
    if dice.random() < 0.3:
        return ANY_MOMENT, None, dice.uniform(0, whole.seconds)
    name = dice.choice(sorted(whole.passed))
    return name, Points(name, dice.randint(1, max(1, round(whole.passed[name] * dice.random())))), None


def _damage(out: Path, dice: random.Random) -> int:
    """Sometimes cuts the last checkpoint short, where there is one before it."""
    found = checkpoints(out)
    if len(found) < 2 or dice.random() > 0.15:
        return 0
    content = found[0].read_bytes()
    found[0].write_bytes(content[: dice.randrange(len(content))])
    return 1
