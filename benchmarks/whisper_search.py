"""Word error rates and times of a Whisper's bundles, with all tokens or those of its languages, greedy and by beams.

python -m benchmarks.whisper_search all.asrp some.asrp --data data/prompts --every 4 --json results/whisper_search.json

Utterances are recognised in turn by all systems, so that a disturbance meets all of them.
"""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Optional

import numpy as np
import typer

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import load_cuts
from asr_pathways.evaluation.wer import score
from asr_pathways.files import write_json
from asr_pathways.model_folder.decode import pair
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.whisper.engine import WhisperEngine

ROUNDS = 300
"""Products of the output layer that are timed."""


def measure(models: list[Path], data: Path, beams: list[int], split: str, every: int) -> dict[str, Any]:
    """Rates and times of each model and beam over every n-th utterance of each language of a split."""
    systems = {(model, beam): Recognizer(model, beam=beam) for model, beam in product(models, beams)}
    languages = next(iter(systems.values())).languages
    cuts = [cut for language in languages for cut in list(load_cuts(data, split, [language]))[::every]]
    texts: dict[tuple[Path, int], list[Any]] = {system: [] for system in systems}
    seconds: dict[tuple[Path, int], list[float]] = {system: [] for system in systems}
    for recognizer, language in product(systems.values(), languages):
        recognizer.load(language)
    for cut in cuts:
        spoken, samples = cut.supervisions[0], read_cut(cut)
        for system, recognizer in systems.items():
            start = time.perf_counter()
            text = recognizer.transcribe(samples, language=spoken.language).text
            seconds[system].append(time.perf_counter() - start)
            texts[system].append(pair(cut.id, spoken.language, spoken.text, text, recognizer.free_text))
    results = []
    for (model, beam), recognizer in systems.items():
        scores = score(sorted(texts[model, beam], key=lambda one: one.language))
        results.append(
            {
                "model": model.name,
                "beam": beam,
                "tokens": {code: round(share, 4) for code, share in Bundle.open(model).vocabulary_shares().items()},
                "mean_wer": round(scores.mean_wer, 4),
                "wer": {one.language: round(one.wer.rate, 4) for one in scores.languages},
                "milliseconds_an_utterance": round(1000 * median(seconds[model, beam]), 1),
                "milliseconds_of_the_output_layer": round(1000 * _output(recognizer), 3),
            }
        )
    words = sum(one.words for one in scores.languages)
    return {"split": split, "utterances": len(cuts), "words": words, "systems": results}


def _output(recognizer: Recognizer) -> float:
    """Seconds of the choice of one token, median over the languages."""
    engine = recognizer._engine
    assert isinstance(engine, WhisperEngine)
    random, times = np.random.default_rng(0), []
    for language in recognizer.languages:
        network = engine._network(language)
        hidden = random.standard_normal((1, network.shape.d_model), dtype=np.float32)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            network.best(hidden, 1, None)
            times.append(time.perf_counter() - start)
    return median(times)


def main(
    models: list[Path],
    data: Annotated[Path, typer.Option()],
    beam: str = "1",
    split: str = "test",
    every: int = 1,
    json_path: Annotated[Optional[Path], typer.Option("--json")] = None,  # noqa: UP045
) -> None:
    """Prints rates and times of each bundle and each beam of a list such as 1,5."""
    command = (
        f"python -m benchmarks.whisper_search {' '.join(model.name for model in models)} --data {data.name} "
        f"--beam {beam} --split {split} --every {every}"
    )
    results = {"command": command, **measure(models, data, [int(one) for one in beam.split(",")], split, every)}
    print(json.dumps(results, indent=2))
    if json_path is not None:
        write_json(json_path, results)


if __name__ == "__main__":
    typer.run(main)
