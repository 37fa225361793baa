"""The compiled kernels, if this installation has them."""

from __future__ import annotations

import functools
import logging
from typing import Any

from asr_pathways.errors import PathwaysError

try:
    from asr_pathways.runtime.kernels import _sparse
except ImportError:  # there was no compiler when this was installed
    _sparse = None  # type: ignore[assignment]

compiled = _sparse

MOST_THREADS = 1024

logger = logging.getLogger(__name__)


def available() -> bool:
    """Whether the compiled kernels were built."""
    return compiled is not None


def built() -> Any:
    """The compiled module.

    Raises:
        PathwaysError: if it was not built.
    """
    if compiled is None:
        raise PathwaysError("the sparse kernels were not built: install a C++ compiler, then this package again")
    return compiled


def variants() -> list[str]:
    """Instruction sets that the kernels can use on this CPU, the fastest first; empty without kernels."""
    return compiled.variants() if available() else []


def check_runner(threads: int, variant: str | None) -> tuple[int, str]:
    """The extension's argument of threads and instruction set (empty for the fastest).

    Raises:
        PathwaysError: if there is less than one thread, or more than any machine has, or this CPU has no such variant.
    """
    if threads < 1:
        raise PathwaysError(f"threads must be 1 or more, not {threads}")
    if threads > MOST_THREADS:
        raise PathwaysError(f"threads must be {MOST_THREADS} or fewer, not {threads}")
    if variant is not None and variant not in variants():
        raise PathwaysError(f"no kernels {variant!r} here, only {', '.join(variants())}")
    return threads, variant or ""


@functools.cache
def warn_of_dense_products() -> None:
    """Logs, once per process, that products run dense since there are no kernels."""
    logger.warning("sparse kernels were not built: products run dense; install a C++ compiler, then this again")
