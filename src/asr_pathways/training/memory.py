"""Memory for tensors: how the C library allocates it on the CPU, and how much is free."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

import torch

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_LARGEST = 2**25
"""Bytes of the largest tensors that are kept, the most that glibc before 2.35 or so allows: what is larger is mapped.

Its place would be cut up by smaller ones, and the next of its size get another: finetuning whisper-base in bfloat16,
memory grew by gradients and copies of embeddings (106 and 53 MB) to 3.2 GB in 18 steps, and to 2.6 without them. A step
took as long, 2.1 s of processor time.
"""
_SETTINGS = (
    *(f"MALLOC_{name}_" for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "TOP_PAD", "MMAP_MAX")),
    "GLIBC_TUNABLES",
)


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for later tensors but the largest, in place of returning it to the system.

    By default large tensors are mapped anew, or their memory is returned when they are freed, and the system clears
    each page of it at its first touch. That was a quarter of a training step of whisper-base (2.24 s without, 2.95
    with it), and nothing measurable of the preset ``base`` (``python -m benchmarks.memory``). Where the environment
    sets malloc otherwise (``man mallopt``), and with another C library than glibc, nothing changes, and False is
    returned.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # of macOS, Windows, musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _MOST))


def release_memory() -> None:
    """Returns to the system what `keep_freed_memory` keeps: for parts of a job that need memory for other things."""
    gc.collect()
    with suppress(AttributeError, TypeError, OSError):  # with another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def free_memory(device: torch.device, system: Path = Path("/")) -> int | None:
    """Bytes that can be allocated on ``device``: on Linux what machine and control group leave; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    with suppress(OSError, ValueError, IndexError):
        lines = (system / "proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    group = system / "sys/fs/cgroup"
    with suppress(OSError, ValueError, IndexError):  # version 2; without a limit it says "max"
        path = (system / "proc/self/cgroup").read_text().splitlines()[-1].split(":")[2].strip("/")
        group = group / path if (group / path / "memory.max").exists() else group
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        free.append(int((group / "memory.max").read_text()) - used)
    return max(0, min(free)) if free else None


def resident_memory(status: Path = Path("/proc/self/status")) -> int:
    """Bytes of memory that this process has now, on Linux; 0 if unknown."""
    with suppress(OSError, ValueError, IndexError):
        lines = status.read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return 0
