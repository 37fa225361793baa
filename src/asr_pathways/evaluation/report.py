"""The report of a pruning run: plain data in, one self-contained HTML file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Comparison, Scores
from asr_pathways.files import atomic_path


@dataclass(frozen=True)
class System:
    """One model as evaluated on the test split; ``sparsity`` is None for a dense one."""

    name: str
    scores: Scores
    sparsity: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """The paired comparison of two systems by name, ``a`` minus ``b``."""

    a: str
    b: str
    comparison: Comparison


@dataclass(frozen=True)
class Curve:
    """Mean WER on the dev split after so many training steps."""

    system: str
    steps: Sequence[int]
    wer: Sequence[float]


class PathwaySummary(Protocol):
    """What `Pathways.summary()` tells: sparsities by language, and by language and tensor."""

    @property
    def weights(self) -> int: ...
    @property
    def sparsity(self) -> Mapping[str, float]: ...
    @property
    def tensors(self) -> Mapping[str, Mapping[str, float]]: ...
    @property
    def union_density(self) -> float: ...
    @property
    def mask_bytes(self) -> int: ...


@dataclass(frozen=True)
class Overlap:
    """IoU of every two pathways (L, L), and the share of weights that at least one of them keeps.

    ``title`` says when or of what, for example "Before training".
    """

    title: str
    languages: Sequence[str]
    iou: Sequence[Sequence[float]]
    union_density: float

    @classmethod
    def of(cls, title: str, summary: PathwaySummary, pairs: Mapping[tuple[str, str], float]) -> Overlap:
        """From `Pathways.summary()` and `Pathways.overlap()`, which has every pair of languages once."""
        languages = list(summary.sparsity)
        both_ways = {**pairs, **{(b, a): value for (a, b), value in pairs.items()}}
        iou = [[1.0 if a == b else both_ways[a, b] for b in languages] for a in languages]
        return cls(title, languages, iou, summary.union_density)


@dataclass(frozen=True)
class LayerDensity:
    """Share of kept weights by prunable tensor and language (N, L), and by any language (N,)."""

    languages: Sequence[str]
    layers: Sequence[str]
    density: Sequence[Sequence[float]]
    union: Sequence[float] | None = None

    @classmethod
    def of(cls, summary: PathwaySummary, union: Mapping[str, float] | None = None) -> LayerDensity:
        """From `Pathways.summary()`; ``union`` is the share that any language keeps, by tensor."""
        languages = list(summary.tensors)
        layers = list(summary.tensors[languages[0]])
        density = [[1 - summary.tensors[language][layer] for language in languages] for layer in layers]
        return cls(languages, layers, density, None if union is None else [union[layer] for layer in layers])


@dataclass(frozen=True)
class Sizes:
    """Counts of weights and bytes; ``kept`` are the prunable weights that each language keeps."""

    dense_bytes: int
    mask_bytes: int
    total_weights: int
    prunable_weights: int
    kept: Mapping[str, int]
    union: int

    @classmethod
    def of(cls, summary: PathwaySummary, *, dense_bytes: int, total_weights: int) -> Sizes:
        """From `Pathways.summary()`, the size of the dense model's file and its number of weights."""
        return cls(
            dense_bytes=dense_bytes,
            mask_bytes=summary.mask_bytes,
            total_weights=total_weights,
            prunable_weights=summary.weights,
            kept={language: round((1 - s) * summary.weights) for language, s in summary.sparsity.items()},
            union=round(summary.union_density * summary.weights),
        )


@dataclass(frozen=True)
class Sample:
    """One test recording and what each system, by name, made of it."""

    id: str
    language: str
    reference: str
    hypotheses: Mapping[str, str]


@dataclass(frozen=True)
class Origin:
    """How the numbers were made: the command, how long it took, and anything else worth a row."""

    command: str
    seconds: float
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that the report shows; what is left empty is left out.

    ``main`` names the system that the report is about. ``summary`` is written from the systems when it is empty.
    A curve of one point is drawn as a level line, for a system that does not train.

    Raises:
        PathwaysError: if a name is used that no system has, or the systems' languages differ.
    """

    title: str
    systems: Sequence[System]
    main: str
    summary: str = ""
    pairs: Sequence[Pair] = ()
    curves: Sequence[Curve] = ()
    overlaps: Sequence[Overlap] = ()
    layers: LayerDensity | None = None
    sizes: Sizes | None = None
    samples: Sequence[Sample] = ()
    origin: Origin | None = None
    attribution: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [system.name for system in self.systems]
        if len(set(names)) != len(names):
            raise PathwaysError(f"report: two systems have the same name: {', '.join(names)}")
        languages = {tuple(entry.language for entry in system.scores.languages) for system in self.systems}
        if len(languages) > 1:
            raise PathwaysError("report: the systems were not scored on the same languages in the same order")
        used = {self.main, *(name for pair in self.pairs for name in (pair.a, pair.b))}
        used |= {curve.system for curve in self.curves}
        used |= {name for sample in self.samples for name in sample.hypotheses}
        unknown = sorted(used - set(names))
        if unknown:
            raise PathwaysError(f"report: no system is called {unknown[0]!r}; there are: {', '.join(names)}")

    def system(self, name: str) -> System:
        """The system of that name, which must be there."""
        return next(system for system in self.systems if system.name == name)


def write_report(path: Path, report: Report) -> None:
    """Writes the report as one HTML file that needs no other.

    Raises:
        PathwaysError: if the file cannot be written.
    """
    text = render(report)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(report: Report) -> str:
    """The report as an HTML document."""
    from asr_pathways.evaluation import sections
    from asr_pathways.evaluation.markup import page
    from asr_pathways.evaluation.style import STYLE

    parts = [
        sections.header(report),
        sections.error_rates(report),
        sections.pairs(report),
        sections.curves(report),
        sections.overlaps(report),
        sections.layers(report),
        sections.sizes(report),
        sections.samples(report),
        sections.origin(report),
        sections.attribution(report),
    ]
    return page(report.title, STYLE, *(part for part in parts if part))
