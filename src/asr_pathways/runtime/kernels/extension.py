"""The compiled kernels, if this installation has them."""

from __future__ import annotations

import logging

from asr_pathways.errors import PathwaysError

try:
    from asr_pathways.runtime.kernels import _sparse
except ImportError:  # there was no compiler when this was installed
    _sparse = None  # type: ignore[assignment]

compiled = _sparse

logger = logging.getLogger(__name__)
_warned = False


def available() -> bool:
    """Whether the compiled kernels are there; without them products are dense, with the same results."""
    return compiled is not None


def variants() -> list[str]:
    """Instruction sets that the kernels can use on this CPU, the fastest (which is used) first; empty without them."""
    return compiled.variants() if available() else []


def check_variant(variant: str | None) -> str:
    """The name that the extension takes: empty for its own choice.

    Raises:
        PathwaysError: if this CPU or installation has no such variant.
    """
    if variant is not None and variant not in variants():
        raise PathwaysError(f"no kernels {variant!r} here, only {', '.join(variants()) or 'dense products'}")
    return variant or ""


def warn_of_dense_products() -> None:
    """Says, once per process, that products run dense."""
    global _warned
    if not _warned:
        _warned = True
        logger.warning("sparse kernels were not built: products run dense; install a C++ compiler, then this again")
