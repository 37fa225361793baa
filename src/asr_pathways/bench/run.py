"""The benchmark: sparse and dense systems side by side, and the time of switching languages."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from asr_pathways.bench.footprint import footprint
from asr_pathways.bench.models import random_model, some_tokenizer, sound
from asr_pathways.bench.systems import DENSE, EXPORTED, SPARSE, Kind, open_system
from asr_pathways.bench.timing import time_streams
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.models.presets import Preset
from asr_pathways.runtime.layers import processor
from asr_pathways.runtime.streaming import StreamingTransducer

GRANULARITIES = ("unstructured", "block:4x1")
SECONDS = 20.0
"""Of audio in each round."""

SWITCHES = 5
"""To each language."""


def measure(
    name: Preset, chunk: float, threads: int, sparsities: Sequence[float], report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Times all systems on models of one size, in segments of ``chunk`` seconds.

    Args:
        name: size of the model.
        chunk: seconds of a segment of the encoder, and of the audio that is accepted at a time.
        threads: of all products.
        sparsities: of the models.
        report: called with a line on each step.

    Returns:
        Plain data: a row for each system, and the times of switching.
    """
    tokenizer = some_tokenizer()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="asr-pathways-bench-") as folder:
            places: dict[tuple[Kind, str, float], Path] = {}
            for sparsity, granularity in itertools.product(sparsities, GRANULARITIES):
                report(f"making {name}, {100 * sparsity:.0f}%, {granularity}")
                asr = random_model(name, chunk, tokenizer, sparsity, granularity)
                path = Path(folder) / f"{granularity.replace(':', '-')}-{sparsity}.asrp"
                write_bundle(asr, path)
                if not places:  # zeros make dense products no faster
                    places |= {(kind, granularity, sparsity): path for kind in DENSE}
                    if find_spec("onnxruntime") and find_spec("sherpa_onnx"):
                        from asr_pathways.export.sherpa import export_sherpa

                        report("exporting it")
                        exported = export_sherpa(asr, Path(folder) / "exported")[0].folder
                        places |= {(kind, granularity, sparsity): exported for kind in EXPORTED}
                places |= {(kind, granularity, sparsity): path for kind in SPARSE}
            systems = {str(key): open_system(key[0], place, threads) for key, place in places.items()}
            report(f"timing {len(systems)} systems")
            timed = time_streams(systems, sound(SECONDS), chunk)
            rows = []
            for (kind, granularity, sparsity), place in places.items():
                report(f"loading {kind}, {granularity}, {100 * sparsity:.0f}%")
                key = str((kind, granularity, sparsity))
                timing, memory = timed[key], footprint(kind, place)
                system, sparse = systems[key], kind in SPARSE
                rows.append(
                    {
                        "system": kind,
                        "granularity": granularity if sparse else None,
                        "sparsity": sparsity if sparse else None,
                        "rtf": timing.rtf,
                        "chunk_p50_ms": timing.p50,
                        "chunk_p95_ms": timing.p95,
                        "first_token_ms": timing.first,
                        "load_s": memory.load,
                        "peak_mib": memory.peak,
                        "bytes": None if kind in DENSE else system.disk,
                    }
                )
            five = Path(folder) / "five.asrp"
            report("making five languages")
            write_bundle(random_model(name, chunk, tokenizer, 0.7, "unstructured", 5), five)
            return {
                "preset": name,
                "chunk_s": chunk,
                "threads": threads,
                "rows": rows,
                "switch": switching(five, threads),
            }
    finally:
        torch.set_num_threads(before)


def switching(bundle: Path, threads: int) -> dict[str, float]:
    """Milliseconds of `Stream.switch`, with both pathways ready, and with the new one prepared from the bundle."""
    loaded, tight = StreamingTransducer(bundle, threads=threads), StreamingTransducer(bundle, threads=threads, memory=0)
    languages = loaded.languages
    times: dict[str, list[float]] = {"loaded_ms": [], "first_ms": [], "packed_on_demand_ms": []}
    for language in languages:
        loaded.load(language)
    for recognizer, name in ((loaded, "loaded_ms"), (tight, "packed_on_demand_ms")):
        stream = recognizer.stream(languages[0])
        for run in range(SWITCHES * len(languages)):
            language = languages[(run + 1) % len(languages)]
            began = time.perf_counter()
            stream.switch(language)
            spent = 1000 * (time.perf_counter() - began)
            first = name == "packed_on_demand_ms" and run < len(languages) - 1  # masks are read then, once
            times["first_ms" if first else name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""Those that decide how fast products are, as Linux calls them."""


def machine() -> dict[str, str]:
    """Processor, its instruction sets and versions that figures depend on."""
    name, sets = processor()
    instructions = " ".join(one for one in INSTRUCTIONS if one in sets)
    return {
        "processor": name,
        "instructions": instructions,
        "cores": str(os.cpu_count()),
        "torch": torch.__version__,
    }
