"""What one thread of this machine can do at best: the roofline model (Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import variants

OUT_OF_CACHE = 256 * 2**20
"""Bytes, more than a processor's caches hold."""

LANES = {"avx512": 16, "avx2": 8}
"""Floats of a vector of an instruction set; 4 of the others."""


def multiply_add_rate() -> float:
    """Multiply-adds of float32 a second, in registers.

    Raises:
        PathwaysError: without g++.
    """
    rate: float = _compiled().multiply_add_rate()
    return rate


def read_rate(size: int) -> float:
    """Bytes a second at which ``size`` bytes are read in order, again and again.

    Raises:
        PathwaysError: without g++.
    """
    buffer = torch.ones(max(size // 4, 4096))
    rate: float = _compiled().read_rate(buffer.data_ptr(), buffer.numel(), max(4, 2**26 // size))
    return rate


@cache
def _compiled() -> ctypes.CDLL:
    """The loops of roofline.cpp, compiled for this processor."""
    lanes = LANES.get(variants()[0], 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "roofline.so"
        command = ["g++", "-O3", "-march=native", "-shared", "-fPIC", f"-DLANES={lanes}", "-o", str(path)]
        try:
            subprocess.run([*command, str(Path(__file__).with_suffix(".cpp"))], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise PathwaysError("the roofline needs g++: install it, then run this again") from None
        library = ctypes.CDLL(str(path))
    library.multiply_add_rate.restype = library.read_rate.restype = ctypes.c_double
    library.read_rate.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    return library
