"""How exports to ONNX compare with the package's recogniser: tokens by sherpa-onnx, sizes and times.

python -m benchmarks.exports MODEL --data DIR --json results/exports.json

MODEL is a pruned transducer. Times also of ``base`` (71M random weights).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.corpus import load_cuts
from asr_pathways.export.onnx import Exported, open_graphs
from asr_pathways.export.sherpa import export_sherpa
from asr_pathways.files import write_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime.sources import ModelSource
from asr_pathways.runtime.streaming import StreamingTransducer as StreamingRecognizer
from benchmarks.bundle import random_model


def size_and_time(exported: Exported, runs: int = 20) -> dict[str, object]:
    """Bytes of an exported folder, and milliseconds of the encoder for a chunk, on one thread."""
    encoder, _, _ = open_graphs(exported.folder)
    feed = {
        one.name: np.zeros([1, *one.shape[1:]], np.int64 if "int64" in one.type else np.float32)
        for one in encoder.get_inputs()
    }
    about = encoder.get_modelmeta().custom_metadata_map
    feed["length"][:] = int(about["window_size"])
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        encoder.run(None, feed)
        times.append(1000 * (time.perf_counter() - start))
    return {
        "bytes": sum(path.stat().st_size for path in exported.folder.iterdir()),
        "largest_difference": exported.difference,
        "chunk_ms": round(statistics.median(times), 2),
        "chunk_audio_ms": 10 * int(about["chunk_shift"]),
    }


def compare(asr: AsrModel, exported: Sequence[Exported], data: Path, split: str = "test") -> dict[str, int]:
    """Utterances of a data folder whose tokens and times by sherpa-onnx are those of the package's recogniser."""
    ours = StreamingRecognizer(ModelSource(asr), precision=None)
    theirs = {language: _open(one.folder) for one in exported for language in one.languages}
    counts = dict.fromkeys(("utterances", "tokens", "same", "same_with_silence", "changed_by_language"), 0)
    for cut in load_cuts(data, split):
        samples = cut.load_audio()[0].astype(np.float32)
        language = cut.supervisions[0].language
        stream = ours.stream(language)
        stream.accept(samples)
        expected = [(piece.replace("\u2581", " "), time) for piece, time in stream.final().tokens]
        end = np.full(2 * SAMPLE_RATE, np.nan, np.float32)
        marked = np.concatenate([np.pad(samples, (0, 200), mode="symmetric"), end])
        other = next(code for code in theirs if code != language)
        counts["utterances"] += 1
        counts["tokens"] += len(expected)
        counts["same"] += _run(theirs[language], marked) == expected
        counts["same_with_silence"] += _run(theirs[language], np.concatenate([samples, np.zeros_like(end)])) == expected
        counts["changed_by_language"] += _run(theirs[other], marked) != expected
    return counts


def _open(folder: Path) -> Any:
    import sherpa_onnx

    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    return sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), num_threads=1, **files)


def _run(theirs: Any, samples: Samples) -> list[tuple[str, float]]:
    stream = theirs.create_stream()
    stream.accept_waveform(SAMPLE_RATE, samples)
    while theirs.is_ready(stream):
        theirs.decode_stream(stream)
    times = [round(time, 2) for time in theirs.timestamps(stream)]
    return list(zip(theirs.tokens(stream), times, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m benchmarks.exports {options.model} --data {options.data}"
    results: dict[str, object] = {"command": command}
    with tempfile.TemporaryDirectory() as folder:
        asr = load_model(options.model)
        exported = export_sherpa(asr, Path(folder) / "model")
        results["one_language"] = size_and_time(exported[0])
        results["tokens"] = compare(asr, exported, options.data)
        base = random_model("base")
        results["base"] = size_and_time(export_sherpa(base, Path(folder) / "base", base.languages[:1])[0], runs=7)
    print(json.dumps(results, indent=2))
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
