"""The folder of a run: one process at a time trains into it, and finds nothing that a killed one left half-done."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from asr_pathways.files import remove_leftovers
from asr_pathways.lock import alone_in

P = ParamSpec("P")
T = TypeVar("T")


def holding_out(run: Callable[P, T]) -> Callable[P, T]:
    """For a function that trains into its argument ``out``: locks and tidies that folder while it runs.

    Of several ranks that train together the first does it (torchrun numbers them in ``RANK``).

    Raises:
        PathwaysError: if another process trains there, beside what the function raises.
    """
    signature = inspect.signature(run)

    @functools.wraps(run)
    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs)
        if int(os.environ.get("RANK", "0")) > 0:
            return run(*args, **kwargs)
        out = Path(given.arguments["out"])
        with alone_in(out, "another run is training there: wait for it, or choose another folder"):
            _tidy(out)
            if given.arguments.get("resume") and not (out / "checkpoints" / "start").exists():
                print(f"{out}: no run to resume there: it begins now", file=sys.stderr)
            return run(*args, **kwargs)

    return held


def _tidy(out: Path) -> None:
    checkpoints = out / "checkpoints"
    for folder in (out, checkpoints, *checkpoints.glob("*/")):
        remove_leftovers(folder)
