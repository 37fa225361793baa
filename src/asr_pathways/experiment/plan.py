"""From a recipe to cells: what runs, after what, and under which name.

A cell is one run. Its name is a hash of everything that decides its result: corpora, recipes, seeds and, by their
names, the cells that it starts from. So a cell that several tables need runs once, a changed recipe gives new
names, and a ledger entry is valid for as long as its name is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
"""Part of every name: raised when the code, or a default of a recipe or of `PathwayConfig`, changes what cells give."""

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
        label: for people: block, system, languages, seed of the first row that asked for it.
        total_steps: its own steps and those of the runs that made its masks; the dense model's do not count.
    """

    name: str
    spec: dict[str, Any]
    parents: tuple[str, ...]
    label: str
    total_steps: int

    @property
    def kind(self) -> Literal["train", "prune"]:
        kind: Literal["train", "prune"] = self.spec["kind"]
        return kind

    @property
    def retired(self) -> list[str]:
        """Options of pathways that are gone: such a cell cannot run, only its ledger entry can be read."""
        return [name for name in self.spec.get("pathways", ()) if name in RETIRED]

    @property
    def steps(self) -> int:
        return int(self.spec["recipe"]["optimizer"]["steps"])


@dataclass(frozen=True)
class Run:
    """A cell as part of a row: the languages and the seed that it stands for."""

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
    return _Planner(recipe).plan


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
    """12 hexadecimal figures that stand for plain data."""
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


