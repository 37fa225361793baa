"""Builds the sparse CPU kernels, where there is a C++ compiler; everything else is in pyproject.toml."""

import os
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("src/asr_pathways/runtime/kernels")


def extensions() -> list[Extension]:
    """The extension: without a compiler the package installs and multiplies densely; wheels to share must have it."""
    try:
        import pybind11
    except ImportError:
        return []
    return [
        Extension(
            "asr_pathways.runtime.kernels._sparse",
            sources=sorted(path.as_posix() for path in KERNELS.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in KERNELS.glob("*.h")),
            include_dirs=[pybind11.get_include()],
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            language="c++",
            optional="CIBUILDWHEEL" not in os.environ,
        )
    ]


setup(ext_modules=extensions())
