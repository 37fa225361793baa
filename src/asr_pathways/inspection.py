"""What ``inspect`` shows of a MODEL folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from asr_pathways.evaluation.formats import percent, size
from asr_pathways.model_folder import Recognizer, is_bundle
from asr_pathways.pruning import Pathways

_PARTS = ("model.safetensors", "tokenizer.model", "pathways/masks.safetensors", "pathways/own.safetensors")


def inspection_tables(recognizer: Recognizer, folder: Path) -> Iterator[Table]:
    """Tables of sizes and, for a pruned model, of sparsity and overlap; for a bundle, of its parts too."""
    yield _sizes(recognizer, folder)
    if is_bundle(folder):
        from asr_pathways.runtime.inspection import bundle_tables

        yield from bundle_tables(folder)
    if recognizer.pathways is not None:
        yield _sparsity(recognizer.pathways)
        if len(recognizer.pathways.languages) > 1:
            yield _overlap(recognizer.pathways)


def union_density(pathways: Pathways) -> dict[str, float]:
    """Share of each prunable tensor that at least one pathway keeps."""
    kept = {name: tensor.clone() for name, tensor in pathways.mask(pathways.languages[0]).items()}
    for language in pathways.languages[1:]:
        for name, tensor in pathways.mask(language).items():
            kept[name] |= tensor
    return {name: float(tensor.float().mean()) for name, tensor in kept.items()}


def _sizes(recognizer: Recognizer, folder: Path) -> Table:
    model, card = recognizer.model, recognizer.card
    table = Table(title=str(folder), show_header=False)
    table.add_row("languages", " ".join(recognizer.languages) or "any")
    table.add_row("weights", f"{sum(p.numel() for p in model.parameters()):,}")
    for term, value in model.describe().items():
        table.add_row(term, value)
    for part in _PARTS:
        if (folder / part).is_file():
            table.add_row(part, size((folder / part).stat().st_size))
    if recognizer.pathways is not None:
        summary = recognizer.pathways.summary()
        table.add_row("prunable weights", f"{summary.weights:,}")
        table.add_row("union density", percent(summary.union_density))
        if summary.mean_iou is not None:
            table.add_row("mean IoU of pathways", f"{summary.mean_iou:.3f}")
        table.add_row("masks", size(summary.mask_bytes))
    for line in card.attribution:
        table.add_row("attribution", line)
    return table


def _sparsity(pathways: Pathways) -> Table:
    summary, union = pathways.summary(), union_density(pathways)
    table = Table("tensor", title="Sparsity")
    for language in pathways.languages:
        table.add_column(language, justify="right")
    table.add_column("in no pathway", justify="right")
    for name in pathways.names:
        shares = [percent(summary.tensors[language][name]) for language in pathways.languages]
        table.add_row(name, *shares, percent(1 - union[name]))
    total = [percent(summary.sparsity[language]) for language in pathways.languages]
    table.add_row("all", *total, percent(1 - summary.union_density), style="bold")
    return table


def _overlap(pathways: Pathways) -> Table:
    pairs = pathways.overlap()
    table = Table("", title="IoU of pathways")
    for language in pathways.languages:
        table.add_column(language, justify="right")
    for a in pathways.languages:
        row = ["1" if a == b else f"{pairs.get((a, b), pairs.get((b, a), 0.0)):.3f}" for b in pathways.languages]
        table.add_row(a, *row)
    return table
