"""Kills runs at random moments until they are done: ``python -m tests.stress [--kills N] [--seed S] [--json FILE]``.

Exits with 1 unless no run was lost, and none left other weights, masks, history or TensorBoard than an uninterrupted
one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.stress import faults
from tests.stress.jobs import jobs, make_data
from tests.stress.kills import Tally, kill_until_done, uninterrupted
from tests.stress.process import warm_up, whole

LIMIT = 18 * 60.0
"""Seconds after which no new run is begun."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="go on until so many processes were killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts here")
    options = parser.parse_args()
    began = time.monotonic()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="stress-", ignore_cleanup_errors=True) as folder:
        tally, other = _stress(Path(folder), options.kills, random.Random(options.seed), began)
    found = {
        "seed": options.seed,
        "kills": tally.kills,
        "runs": tally.runs,
        "lost": len(tally.lost),
        "differing": len(tally.differing),
        "files_left": len(tally.left),
        "damaged_checkpoints": tally.damaged,
        "kills_by_run": dict(sorted(tally.by_job.items())),
        "kills_by_moment": dict(sorted(tally.by_point.items())),
        "other_faults": other,
        "seconds": round(time.monotonic() - began),
    }
    for trouble in (*tally.lost, *tally.differing, *tally.left):
        print(trouble, file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"stress: {tally.kills} kills in {tally.runs} runs, {tally.damaged} damaged checkpoints, "
        f"{sum(other.values())} other faults: {len(tally.lost)} lost runs, {len(tally.differing)} differing hashes, "
        f"{len(tally.left)} files left; {found['seconds']} s"
    )
    return int(bool(tally.lost or tally.differing or tally.left) or tally.kills < options.kills)


def _stress(root: Path, kills: int, dice: random.Random, began: float) -> tuple[Tally, dict[str, int]]:
    made = whole(lambda: make_data(root), root / "data.log")
    if not made.done:
        raise RuntimeError(made.said)
    tally = Tally()
    known = [(job, uninterrupted(job, root / f"whole-{number}")) for number, job in enumerate(jobs(root))]
    for job, one in known:
        print(f"{job.name}: {one.seconds:.1f} s uninterrupted", flush=True)
    dynamic = next(pair for pair in known if pair[0].name == "prune dynamic")
    other = {
        "full_disks": faults.full_disks(*dynamic, root, dice, tally, 6),
        "dead_threads": faults.dead_threads(*dynamic, root, dice, tally, 5),
        "bad_losses": faults.bad_losses(*dynamic, root, dice, tally),
        "second_processes": faults.second_processes(*dynamic, root, tally, 2),
    }
    print(f"other faults: {other}", flush=True)
    number = 0
    while tally.kills < kills and time.monotonic() - began < LIMIT and len(tally.lost) < 10:
        job, one = known[number % len(known)]
        kill_until_done(job, one, root / f"run-{number}", dice, tally)
        number += 1
        print(f"{tally.kills} kills, {tally.runs} runs, {len(tally.lost)} lost", flush=True)
    return tally, other


if __name__ == "__main__":
    sys.exit(main())
