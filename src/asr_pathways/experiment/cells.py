"""Runs one cell: trains or prunes, tests, and returns its ledger entry."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import load_cuts, sources_of
from asr_pathways.data.left_out import LeftOut
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
    """Runs a cell to its end, going on where an earlier try was stopped, and returns its ledger entry.

    The model stays in the cell's folder, for the cells that start from it.

    Args:
        cell: what to run; the cells that it starts from are done.
        root: the experiment's folder.
        data: the data folder that the cell's spec names.
        test: False leaves out the tests, where the ledger has them and only the model is wanted.

    Raises:
        PathwaysError: if the run fails, or asks for an option that is gone.
    """
    if cell.retired:
        raise PathwaysError(f"{cell.label}: {', '.join(cell.retired)} is gone: only the ledger's entry can be read")
    out = cell_folder(root, cell.name)
    torch.set_num_threads(_THREADS)
    began = time.monotonic()
    run, start = (_prune if cell.spec["kind"] == "prune" else _train), out / "checkpoints" / "start"
    state = run(cell, root, data, out, start.exists())
    # An earlier try's time is in the state, and this one's in both: the longer of the two is nearest to the truth.
    trained = max(state.seconds, time.monotonic() - began)
    began = time.monotonic()
    asr = load_model(out)
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
        "first_masks": _masks(load_model(start).pathways, tensors=False),
        "events": [{key: value for key, value in event.items() if value is not None} for event in state.masks],
        "digest": model_digest(out),
        "total_steps": cell.total_steps,
        "cost": {"seconds": round(trained + time.monotonic() - began, 1)},
    }


def _train(cell: Cell, root: Path, data: Path, out: Path, resume: bool) -> TrainingState:
    recipe, init = (
        TrainRecipe.model_validate(cell.spec["recipe"]),
        cell.spec["model"] and _model(cell.spec["model"], root),
    )
    return train(recipe, data, out, init=init, languages=cell.spec["languages"], resume=resume, announced=False)


def _prune(cell: Cell, root: Path, data: Path, out: Path, resume: bool) -> TrainingState:
    spec = cell.spec
    init: str | Sequence[Path] = "omp"
    if spec["init"] != "omp":
        init = [cell_folder(root, name) for name in spec["init"]["cells"]]
    return prune(
        _model(spec["model"], root),
        data,
        out,
        method=spec["method"],
        sparsity=spec["sparsity"],
        recipe=PruneRecipe.model_validate(spec["recipe"]),
        languages=spec["languages"],
        init=init,
        resume=resume,
        announced=False,
    )


def _model(spec: Mapping[str, str], root: Path) -> Path:
    return cell_folder(root, spec["cell"]) if "cell" in spec else Path(spec["path"])


def _test(
    asr: AsrModel, data: Path, test: Mapping[str, Any]
) -> tuple[dict[str, UtteranceCounts], dict[str, dict[str, str]]]:
    """Decodes the test splits: the counts of each language, and of its utterances the one nearest to ten words."""
    tested, samples = {}, {}
    for language in asr.check_languages(None):
        cuts = [cut for split in test["splits"] for cut in load_cuts(data, split, [language])]
        cuts = sorted(cuts, key=lambda cut: cut.id)[: test["utterances"] or None]
        model = asr.model
        utterances = decode_cuts(asr, cuts, progress=False)
        short = [cut for cut in cuts if cut.duration <= model.window]  # longer ones have no loss
        left_out = LeftOut(len(short))  # those whose texts do not fit have no loss either
        options: dict[str, Any] = {"frontend": model.frontend, "length_error": model.length_error}
        batches = eval_batches(short, asr.tokenizer, left_out=left_out, written=model.free_text, **options)
        tested[language] = UtteranceCounts.of(utterances, _loss(asr, batches, language))
        samples[language] = asdict(min(utterances, key=lambda u: (abs(len(u.reference.split()) - 10), u.id)))
    return tested, samples


def _loss(asr: AsrModel, batches: Iterable[Batch], language: str) -> float:
    """Nats a word piece over all batches."""
    loss, pieces = 0.0, 0
    with asr.inference(language):
        for batch in batches:
            count = int(batch.target_lengths.sum())
            loss += float(asr.model.loss(batch)) * count
            pieces += count
    if not pieces:
        raise PathwaysError(f"test: all utterances of {language} are longer than the model's {asr.model.window:g} s")
    return round(loss / pieces, 6)


def _masks(pathways: Pathways | None, *, tensors: bool) -> dict[str, Any] | None:
    """Sparsities and overlaps, for tables and figures."""
    if pathways is None:
        return None
    summary = pathways.summary()
    masks = {key: value for key, value in asdict(summary).items() if key not in ("tensors", "mask_bytes")}
    masks["overlap"] = {f"{a} {b}": round(value, 4) for (a, b), value in pathways.overlap().items()}
    if tensors:
        masks["tensors"] = {
            language: {name: round(value, 4) for name, value in sparsities.items()}
            for language, sparsities in summary.tensors.items()
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
    """A hash of weights and masks, bit by bit."""
    total = hashlib.sha256()
    for path in (out / "model.safetensors", out / "pathways" / "masks.safetensors"):
        if path.exists():
            total.update(path.read_bytes())
    return total.hexdigest()[:16]
