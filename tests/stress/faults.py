"""Other ends than a kill: a full disk, a dead data thread, losses that are no numbers, a second process."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from asr_pathways.data.batches import Batch, TrainBatches
from asr_pathways.models.transducer import Transducer
from tests.stress.jobs import Job
from tests.stress.kills import Tally, Whole, compare
from tests.stress.process import Ended, end, start
from tests.stress.process import whole as run_whole

KILOBYTE = 1024


def full_disks(job: Job, known: Whole, root: Path, dice: random.Random, tally: Tally, times: int) -> int:
    """The disk fills up, then there is room again; where nothing can be mounted, files may not grow instead."""
    for number in range(times):
        out = root / f"disk-{number}" / "run"
        with _small_disk(out.parent) as filler:
            log = root / f"disk-{number}.log"
            if filler is None:
                first = _run(partial(_limited, partial(job.run, out), dice.randint(20, 200) * KILOBYTE), log)
            else:
                free = os.statvfs(out.parent).f_bavail * os.statvfs(out.parent).f_frsize
                _fill(filler, free - dice.randint(30, 900) * KILOBYTE)
                first = _run(partial(job.run, out), log)
                filler.unlink()
            _expect(first, ("cannot write",), "full disk", tally)
            _finish(job, known, out, log, tally)
    return times


def dead_threads(job: Job, known: Whole, root: Path, dice: random.Random, tally: Tally, times: int) -> int:
    """The thread that makes batches dies of an error of any kind."""
    for number in range(times):
        out, log = root / f"thread-{number}", root / f"thread-{number}.log"
        error = dice.choice([MemoryError("no memory"), OSError(errno.EIO, "Input/output error"), SystemExit(3)])
        first = _run(partial(_dying, partial(job.run, out), dice.randint(1, 18), error), log)
        if first.done or first.killed:
            tally.lost.append(f"dead thread: was not noticed: {first.said}")
        _finish(job, known, out, log, tally)
    return times


def bad_losses(job: Job, known: Whole, root: Path, dice: random.Random, tally: Tally) -> int:
    """Too many losses of NaN end the run in a line that names a batch; it goes on when they are gone."""
    for number, value in enumerate((float("nan"), float("inf"))):
        out, log = root / f"loss-{number}", root / f"loss-{number}.log"
        first = _run(partial(_no_number, partial(job.run, out), dice.randint(6, 15), value), log)
        _expect(first, ("on a batch of ", "-train-", "the last good checkpoint is "), "bad losses", tally)
        _finish(job, known, out, log, tally)
    return 2


def second_processes(job: Job, known: Whole, root: Path, tally: Tally, times: int) -> int:
    """The same command while it runs already: the second is refused, the first goes on."""
    for number in range(times):
        out, log, other = root / f"two-{number}", root / f"two-{number}.log", root / f"two-{number}-second.log"
        child = start(partial(job.run, out), log)
        while not (out / "checkpoints" / "start").exists():
            time.sleep(0.005)
        _expect(_run(partial(job.run, out), other), ("another run is training there",), "second process", tally)
        first = end(child, log)
        if not first.done:
            tally.lost.append(f"second process: the first was harmed: {first.said}")
        else:
            compare(job, known, out, tally)
    return times


def _run(run: Callable[[], object], log: Path) -> Ended:
    return run_whole(run, log)


def _expect(ended: Ended, parts: tuple[str, ...], what: str, tally: Tally) -> None:
    """The process failed, in one line that has all parts."""
    last = ended.said.splitlines()[-1:] or [""]
    if not ended.one_line or not all(part in last[0] for part in parts):
        tally.lost.append(f"{what}: ended with {ended.status}, not in one line: {ended.said}")


def _finish(job: Job, known: Whole, out: Path, log: Path, tally: Tally) -> None:
    """The same command again ends well, with the same result."""
    tally.runs += 1
    ended = _run(partial(job.run, out), log)
    if ended.done:
        compare(job, known, out, tally)
    else:
        tally.lost.append(f"{job.name}: {ended.said}")


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 4 MB in memory at ``folder``, and the path of a file to fill it with; None if there is none."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder / "filler" if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.write(bytes(size))


def _limited(run: Callable[[], object], size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run()


def _dying(run: Callable[[], object], at: int, error: BaseException) -> None:
    make, calls = TrainBatches._make, iter(range(1, 1_000_000))

    def dying(self: TrainBatches, draw: Any) -> Batch:
        if next(calls) == at:
            raise error
        return make(self, draw)

    TrainBatches._make = dying  # type: ignore[method-assign]
    run()


def _no_number(run: Callable[[], object], after: int, value: float) -> None:
    plain, calls = Transducer.loss, iter(range(1_000_000))
    Transducer.loss = (  # type: ignore[method-assign]
        lambda self, batch: plain(self, batch) * (value if self.training and next(calls) >= after else 1)
    )
    run()
