"""From a recipe to cells: what runs, after what, and under which name.

A cell is one run. Its name is a hash of everything that decides its result: corpora, recipes, seeds and, by their
names, the cells that it starts from. So a cell that several tables need runs once, a changed recipe makes new
names, and a ledger entry is valid for as long as its name is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.recipe import (
    DENSE,
    Block,
    DenseSpec,
    ExperimentRecipe,
    FolderSource,
    MergedSource,
    PromptsSource,
    SpeechSource,
    SystemSpec,
    Variant,
)
from asr_pathways.pruning import METHODS
from asr_pathways.pruning.config import RETIRED
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe

VERSION = 1
"""Part of every name: raised when the code, or a default of a recipe or of `PathwayConfig`, changes results."""

_NO_MATTER = {"checkpoint_every"}
"""Fields of recipes that decide nothing but how much is lost by a kill."""

_RECIPES: dict[str, type[LoopConfig]] = {"train": TrainRecipe, "prune": PruneRecipe}


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: the hash.
        spec: all that decides the result, as plain data.
        parents: the cells whose models or masks it starts from.
        label: for people: block, system, languages, seed of the first row that needs it.
        total_steps: its steps and those of the runs that made its masks; the dense model's do not count.
    """

    name: str
    spec: dict[str, Any]
    parents: tuple[str, ...]
    label: str
    total_steps: int

    @property
    def retired(self) -> list[str]:
        """Options of pathways that are gone: such a cell cannot run, only its ledger entry can be read."""
        return [name for name in self.spec.get("pathways", ()) if name in RETIRED]

    @property
    def recipe(self) -> LoopConfig:
        return _RECIPES[self.spec["kind"]].model_validate(self.spec["recipe"])

    @property
    def steps(self) -> int:
        return int(self.spec["recipe"]["optimizer"]["steps"])


@dataclass(frozen=True)
class Run:
    """A cell as part of a row: its seed and the languages that it is tested on."""

    seed: int
    languages: tuple[str, ...]
    cell: str


@dataclass(frozen=True)
class Row:
    """A row of a block with its runs; ``sparsity`` is None for a dense one."""

    block: str
    variant: Variant
    sparsity: float | None
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def system(self) -> SystemSpec:
        return self.variant.system


@dataclass
class Plan:
    """All cells by name, parents first, and the rows that they make."""

    recipe: ExperimentRecipe
    cells: dict[str, Cell] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def row(self, block: str, name: str) -> Row:
        return next(row for row in self.rows if (row.block, row.name) == (block, name))


def make_plan(recipe: ExperimentRecipe) -> Plan:
    """Every cell of ``recipe``. Reads no speech: only folders that the recipe names are looked at.

    Raises:
        PathwaysError: if such a folder is not there, or systems start from each other in a circle.
    """
    plan = Plan(recipe)
    for name in recipe.blocks:
        _BlockPlanner(plan, name)
    return plan


def corpus_spec(recipe: ExperimentRecipe, name: str) -> dict[str, Any]:
    """What decides the contents of a corpus, as plain data."""
    source = recipe.data[name]
    spec: dict[str, Any] = source.model_dump(mode="json")
    if isinstance(source, FolderSource):
        return {"kind": "folder", "contents": contents(source.path, "*.jsonl.gz")}
    if isinstance(source, MergedSource):
        spec["of"] = [corpus_spec(recipe, part) for part in source.of]
    if isinstance(source, SpeechSource) and source.exclude is not None:
        spec["exclude"] = corpus_spec(recipe, source.exclude)
    return spec


