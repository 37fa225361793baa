"""Time and memory of loading a system, in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from asr_pathways.bench.systems import Kind, open_system
from asr_pathways.bench.worker import peak_memory


@dataclass(frozen=True)
class Footprint:
    """Seconds until the first pathway is ready, and the most memory that the process had, in MiB."""

    load: float
    peak: float


def footprint(kind: Kind, bundle: Path) -> Footprint:
    """Opens a system in a separate process and recognises two seconds."""
    command = [sys.executable, "-m", "asr_pathways.bench.footprint", kind, str(bundle)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Footprint(**json.loads(printed.splitlines()[-1]))


def main(kind: Kind, bundle: Path) -> None:
    from asr_pathways.bench.models import sound

    began = time.perf_counter()
    system = open_system(kind, bundle, threads=1)
    load = time.perf_counter() - began
    system.stream()(sound(2.0))
    print(json.dumps({"load": load, "peak": peak_memory()}))


if __name__ == "__main__":
    main(cast(Kind, sys.argv[1]), Path(sys.argv[2]))
