from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr_pathways.training.memory import free_memory, keep_freed_memory

PROGRAM = """
import json, resource, torch
from asr_pathways.training.memory import keep_freed_memory, release_memory, resident_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        tensors = [torch.ones(5 * 2**20) for _ in range(8)]  # 20 MiB each: 5,120 pages
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before, kept = page_faults(), keep_freed_memory()
page_faults()  # takes the memory that is kept
after = page_faults()
large = torch.ones(2**26)  # 256 MiB: more than is kept in one place
held = resident_memory()
del large
of_largest = held - resident_memory()
many = [torch.ones(4 * 2**20) for _ in range(16)]  # 256 MiB
del many
held = resident_memory()
release_memory()
released = held - resident_memory()
print(json.dumps([before, kept, after, released, of_largest]))
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc"
)
def test_freed_memory_is_used_again() -> None:
    """In a new process, for the setting lasts."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=clean, capture_output=True, text=True, check=True)
    before, kept, after, released, of_largest = json.loads(done.stdout)
    assert kept and before > 50_000 and after < before / 10
    assert released > 200 * 2**20 and of_largest > 200 * 2**20  # the latter at once


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> None:
        pytest.fail("the setting was changed")

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr("ctypes.CDLL", never)
    assert not keep_freed_memory()


def test_free_memory_is_what_machine_and_control_group_leave(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert free_memory(cpu, tmp_path) is None
    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "0::/jobs/one\n",
        "sys/fs/cgroup/jobs/one/memory.max": "max\n",
        "sys/fs/cgroup/jobs/one/memory.current": "3000000\n",
        "sys/fs/cgroup/jobs/one/memory.stat": "anon 1\ninactive_file 1000000\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory(cpu, tmp_path) == 8000 * 1024
    (tmp_path / "sys/fs/cgroup/jobs/one/memory.max").write_text("5000000\n")
    assert free_memory(cpu, tmp_path) == 3_000_000
    (tmp_path / "sys/fs/cgroup/jobs/one/memory.max").write_text("1000000\n")
    assert free_memory(cpu, tmp_path) == 0
