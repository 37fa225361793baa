"""Which language is it: a head on pooled encodings against the pathway whose transcript scores best.

python -m benchmarks.language_id runs/dynamic data/prompts data/synth
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.model_folder.language_id import LanguageIdentifier, embed, embeddings_of
from asr_pathways.model_folder.model import AsrModel


def measure(model: Path, data: list[Path], utterances: int) -> dict[str, object]:
    """Accuracy on each test split, of a head trained on each train split and on all of them, and of scores.

    Args:
        model: a pruned MODEL.
        data: data folders in the model's languages.
        utterances: of each test split, for the scores of pathways and for times: every n-th of so many.
    """
    asr = load_model(model)
    test = {folder.name: _batches(asr, folder, "test") for folder in data}
    seen = {name: embeddings_of(asr, batches, name) for name, batches in test.items()}
    taught = {folder.name: embeddings_of(asr, _batches(asr, folder, "train"), "train") for folder in data}
    heads = {}
    for name in (*taught, "all") if len(taught) > 1 else taught:
        parts = [part for other, part in taught.items() if name in (other, "all")]
        labels = [label for _, labels in parts for label in labels]
        heads[name] = LanguageIdentifier.fit(torch.cat([embeddings for embeddings, _ in parts]), labels)
    few = {name: _few(batches, utterances) for name, batches in test.items()}
    return {
        "model": str(model),
        "languages": list(asr.languages),
        "utterances": {name: len(labels) for name, (_, labels) in seen.items()},
        "head_taught_on": {
            name: {split: _right(head, *labelled) for split, labelled in seen.items()} for name, head in heads.items()
        },
        "best_score_of_pathways": {name: _by_score(asr, batches) for name, batches in few.items()},
        **_times(asr, [batch for batches in few.values() for batch in batches]),
        "threads": torch.get_num_threads(),
    }


def _batches(asr: AsrModel, data: Path, split: str, seconds: float = 60) -> list[Batch]:
    cuts = load_cuts(data, split, asr.languages)
    return list(eval_batches(cuts, max_seconds=seconds, frontend=asr.model.frontend))


def _few(batches: list[Batch], count: int) -> list[Batch]:
    """Single utterances, evenly out of all."""
    single = [
        replace(
            batch,
            ids=[name],
            texts=[batch.texts[row]],
            features=batch.features[row : row + 1, : batch.feature_lengths[row]],
            feature_lengths=batch.feature_lengths[row : row + 1],
            targets=batch.targets[row : row + 1],
            target_lengths=batch.target_lengths[row : row + 1],
        )
        for batch in batches
        for row, name in enumerate(batch.ids)
    ]
    return single[:: max(1, len(single) // count)][:count]


def _right(head: LanguageIdentifier, embeddings: torch.Tensor, labels: list[str]) -> float:
    best = [head.languages[index] for index in head.probabilities(embeddings).argmax(-1).tolist()]
    return round(sum(a == b for a, b in zip(best, labels, strict=True)) / len(labels), 3)


@torch.no_grad()
def _by_score(asr: AsrModel, batches: list[Batch]) -> float:
    """The share of utterances whose pathway has the likeliest transcript, in nats a token."""
    right = 0
    for batch in batches:
        scores = {}
        for language in asr.languages:
            with asr.use(language):
                (tokens,) = asr.model.decode(batch.features, batch.feature_lengths, language)
                scored = replace(
                    batch,
                    language=language,
                    targets=torch.tensor([tokens], dtype=torch.long),
                    target_lengths=torch.tensor([len(tokens)]),
                )
                scores[language] = float(asr.model.loss(scored))
        right += min(scores, key=lambda language: scores[language]) == batch.language
    return round(right / len(batches), 3)


@torch.no_grad()
def _times(asr: AsrModel, batches: list[Batch]) -> dict[str, float]:
    """Median seconds an utterance: to embed it, and to transcribe it in a known language."""
    first = asr.languages[0]
    embedding, transcribing = [], []
    with asr.use(first):
        for batch in batches[:20]:
            started = time.perf_counter()
            embed(asr.model, batch.features, batch.feature_lengths, first)
            embedding.append(time.perf_counter() - started)
            started = time.perf_counter()
            asr.model.decode(batch.features, batch.feature_lengths, first)
            transcribing.append(time.perf_counter() - started)
    times = statistics.median(embedding), statistics.median(transcribing)
    return {
        "identify_seconds": round(times[0], 4),
        "transcribe_seconds": round(times[1], 4),
        "extra_cost": round(times[0] / times[1], 2),
    }


def run(
    model: Annotated[Path, typer.Argument()], data: Annotated[list[Path], typer.Argument()], utterances: int = 100
) -> None:
    """Prints shares and times as JSON."""
    typer.echo(json.dumps(measure(model, data, utterances), indent=1))


if __name__ == "__main__":
    typer.run(run)
