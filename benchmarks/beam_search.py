"""Word error rates and time of beam search beside greedy search, with and without phrases.

python -m benchmarks.beam_search models/tiny --data data/prompts --json results/beam_search.json

The phrases of a language are the words that occur once in its references: what an address book or a menu would be to
an application. All of them are preferred in all of its utterances, in most of which they do not occur.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import torch
import typer

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import Samples
from asr_pathways.data.corpus import load_cuts
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.files import write_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime.sources import ModelSource
from asr_pathways.runtime.streaming import StreamingTransducer

BEAMS = (1, 4, 8)

BONUS = 2.0
"""In nats a word piece, the default of the recogniser."""

CHUNK = 10_240
"""Samples that come at a time: a segment of the shipped model."""


def measure(asr: AsrModel, data: Path, split: str = "test", bonus: float = BONUS, every: int = 1) -> dict[str, object]:
    """Rates of each search over every n-th utterance of a split of a data folder."""
    cuts = [
        (cut.id, cut.supervisions[0].language, cut.supervisions[0].text, cut.load_audio()[0].astype(np.float32))
        for cut in list(load_cuts(data, split))[::every]
    ]
    words: dict[str, Counter[str]] = {language: Counter() for _, language, _, _ in cuts}
    for _, language, text, _ in cuts:
        words[language].update(text.split())
    rare = {
        language: sorted(word for word, count in counts.items() if count == 1) for language, counts in words.items()
    }
    searches = [*((beam, None) for beam in BEAMS), *((beam, bonus) for beam in BEAMS[1:])]
    return {
        "split": split,
        "utterances": len(cuts),
        "phrases": {language: len(phrases) for language, phrases in rare.items()},
        "searches": [_run(asr, cuts, rare, beam, bonus) for beam, bonus in searches],
    }


def _run(
    asr: AsrModel,
    cuts: list[tuple[str, str, str, Samples]],
    rare: dict[str, list[str]],
    beam: int,
    bonus: float | None,
) -> dict[str, object]:
    source, results, spent = ModelSource(asr), [], 0.0
    options = {language: {} if bonus is None else {"phrases": rare[language], "bonus": bonus} for language in rare}
    recognizers = {
        language: StreamingTransducer(source, precision="float32", beam=beam, **options[language])  # type: ignore[arg-type]
        for language in rare
    }
    for identifier, language, text, samples in cuts:
        stream = recognizers[language].stream(language)
        started = time.process_time()
        for at in range(0, len(samples), CHUNK):
            stream.accept(samples[at : at + CHUNK])
            stream.partial()
        hypothesis = stream.final().text
        spent += time.process_time() - started
        results.append(Utterance(identifier, language, text, hypothesis))
    scores = score(results)
    right = [
        word in one.hypothesis.split()
        for one in results
        for word in one.reference.split()
        if word in rare[one.language]
    ]
    return {
        "beam": beam,
        "bonus": bonus,
        "mean_wer": round(scores.mean_wer, 4),
        "wer": {one.language: round(one.wer.rate, 4) for one in scores.languages},
        "rare_words_recognised": round(sum(right) / len(right), 4) if right else None,
        "cpu_seconds_a_second_of_audio": round(spent / (sum(len(samples) for *_, samples in cuts) / 16_000), 4),
    }


def main(
    model: Path,
    data: Annotated[Path, typer.Option()],
    split: str = "test",
    bonus: float = BONUS,
    every: int = 1,
    json_path: Annotated[Optional[Path], typer.Option("--json")] = None,  # noqa: UP045
) -> None:
    """Prints the rates of each search."""
    torch.set_num_threads(1)
    command = (
        f"python -m benchmarks.beam_search {model} --data {data} --split {split} --bonus {bonus:g} --every {every}"
    )
    results = {"command": command, **measure(load_model(model), data, split, bonus, every)}
    print(json.dumps(results, indent=2))
    if json_path is not None:
        write_json(json_path, results)


if __name__ == "__main__":
    typer.run(main)