def digest(value: Any) -> str:
    """12 hexadecimal digits: a hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def languages_of_block(recipe: ExperimentRecipe, block: Block) -> tuple[str, ...]:
    """The languages of a block's corpus.

    Raises:
        PathwaysError: if it is a folder that is not there.
    """
    source = recipe.data[block.data]
    parts = source.of if isinstance(source, MergedSource) else (block.data,)
    return tuple(dict.fromkeys(language for part in parts for language in _languages(recipe, part)))


def _languages(recipe: ExperimentRecipe, corpus: str) -> Sequence[str]:
    """The languages of a corpus that is not merged."""
    source = recipe.data[corpus]
    if isinstance(source, PromptsSource | SpeechSource):
        return source.languages
    assert isinstance(source, FolderSource)
    from asr_pathways.data.corpus import summarize

    return [row.language for row in summarize(source.path)]


class _BlockPlanner:
    """Adds the rows of a block to a plan, and the cells that they need."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._recipe, self._name = plan, plan.recipe, name
        self._block = plan.recipe.blocks[name]
        self._languages = languages_of_block(plan.recipe, self._block)
        self._variants = self._block.rows()
        self._unfinished: list[tuple[str, int]] = []  # systems whose masks are being planned
        for variant in self._variants.values():
            plan.rows.append(self._row(variant))

    def _row(self, variant: Variant) -> Row:
        system, runs = variant.system, []
        for seed in self._block.seeds if system.seeds is None else system.seeds:
            for group in self._groups(system, self._languages):
                runs.append(Run(seed, group, self._cell(variant, group, seed)))
        sparsity = None if system.method == DENSE else self._sparsity(system)
        return Row(self._name, variant, sparsity, tuple(runs))

    def _groups(self, system: SystemSpec, languages: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The languages of each run that ``languages`` need."""
        return [self._languages] if system.languages == "all" else [(language,) for language in languages]

    def _cell(self, variant: Variant, group: tuple[str, ...], seed: int) -> str:
        """The name of the cell, which is in the plan then."""
        block, system = self._block, variant.system
        start = self._variants.get(system.start)
        dense = self._cell(start, self._languages, seed) if start else self._dense(seed)
        if system.method == DENSE and system.steps == 0:
            return dense
        values = block.recipe.model_dump(mode="json", include=set(LoopConfig.model_fields))
        spec: dict[str, Any] = {
            "kind": "train",
            "data": self._data(system.data or block.data, seed),
            "languages": group,
            "model": {"cell": dense},
            "test": {"splits": block.test, "utterances": block.utterances},
        }
        total = system.steps
        masks: tuple[str, ...] = ()
        if system.method != DENSE:
            masks, before = self._masks(variant, group, seed)
            total += before
            where = f"blocks.{self._name}.{variant.name}"
            recipe = parse_config(PruneRecipe, {**block.recipe.model_dump(), **system.recipe}, f"{where}.recipe")
            values = recipe.model_dump(mode="json")
            values["pathways"] = {**recipe.pathways, **system.pathways}
            spec |= {
                "kind": "prune",
                "method": system.method,
                "pathways": self._pathways(where, system, group, values["pathways"]),
                "sparsity": self._sparsity(system),
                "init": {"cells": masks} if masks else "omp",
            }
        spec["recipe"] = _seeded(values, seed, system.steps)
        label = f"{self._name} / {variant.name} / {' '.join(group)} / seed {seed}"
        return self._add(spec, (dense, *masks), label, total)

    def _pathways(
        self, where: str, system: SystemSpec, group: Sequence[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        """The config that the method makes of its options: so a method's changed default makes a new name.

        Options that are gone stay part of the names of the cells that had them; see `Cell.retired`.
        """
        retired = {name: options[name] for name in RETIRED if name in options}
        options = {name: value for name, value in options.items() if name not in RETIRED}
        try:
            config = METHODS[system.method].config(self._sparsity(system), system.steps, group, **options)
        except PathwaysError as error:
            raise PathwaysError(f"{where}: {error}") from None
        return config.model_dump(mode="json", exclude_defaults=True) | retired

    def _masks(self, variant: Variant, group: tuple[str, ...], seed: int) -> tuple[tuple[str, ...], int]:
        """The cells whose masks a system starts from, and their steps."""
        init = variant.system.init
        if init == "omp":
            return (), 0
        if (variant.name, seed) in self._unfinished:
            raise PathwaysError(f"blocks.{self._name}: {variant.name} and {init} start from each other's masks")
        self._unfinished.append((variant.name, seed))
        source = self._variants[init]
        names = tuple(self._cell(source, one, seed) for one in self._groups(source.system, group))
        self._unfinished.pop()
        return names, sum(self._plan.cells[cell].total_steps for cell in names)

    def _dense(self, seed: int) -> str:
        """The cell of the block's dense model: finetuned if the recipe says so, and tested in any case."""
        block = self._block
        parents: tuple[str, ...] = ()
        if block.dense.model in self._recipe.models:
            parents = (self._model(block.dense.model),)
            start = {"cell": parents[0]}
        else:
            start = {"contents": _pinned(self._name, block.dense), "path": block.dense.model}
        config = block.dense.finetune or TrainRecipe.model_validate(
            {"optimizer": {"steps": 0}, "threads": block.recipe.threads, "evaluation": {"choose": "last"}}
        )
        spec = {
            "kind": "train",
            "data": self._data(block.data, seed),
            "languages": self._languages,
            "model": start,
            "test": {"splits": block.test, "utterances": block.utterances},
            # Without training and without folds all seeds share one cell.
            "recipe": _seeded(config.model_dump(mode="json"), seed if block.dense.finetune else 0),
        }
        return self._add(spec, parents, f"{self._name} / dense / {' '.join(self._languages)} / seed {seed}", 0)

    def _model(self, name: str) -> str:
        model = self._recipe.models[name]
        spec = {
            "kind": "train",
            "data": {"corpus": corpus_spec(self._recipe, model.data), "name": model.data},
            "languages": None,
            "model": None,
            "test": None,
            "recipe": _seeded(model.recipe.model_dump(mode="json"), model.recipe.seed),
        }
        return self._add(spec, (), f"model {name}", 0)

    def _data(self, name: str, seed: int) -> dict[str, Any]:
        data: dict[str, Any] = {"corpus": corpus_spec(self._recipe, name), "name": name}
        return data | ({"folds": self._block.folds, "fold": seed} if self._block.folds else {})

    def _sparsity(self, system: SystemSpec) -> float:
        return self._block.sparsity if system.sparsity is None else system.sparsity

    def _add(self, spec: dict[str, Any], parents: Sequence[str], label: str, total_steps: int) -> str:
        name = digest({"version": VERSION, **_decisive(spec)})
        if name not in self._plan.cells:
            self._plan.cells[name] = Cell(name, spec, tuple(dict.fromkeys(parents)), label, total_steps)
        return name


def _seeded(recipe: dict[str, Any], seed: int, steps: int | None = None) -> dict[str, Any]:
    recipe = {**recipe, "seed": seed, "data": {**recipe["data"], "seed": seed}}
    if steps is not None:
        recipe["optimizer"] = {**recipe["optimizer"], "steps": steps}
    return recipe


def _decisive(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec without what decides nothing: names and places, the pace of checkpoints, options beside their result.

    What is as by default is left out too, so that a new option leaves the names of old cells as they are.
    """
    data = {key: value for key, value in spec["data"].items() if key != "name"}
    model = {key: value for key, value in spec["model"].items() if key != "path"} if spec["model"] else None
    ignored = _NO_MATTER | ({"pathways"} if "pathways" in spec else set())
    recipe = _RECIPES[spec["kind"]].model_validate(spec["recipe"])
    values = recipe.model_dump(mode="json", exclude_defaults=True, exclude=ignored)
    return {**spec, "data": data, "model": model, "recipe": values}


def _pinned(block: str, dense: DenseSpec) -> str:
    """The contents of a dense model's folder, or those in the recipe where there is no such folder."""
    if dense.contents and not Path(dense.model).is_dir():
        return dense.contents
    actual = contents(Path(dense.model))
    if dense.contents not in ("", actual):
        raise PathwaysError(f"blocks.{block}.dense: {dense.model} is another model: its contents are {actual}")
    return actual


def contents(folder: Path, pattern: str = "*") -> str:
    """A digest of the files of a folder."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise PathwaysError(f"{folder}: nothing there that an experiment could start from")
    return digest({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
