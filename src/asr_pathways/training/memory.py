"""How the C library hands out memory to tensors on the CPU."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_MOST_ONCE = 2**25  # of glibc before 2.35 or so
_SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_MAX_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory() -> bool:
    """Lets glibc keep memory that is freed for the tensors to come, in place of giving it back to the system.

    By default every large tensor is mapped anew and the system clears each page of it at its first touch. That was a
    quarter of a training step of whisper-base (2.24 s without, 2.95 with it), and nothing measurable of the preset
    ``base`` (``python -m benchmarks.memory``). Where the environment sets malloc otherwise (``man mallopt``), and
    with another C library than glibc, all stays as it is.

    Returns:
        Whether it does so now.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # of macOS, Windows, musl
        return False
    raised = mallopt(_MMAP_THRESHOLD, _MOST) or mallopt(_MMAP_THRESHOLD, _MOST_ONCE)
    return bool(raised and mallopt(_TRIM_THRESHOLD, _MOST))
