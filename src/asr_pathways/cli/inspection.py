"""The tables of ``inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.formats import language_name, percent, size
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import Pathways
from asr_pathways.runtime.layers import TOLERANCE
from asr_pathways.runtime.recognizer import Recognizer

_PARTS = ("model.safetensors", "tokenizer.model", "pathways/masks.safetensors", "pathways/own.safetensors")


def inspection_tables(asr: AsrModel, folder: Path) -> Iterator[Table]:
    """Tables of sizes and, for a pruned model, of sparsity and overlap; for a bundle, of its parts too."""
    yield _sizes(asr, folder)
    if is_bundle(folder):
        yield from _bundle(folder)
    if asr.pathways is not None:
        yield _sparsity(asr.pathways)
        if len(asr.pathways.languages) > 1:
            yield _overlap(asr.pathways)


def plan_table(model: Path) -> Table:
    """The ways in which a model's products can be computed on this machine, and which is used.

    Raises:
        PathwaysError: if there is no such model, or the kernels were not built.
    """
    recognizer = Recognizer(model, memory=0)
    table = Table("weight", title=f"Products on this machine, one thread ({TOLERANCE:.0%} of error is allowed)")
    for heading in ("nonzeros %", "rows"):
        table.add_column(heading, justify="right")
    table.add_column("format")
    for heading in ("microseconds", "error %", "bytes"):
        table.add_column(heading, justify="right")
    table.add_column("used")
    for product, timings in sorted(recognizer.plan().items()):
        rows = f"{product.rows}{' exact' if product.exact else ''}"
        heads = (f"{product.out}x{product.into}", str(product.percent), rows)
        for place, timing in enumerate(timings):
            costs = f"{1e6 * timing.seconds:,.1f}", percent(timing.error, 2), size(round(timing.nbytes))
            row = *(heads if place == 0 else ("", "", "")), timing.format.name, *costs, "" if place else "*"
            table.add_row(*row, style="" if place else "bold", end_section=place == len(timings) - 1)
    return table


def _sizes(asr: AsrModel, folder: Path) -> Table:
    model, card = asr.model, asr.card
    table = Table(title=str(folder), show_header=False)
    table.add_row("languages", " ".join(asr.languages) or "any")
    table.add_row("weights", f"{sum(p.numel() for p in model.parameters()):,}")
    for term, value in model.describe().items():
        table.add_row(term, value)
    for part in _PARTS:
        if (folder / part).is_file():
            table.add_row(part, size((folder / part).stat().st_size))
    if asr.pathways is not None:
        summary = asr.pathways.summary()
        table.add_row("prunable weights", f"{summary.weights:,}")
        table.add_row("union density %", percent(summary.union_density))
        if summary.mean_iou is not None:
            table.add_row("mean IoU of pathways", f"{summary.mean_iou:.3f}")
        table.add_row("masks at 1 bit a weight", size(summary.mask_bytes))
    if card.quality:
        table.add_row("quality", card.quality)
    for line in card.attribution:
        table.add_row("attribution", line)
    return table


def _bundle(path: Path) -> Iterator[Table]:
    """Bytes by part and by mask, and the word error rates in its header."""
    bundle = Bundle.open(path)
    bundle.verify()
    sizes = bundle.sizes()
    caption = "union: 1 bit a prunable weight, for all languages; a mask: 1 bit for each weight of the union"
    parts = Table("part", title=f"Parts ({bundle.config.dtype} values)", caption=caption)
    parts.add_column("bytes", justify="right")
    parts.add_column("bits a prunable weight", justify="right")
    masks = {f"mask {key}": count for key, count in sizes.masks.items()}
    for name, count in {**sizes.parts, **masks}.items():
        if name != "masks":
            bits = f"{8 * count / sizes.weights:.3f}" if name in masks or name == "union" else ""
            parts.add_row(name, size(count), bits)
    parts.add_row("all", size(sizes.total), f"masks {sizes.mask_bits:.3f}", style="bold")
    yield parts
    if scores := bundle.config.scores:
        table = Table("language", title="Word error rates when it was written")
        table.add_column("WER %", justify="right")
        table.add_column("words", justify="right")
        for language, score in scores.items():
            table.add_row(f"{language} {language_name(language)}", percent(score.wer), f"{score.words:,}")
        yield table


def _sparsity(pathways: Pathways) -> Table:
    summary = pathways.summary()
    table = Table("tensor", title="Sparsity %", caption="The last column: pruned in all pathways")
    for language in pathways.languages:
        table.add_column(language, justify="right")
    table.add_column("in no pathway", justify="right")
    for name in pathways.names:
        shares = [percent(summary.tensors[language][name]) for language in pathways.languages]
        table.add_row(name, *shares, percent(1 - summary.union[name]))
    total = [percent(summary.sparsity[language]) for language in pathways.languages]
    table.add_row("all", *total, percent(1 - summary.union_density), style="bold")
    return table


def _overlap(pathways: Pathways) -> Table:
    pairs = pathways.overlap()
    table = Table(
        "",
        title="IoU of pathways",
        caption="Weights that both keep, as a share of those that either keeps: 1 is the same mask",
    )
    for language in pathways.languages:
        table.add_column(language, justify="right")
    for a in pathways.languages:
        row = ["1" if a == b else f"{pairs.get((a, b), pairs.get((b, a), 0.0)):.3f}" for b in pathways.languages]
        table.add_row(a, *row)
    return table
