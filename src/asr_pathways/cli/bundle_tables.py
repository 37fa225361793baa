"""What ``inspect`` shows of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from asr_pathways.bundle.bundle import Bundle, MaskSize
from asr_pathways.formats import percent, size


def bundle_tables(path: Path) -> Iterator[Table]:
    """Bytes by part, and what each mask takes beside the least that it could."""
    bundle = Bundle.open(path)
    bundle.verify()
    sizes = bundle.sizes()
    parts = Table("part", title="Parts")
    parts.add_column("bytes", justify="right")
    for name, count in sizes.parts.items():
        parts.add_row(name, size(count))
    parts.add_row("all", size(sizes.total), style="bold")
    yield parts
    masks = Table("mask", title=f"Masks: bits a prunable weight ({bundle.config.dtype} values)")
    for heading in ("bytes", "bits", "entropy bound", "over it %"):
        masks.add_column(heading, justify="right")
    masks.add_row("union", *_row(sizes.union))
    for key, mask in sizes.masks.items():
        masks.add_row(key, *_row(mask))
    total = MaskSize(sizes.union.bytes + sum(m.bytes for m in sizes.masks.values()), sizes.mask_bits, sizes.mask_bound)
    masks.add_row("all", *_row(total), style="bold")
    yield masks


def _row(mask: MaskSize) -> tuple[str, str, str, str]:
    over = percent(mask.bits / mask.bound - 1) if mask.bound else "–"
    return size(mask.bytes), f"{mask.bits:.3f}", f"{mask.bound:.3f}", over
