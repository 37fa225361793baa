"""What a server keeps of streams that have ended."""

from __future__ import annotations

import sys

from asr_pathways.serve.service import release_memory


def test_names_that_were_looked_up_are_forgotten() -> None:
    """Python's cache of look-ups refers to them; torch makes some anew for each tensor of a list."""
    names = [f"no_such_{number}" for number in range(100)]
    before = [sys.getrefcount(name) for name in names]
    assert not any(hasattr(0, name) for name in names)
    release_memory()
    assert [sys.getrefcount(name) for name in names] == before
