from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, torch
from asr_pathways.training.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
told = {told}
kept = keep_freed_memory() if told else False
torch.ones(2**25)  # leaves room for what follows
before = faults()
for _ in range(3):
    torch.ones(10 * 2**20)  # 40 MiB: 10,240 pages
print(json.dumps([kept, faults() - before]))
"""


def run(told: bool, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and how many pages the system gave, in a process of its own: for it stays so."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM.replace("{told}", str(told))]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    kept, pages = json.loads(done.stdout)
    return bool(kept), int(pages)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc"
)
def test_freed_memory_is_used_again() -> None:
    _, before = run(told=False)
    kept, after = run(told=True)
    assert kept and before >= 3 * 10_240 and after < before / 10


def test_what_the_environment_says_stays() -> None:
    kept, _ = run(told=True, MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
