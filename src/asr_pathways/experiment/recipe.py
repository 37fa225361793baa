"""An experiment as data: corpora, dense models, and blocks of systems to be compared on the same utterances."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from asr_pathways.config import Config
from asr_pathways.data.corpora.prompts import LANGUAGES
from asr_pathways.data.corpus import SPLITS
from asr_pathways.pruning import METHODS
from asr_pathways.training.config import PruneRecipe, TrainRecipe

DENSE = "dense"


class PromptsSource(Config):
    """Real recordings, from Debian (see `data.corpora.prompts`)."""

    kind: Literal["prompts"]
    languages: tuple[str, ...] = LANGUAGES


class SpeechSource(Config):
    """Synthetic speech (see `data.corpora.synth`) of everyday lines or of spoken numbers."""

    kind: Literal["synth"]
    texts: Literal["everyday", "numbers"]
    languages: tuple[str, ...] = LANGUAGES
    hours: float = Field(gt=0, description="a language")
    lines: int = Field(default=2000, gt=0, description="a language, of numbers")
    held_out: float = Field(default=0.02, ge=0, lt=0.5)
    exclude: str | None = Field(default=None, description="another corpus, whose texts are left out")
    seed: int = 0


class MergedSource(Config):
    """Other corpora in one; those that have a dev and a test split bring them along."""

    kind: Literal["merged"]
    of: tuple[str, ...] = Field(min_length=1)


class FolderSource(Config):
    """A data folder that is there already."""

    kind: Literal["folder"]
    path: Path


Source = Annotated[PromptsSource | SpeechSource | MergedSource | FolderSource, Field(discriminator="kind")]


class ModelSpec(Config):
    """A dense model trained from scratch, shared by all that start from it."""

    data: str
    recipe: TrainRecipe


class DenseSpec(Config):
    """The dense model of a block: a named one or a MODEL folder, perhaps finetuned on the block's data.

    ``contents`` is the folder's hash by `plan.contents`: with it, a report can be made without the folder, and another
    model of the same name is refused.
    """

    model: str
    contents: str = ""
    finetune: TrainRecipe | None = None


class SystemSpec(Config):
    """One row of a table.

    Attributes:
        method: ``dense``, or a pruning method.
        table: the table that it is part of.
        languages: ``all``: one model; ``each``: a model for each language by itself (scenario A).
        steps: optimizer steps of each of its runs.
        data: what it trains on, if not on the block's corpus; it is tested on this one's test split too, which is to
            be the same.
        start: the dense system of the block that it starts from; empty: the block's dense model.
        init: where masks start: ``omp``, or the name of a system of the block that prunes: of its masks for each
            language (LSP) or of its one mask (LAP).
        sparsity: instead of the block's.
        pathways: options of `PathwayConfig`, instead of the method's and the block's.
        recipe: fields of `PruneRecipe`, instead of the block's.
        vary: {option: values}: a row for each combination; an option is ``sparsity``, ``steps``, or one of
            `PathwayConfig`.
        seeds: which of the block's; None: all.
        note: a line for readers.
    """

    method: str
    table: str
    languages: Literal["all", "each"] = "all"
    steps: int = Field(default=0, ge=0)
    data: str = ""
    start: str = ""
    init: str = "omp"
    sparsity: float | None = Field(default=None, ge=0, lt=1)
    pathways: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    note: str = ""

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name != DENSE and name not in METHODS:
            raise ValueError(f"unknown method {name!r}: choose among {DENSE}, {', '.join(METHODS)}")
        return name

    @model_validator(mode="after")
    def _dense_has_no_masks(self) -> SystemSpec:
        if self.method == DENSE and (self.pathways or self.recipe or self.sparsity is not None or self.init != "omp"):
            raise ValueError(
                "dense has no masks and trains by the block's recipe: leave pathways, recipe, sparsity, init"
            )
        return self

    def variants(self, name: str) -> Iterator[Variant]:
        """The rows that ``vary`` makes of this one; itself if there is nothing to vary."""
        for combination in itertools.product(*self.vary.values()):
            varied = dict(zip(self.vary, combination, strict=True))
            fields = {option: value for option, value in varied.items() if option in ("sparsity", "steps")}
            pathways = {option: value for option, value in varied.items() if option not in fields}
            changed = {**fields, "pathways": {**self.pathways, **pathways}, "vary": {}}
            values = {option: "none" if value is None else value for option, value in varied.items()}
            label = ", ".join([name, *(f"{option} {value}" for option, value in values.items())])
            yield Variant(label, name, varied, self.model_copy(update=changed))


@dataclass(frozen=True)
class Variant:
    """A row: a system with one combination of the values that ``vary`` names.

    Attributes:
        base: the name of the system that it comes from; the row's where nothing varies.
        varied: this row's values of those options.
        system: with those values in it.
    """

    name: str
    base: str
    varied: dict[str, Any]
    system: SystemSpec


class Block(Config):
    """Systems that share a dense model and are scored on the same utterances.

    Attributes:
        about: what it is for, in a sentence or two.
        data: a corpus of the experiment.
        folds: cut the corpus into so many parts: seed k trains without part k and is tested on it. 0: the
            splits of the corpus.
        seeds: one run of everything for each.
        dense: what all systems start from.
        recipe: how all of them train, but for the steps.
        sparsity: of all systems that name no other.
        test: the splits on which systems are scored.
        utterances: at most so many a language are scored; 0: all.
        words: how many words all seeds together will be scored on, for `detectable`.
        deviation: the standard deviation that is expected of the difference in errors a word between two systems.
        systems: by name.
        compare: pairs of names: is the first better than the second?
        speeds: a file of seconds in several runtimes by system, as `benchmarks.neurons` writes it: the report has a
            table of these beside WERs; None: it has none.
        detailed: whether the report also has a chart of WER by language, a table of sizes, and a recording of each
            language as every system transcribes it.
    """

    about: str
    data: str
    folds: int = Field(default=0, ge=0)
    seeds: tuple[int, ...] = (0,)
    dense: DenseSpec
    recipe: PruneRecipe
    sparsity: float = Field(default=0.7, ge=0, lt=1)
    test: tuple[str, ...] = ("test",)
    utterances: int = Field(default=0, ge=0)
    words: int = Field(default=0, ge=0)
    deviation: float = Field(default=0.5, gt=0)
    systems: dict[str, SystemSpec]
    compare: tuple[tuple[str, str], ...] = ()
    speeds: Path | None = None
    detailed: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Block:
        for split in self.test:
            if split not in SPLITS:
                raise ValueError(f"test: unknown split {split!r}: choose among {', '.join(SPLITS)}")
        if self.folds == 1 or (self.folds and max(self.seeds) >= self.folds):
            raise ValueError(f"folds: {self.folds}: seed k tests fold k, so there must be more folds than that")
        rows = self.rows()
        names = Counter(row.name for name, system in self.systems.items() for row in system.variants(name))
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"systems: two rows have the name {twice[0]!r}: choose another one")
        for name, system in ((name, row.system) for name, row in rows.items()):
            if system.init != "omp" and (system.init not in rows or rows[system.init].system.method == DENSE):
                raise ValueError(f"systems.{name}: init {system.init!r} is neither omp nor a system that prunes")
            start = rows[system.start].system if system.start in rows else None
            if system.start and (start is None or start.method != DENSE or start.start):
                raise ValueError(
                    f"systems.{name}: start {system.start!r} is no dense system that starts from the block's model"
                )
            if system.data and self.folds:
                raise ValueError(f"systems.{name}: data: the block's folds are of its own corpus: leave it out")
            if system.init == name:
                raise ValueError(f"systems.{name}: its masks cannot start from its own")
            if extra := set(system.seeds or ()) - set(self.seeds):
                raise ValueError(f"systems.{name}: seed {min(extra)} is none of the block's")
        for pair in self.compare:
            for name in pair:
                if name not in rows:
                    raise ValueError(f"compare: there is no system {name!r}; there are: {', '.join(rows)}")
        return self

    def rows(self) -> dict[str, Variant]:
        """All rows by name."""
        return {row.name: row for name, system in self.systems.items() for row in system.variants(name)}


class Claim(Config):
    """Something that the report decides: in ``block``, ``better`` has a lower mean WER than ``than``.

    Attributes:
        says: it in words.
        block, better, than: what is compared.
        margin: a fraction (0.01 is one point): instead, ``better`` is less than so much worse.
        planned: whether it was made, margin included, before any of its results was seen.
    """

    says: str
    block: str
    better: str
    than: str
    margin: float = Field(default=0, ge=0, lt=1)
    planned: bool = True


class ExperimentRecipe(Config):
    """``experiment RECIPE``.

    Attributes:
        title: of the report.
        about: what the report begins with, Markdown.
        data: corpora by name.
        models: dense models by name.
        blocks: by name, in the report's order.
        claims: what the report's first paragraph decides.
        document: where the report is written as Markdown, its charts beside it; None: beside ``report.html``.
        discussion: a Markdown file that the report includes: what people conclude from the figures.
        readme: a file in which the text between ``<!-- results -->`` and ``<!-- /results -->`` is replaced by the main
            table.
        main: the block of that table.
    """

    title: str
    about: str = ""
    data: dict[str, Source]
    models: dict[str, ModelSpec] = Field(default_factory=dict)
    blocks: dict[str, Block]
    claims: tuple[Claim, ...] = ()
    document: Path | None = None
    discussion: Path | None = None
    readme: Path | None = None
    main: str | None = None

    @model_validator(mode="after")
    def _names_are_known(self) -> ExperimentRecipe:
        used = {f"models.{name}": spec.data for name, spec in self.models.items()}
        used |= {f"blocks.{name}": block.data for name, block in self.blocks.items()}
        for block, spec in self.blocks.items():
            used |= {f"blocks.{block}.{name}": system.data for name, system in spec.systems.items() if system.data}
        used |= {f"data.{n}": s.exclude for n, s in self.data.items() if isinstance(s, SpeechSource) and s.exclude}
        merged = {name: source for name, source in self.data.items() if isinstance(source, MergedSource)}
        used |= {f"data.{name}.of.{n}": part for name, source in merged.items() for n, part in enumerate(source.of)}
        for where, corpus in used.items():
            if corpus not in self.data:
                raise ValueError(f"{where}: no corpus {corpus!r}; there are: {', '.join(self.data)}")
        for name, source in merged.items():
            if part := next((part for part in source.of if part in merged), None):
                raise ValueError(f"data.{name}: {part!r} is merged itself: name what it is made of")
        for name, spoken in self.data.items():
            if isinstance(spoken, SpeechSource) and spoken.exclude in {name, *merged}:
                raise ValueError(f"data.{name}: exclude: {spoken.exclude!r} is itself, or merged")
        for block, spec in self.blocks.items():
            for name, system in spec.systems.items():
                if system.data and not self._tests_alike(system.data, spec.data):
                    raise ValueError(
                        f"blocks.{block}.{name}: data {system.data!r} is to be merged of {spec.data!r}, on which the "
                        "block is tested, and of speech with held_out: 0"
                    )
        for claim in self.claims:
            rows = self.blocks[claim.block].rows() if claim.block in self.blocks else {}
            for name in (claim.better, claim.than):
                if name not in rows:
                    raise ValueError(f"claims: {claim.says}: there is no system {name!r} in block {claim.block!r}")
        if (self.readme is not None and self.main is None) or (self.main is not None and self.main not in self.blocks):
            raise ValueError(f"main: {self.main!r} is none of the blocks: {', '.join(self.blocks)}")
        return self

    def _tests_alike(self, name: str, other: str) -> bool:
        """Whether a corpus has the dev and test splits of another one, as far as the recipe shows."""
        source = self.data[name]
        parts = source.of if isinstance(source, MergedSource) else (name,)
        more = [self.data[part] for part in parts if part != other]
        return other in parts and not any(isinstance(part, SpeechSource) and part.held_out for part in more)