class _Planner:
    def __init__(self, recipe: ExperimentRecipe) -> None:
        self.plan = Plan(recipe)
        self._recipe = recipe
        self._open: list[tuple[str, str, int]] = []  # systems whose masks are being looked for
        for name, block in recipe.blocks.items():
            languages = languages_of_block(recipe, block)
            for variant in block.rows().values():
                self.plan.rows.append(self._row(name, variant, languages))

    def _row(self, block_name: str, variant: Variant, languages: tuple[str, ...]) -> Row:
        block, name, system = self._recipe.blocks[block_name], variant.name, variant.system
        groups = [languages] if system.languages == "all" else [(language,) for language in languages]
        runs = []
        for seed in block.seeds if system.seeds is None else system.seeds:
            for group in groups:
                runs.append(Run(seed, group, self._cell(block_name, name, system, group, seed, languages)))
        sparsity = None if system.method == DENSE else self._sparsity(block, system)
        return Row(block_name, variant, sparsity, tuple(runs))

    def _cell(
        self,
        block_name: str,
        name: str,
        system: SystemSpec,
        group: tuple[str, ...],
        seed: int,
        languages: tuple[str, ...],
    ) -> str:
        """The name of the cell, which is in the plan then."""
        block = self._recipe.blocks[block_name]
        if system.start:
            start = block.rows()[system.start].system
            dense = self._cell(block_name, system.start, start, languages, seed, languages)
        else:
            dense = self._dense(block_name, block, seed, languages)
        if system.method == DENSE and system.steps == 0:
            return dense
        own = block.recipe.model_dump(mode="json", include=set(LoopConfig.model_fields))
        spec: dict[str, Any] = {
            "kind": "train",
            "data": self._data(system.data or block.data, block, seed),
            "languages": group,
            "model": {"cell": dense},
            "test": {"splits": block.test, "utterances": block.utterances},
        }
        total = system.steps
        masks: tuple[str, ...] = ()
        if system.method != DENSE:
            masks, before = self._masks(block_name, name, system, group, seed, languages)
            total += before
            recipe = parse_config(
                PruneRecipe, {**block.recipe.model_dump(), **system.recipe}, f"blocks.{block_name}.{name}.recipe"
            )
            own = recipe.model_dump(mode="json")
            own["pathways"] = {**recipe.pathways, **system.pathways}
            spec |= {
                "kind": "prune",
                "method": system.method,
                "pathways": self._pathways(f"blocks.{block_name}.{name}", block, system, group, own["pathways"]),
                "sparsity": self._sparsity(block, system),
                "init": {"cells": masks} if masks else "omp",
            }
        spec["recipe"] = _seeded(own, seed, system.steps)
        label = f"{block_name} / {name} / {' '.join(group)} / seed {seed}"
        return self._add(spec, (dense, *masks), label, total)

    def _pathways(
        self, where: str, block: Block, system: SystemSpec, group: Sequence[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        """What the method makes of its options: so a method's changed default gives a new name.

        Options that are gone stay part of the names of the cells that had them; see `Cell.retired`.
        """
        retired = {name: options[name] for name in RETIRED if name in options}
        options = {name: value for name, value in options.items() if name not in RETIRED}
        try:
            method = METHODS[system.method]
            config = method.config(self._sparsity(block, system), system.steps, group, **options)
        except PathwaysError as error:
            raise PathwaysError(f"{where}: {error}") from None
        return config.model_dump(mode="json", exclude_defaults=True) | retired

    def _masks(
        self,
        block_name: str,
        name: str,
        system: SystemSpec,
        group: tuple[str, ...],
        seed: int,
        languages: tuple[str, ...],
    ) -> tuple[tuple[str, ...], int]:
        """The cells whose masks a system starts from, and the steps that they took."""
        if system.init == "omp":
            return (), 0
        if (block_name, name, seed) in self._open:
            raise PathwaysError(f"blocks.{block_name}: {name} and {system.init} start from each other's masks")
        self._open.append((block_name, name, seed))
        source = self._recipe.blocks[block_name].rows()[system.init].system
        groups = [languages] if source.languages == "all" else [(language,) for language in group]
        names = tuple(self._cell(block_name, system.init, source, one, seed, languages) for one in groups)
        self._open.pop()
        return names, sum(self.plan.cells[cell].total_steps for cell in names)

    def _dense(self, block_name: str, block: Block, seed: int, languages: tuple[str, ...]) -> str:
        """The cell of a block's dense model: finetuned if it is to be, and tested in any case."""
        parents: tuple[str, ...] = ()
        if block.dense.model in self._recipe.models:
            parents = (self._model(block.dense.model),)
            start = {"cell": parents[0]}
        else:
            start = {"contents": _pinned(block_name, block.dense), "path": block.dense.model}
        config = block.dense.finetune or TrainRecipe.model_validate(
            {"optimizer": {"steps": 0}, "threads": block.recipe.threads, "evaluation": {"choose": "last"}}
        )
        spec = {
            "kind": "train",
            "data": self._data(block.data, block, seed),
            "languages": languages,
            "model": start,
            "test": {"splits": block.test, "utterances": block.utterances},
            # Without training and without folds all seeds share one cell.
            "recipe": _seeded(config.model_dump(mode="json"), seed if block.dense.finetune else 0),
        }
        return self._add(spec, parents, f"{block_name} / dense / {' '.join(languages)} / seed {seed}", 0)

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

    def _data(self, name: str, block: Block, seed: int) -> dict[str, Any]:
        data: dict[str, Any] = {"corpus": corpus_spec(self._recipe, name), "name": name}
        return data | ({"folds": block.folds, "fold": seed} if block.folds else {})

    def _sparsity(self, block: Block, system: SystemSpec) -> float:
        return block.sparsity if system.sparsity is None else system.sparsity

    def _add(self, spec: dict[str, Any], parents: Sequence[str], label: str, total_steps: int) -> str:
        name = digest({"version": VERSION, **_decisive(spec)})
        if name not in self.plan.cells:
            self.plan.cells[name] = Cell(name, spec, tuple(dict.fromkeys(parents)), label, total_steps)
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
    own = recipe.model_dump(mode="json", exclude_defaults=True, exclude=ignored)
    return {**spec, "data": data, "model": model, "recipe": own}


def _pinned(block: str, dense: DenseSpec) -> str:
    """What a dense model's folder holds, or is to hold where it is not there."""
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
