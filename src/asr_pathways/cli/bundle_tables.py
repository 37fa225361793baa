"""What ``inspect`` shows of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from asr_pathways.bundle.bundle import Bundle
from asr_pathways.formats import language_name, percent, size


def bundle_tables(path: Path) -> Iterator[Table]:
    """Bytes by part and by mask, and the word error rates that were known when it was written."""
    bundle = Bundle.open(path)
    bundle.verify()
    sizes = bundle.sizes()
    parts = Table("part", title=f"Parts ({bundle.config.dtype} values)")
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
