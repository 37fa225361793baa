"""Runs one cell: trains or prunes, tests, and returns its ledger entry."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import load_cuts, sources_of
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import UtteranceCounts
from asr_pathways.experiment.plan import Cell
from asr_pathways.model_folder.decode import decode_cuts
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import Pathways
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.prune import prune
from asr_pathways.training.state import TrainingState
from asr_pathways.training.train import train

_THREADS = torch.get_num_threads()
"""What torch chose: a cell whose recipe names no number is not to inherit that of the cell before it."""


def cell_folder(root: Path, name: str) -> Path:
    """The run folder of a cell."""
    return root / "cells" / name


def run_cell(cell: Cell, root: Path, data: Path, *, test: bool = True) -> dict[str, Any]:
    """Runs a cell to its end, going on where an earlier try was stopped, and gives its ledger entry.

    The model stays in the cell's folder, for the cells that start from it.

    Args:
        cell: what to run; the cells that it starts from are done.
        root: the experiment's folder.
        data: the data folder that the cell's spec names.
        test: False leaves out what the ledger knows already, where only the model is wanted.

    Raises:
        PathwaysError: if the run fails, or asks for an option that is gone.
    """
    if cell.retired:
        raise PathwaysError(f"{cell.label}: {', '.join(cell.retired)} is gone: only the ledger's entry can be read")
    out = cell_folder(root, cell.name)
    torch.set_num_threads(_THREADS)
    began = time.monotonic()
    state = _prune(cell, root, data, out) if cell.kind == "prune" else _train(cell, root, data, out)
    # An earlier try's time is in the state, and this one's in both: the longer of the two is nearest to the truth.
    trained = max(state.seconds, time.monotonic() - began)
    began = time.monotonic()
    asr = load_model(out)
    start = load_model(out / "checkpoints" / "start").pathways
    tested, samples = _test(asr, data, cell.spec["test"]) if test and cell.spec["test"] else ({}, {})
    return {
        "label": cell.label,
        "spec": cell.spec,
        "tested": tested,
        "samples": samples,
        "sources": [f"{s['attribution']} ({s['licence']})" for s in sources_of(data) if s.get("attribution")],
        "size": _size(asr, out),
        "history": state.history,
        "masks": _masks(asr.pathways, tensors=True),
        "first_masks": _masks(start, tensors=False),
        "events": [{key: value for key, value in event.items() if value is not None} for event in state.masks],
        "digest": model_digest(out),
        "total_steps": cell.total_steps,
        "cost": {"seconds": round(trained + time.monotonic() - began, 1)},
    }


def _train(cell: Cell, root: Path, data: Path, out: Path) -> TrainingState:
    spec = cell.spec
    return train(
        TrainRecipe.model_validate(spec["recipe"]),
        data,
        out,
        init=_model(spec["model"], root),
        languages=spec["languages"],
        resume=_begun(out),
    )


def _prune(cell: Cell, root: Path, data: Path, out: Path) -> TrainingState:
    spec = cell.spec
    model = _model(spec["model"], root)
    assert model is not None
    init: str | Sequence[Path] = "omp"
    if spec["init"] != "omp":
        init = [cell_folder(root, name) for name in spec["init"]["cells"]]
    return prune(
        model,
        data,
        out,
        method=spec["method"],
        sparsity=spec["sparsity"],
        recipe=PruneRecipe.model_validate(spec["recipe"]),
        languages=spec["languages"],
        init=init,
        resume=_begun(out),
    )


def _begun(out: Path) -> bool:
    return (out / "checkpoints" / "start").exists()


def _model(spec: Mapping[str, str] | None, root: Path) -> Path | None:
    if spec is None:
        return None
    return cell_folder(root, spec["cell"]) if "cell" in spec else Path(spec["path"])


def _test(
    asr: AsrModel, data: Path, test: Mapping[str, Any]
) -> tuple[dict[str, UtteranceCounts], dict[str, dict[str, str]]]:
    """Decodes the test splits, each language through its own pathway, and takes the model's loss on them.

    Returns:
        The counts of each language, and one utterance of each: the one whose length is nearest to ten words.
    """
    tested, samples = {}, {}
    for language in asr.check_languages(None):
        cuts = [cut for split in test["splits"] for cut in load_cuts(data, split, [language])]
        cuts = sorted(cuts, key=lambda cut: cut.id)[: test["utterances"] or None]
        model = asr.model
        utterances = decode_cuts(asr, cuts, progress=False)
        taken = [cut for cut in cuts if cut.duration <= model.window]  # longer ones have no loss
        batches = eval_batches(taken, asr.tokenizer, frontend=model.frontend, length_error=model.length_error)
        tested[language] = UtteranceCounts.of(utterances, _loss(asr, batches, language))
        samples[language] = asdict(min(utterances, key=lambda u: (abs(len(u.reference.split()) - 10), u.id)))
    return tested, samples


def _loss(asr: AsrModel, batches: Iterable[Batch], language: str) -> float:
    """Nats a word piece over all batches."""
    totals: dict[str, float] = defaultdict(float)
    with asr.hearing(language):
        for batch in batches:
            pieces = int(batch.target_lengths.sum())
            totals["loss"] += float(asr.model.loss(batch)) * pieces
            totals["pieces"] += pieces
    if not totals:
        raise PathwaysError(f"test: all utterances of {language} are longer than the model's {asr.model.window:g} s")
    return round(totals["loss"] / totals["pieces"], 6)


def _masks(pathways: Pathways | None, *, tensors: bool) -> dict[str, Any] | None:
    """Sparsities and overlaps, for tables and figures."""
    if pathways is None:
        return None
    summary = pathways.summary()
    masks = {key: value for key, value in asdict(summary).items() if key not in ("tensors", "mask_bytes")}
    masks["overlap"] = {f"{a} {b}": round(value, 4) for (a, b), value in pathways.overlap().items()}
    if tensors:
        masks["tensors"] = {
            language: {name: round(value, 4) for name, value in own.items()}
            for language, own in summary.tensors.items()
        }
        masks["union"] = {name: round(value, 4) for name, value in summary.union.items()}
    return masks


def _size(asr: AsrModel, out: Path) -> dict[str, int]:
    """All weights of the model, and the bytes of its files: weights, and the masks of all languages."""
    masks = out / "pathways" / "masks.safetensors"
    return {
        "weights": sum(parameter.numel() for parameter in asr.model.parameters()),
        "bytes": (out / "model.safetensors").stat().st_size,
        "mask_bytes": masks.stat().st_size if masks.exists() else 0,
    }


def model_digest(out: Path) -> str:
    """Stands for weights and masks, bit by bit."""
    total = hashlib.sha256()
    for path in (out / "model.safetensors", out / "pathways" / "masks.safetensors"):
        if path.exists():
            total.update(path.read_bytes())
    return total.hexdigest()[:16]
