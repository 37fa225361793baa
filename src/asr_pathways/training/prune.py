"""``prune``: a dense model becomes sparse pathways, by any of the methods, in both scenarios.

Scenario A (one sparse model for one language) is a run with one language; scenario B (one model, a mask for each
language) is a run with several.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.pruning import METHODS, PathwayConfig, Pathways, matching
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.defaults import default_method, prune_recipe
from asr_pathways.training.distillation import Distillation
from asr_pathways.training.estimate import report_cost
from asr_pathways.training.inputs import Inputs, RunData, choose_masks
from asr_pathways.training.layers import check_layers, drop_layers
from asr_pathways.training.loop import train_in
from asr_pathways.training.memory import release_memory
from asr_pathways.training.refitting import choose_once, refit, stages
from asr_pathways.training.run import Run, open_run
from asr_pathways.training.scoring import score_dev
from asr_pathways.training.state import TrainingState

INITS = ("omp", "lap", "lsp")
_STRUCTURE = ("granularity", "pairs", "allocation", "include", "exclude")
"""Options of pathways that runs for first masks have in common with the run that starts from them."""


def prune(
    model: Path,
    data: Path,
    out: Path,
    *,
    sparsity: float,
    method: str | None = None,
    recipe: PruneRecipe | None = None,
    steps: int | None = None,
    drop_layers: Mapping[str, int] | None = None,
    languages: Sequence[str] | None = None,
    init: str | Sequence[Path] = "omp",
    resume: bool = False,
    announced: bool = True,
) -> TrainingState:
    """Prunes a dense MODEL folder into ``out``, training on ``data`` by ``recipe``.

    Args:
        model: the dense MODEL folder; it is only read.
        data: a data folder with the languages.
        out: the run folder; becomes a MODEL folder with pathways.
        sparsity: share of prunable weights at zero, in [0, 1).
        method: a key of :data:`asr_pathways.pruning.METHODS`; None: the one that fits the model's kind.
        recipe: steps, data, score, intervals; None: the one that fits the model's kind (`prune_recipe`).
        steps: of training, instead of the recipe's.
        drop_layers: {part of the model: how many of its layers are left out first}, instead of the recipe's.
        languages: which ones get a pathway; None: all of the model's.
        init: the first masks: ``omp`` (one shot, by the method's score), ``lap`` (a run of iterative magnitude pruning
            on all languages), ``lsp`` (one such run for each language), or those of pruned MODEL folders.
        resume: go on from the last checkpoint in ``out``, if there is one.
        announced: say first what it will cost, and score the dense model on dev, for comparison.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was in ``out`` is lost.
    """
    dense = load_model(model)
    if dense.pathways is not None:
        raise PathwaysError(f"{model}: is pruned already; pruning starts from a dense model")
    method = method or default_method(dense.model)
    recipe = (recipe or prune_recipe(dense.model)).with_steps(steps)
    if drop_layers is not None:
        recipe = recipe.model_copy(update={"drop_layers": dict(drop_layers)})
    pathway_config(dense, method, sparsity, languages or ("any",), recipe)  # it may be wrong: data take long to read

    def pruned_by_magnitude(group: Sequence[str]) -> Path:
        """A MODEL folder of these languages, for ``lap`` and ``lsp``; one that is done already is only resumed."""
        folder, plain = out / "init" / "-".join(group), _recipe_of_first_masks(recipe)
        options = {"sparsity": sparsity, "recipe": plain, "languages": group, "resume": resume, "announced": False}
        prune(model, data, folder, method="imp", **options)  # type: ignore[arg-type]
        return folder

    options = {"method": method, "sparsity": sparsity, "init": str(init), "languages": list(languages or ())}
    with open_run(out, recipe, resume, **options) as run:
        inputs = Inputs(run, data, announced=announced)
        languages = dense.languages_for(languages, inputs.languages)
        dense.model.load_languages(languages)
        dense.model.to(run.fabric.device)
        check_layers(dense.model, recipe.drop_layers)
        config = pathway_config(dense, method, sparsity, languages, recipe)
        _check_start(init, method, config, languages, recipe)
        _check_teacher(dense, recipe)
        inputs.select(languages)
        dense.card = dense.card.model_copy(update={"languages": languages, "attribution": inputs.attribution})
        run_data = inputs.of(dense)
        wer = None
        if announced and not run.resumes:
            report_cost(run, f"Pruning ({method})", dense, inputs, run_data.dev, config)  # which counts a teacher
            wer = _dense_wer(run, dense, run_data.dev)
        distillation = _distillation(dense, recipe)
        if run.resumes:
            asr = _resumed(run, config, languages)
        else:
            asr = _first_pathways(run, dense, config, inputs, run_data, init, recipe, pruned_by_magnitude)
        del inputs, dense  # training may be long, and the corpus large
        if recipe.refit_batches and not run.resumes:
            release_memory()  # what refitting held: in its holes, training would find no place for much
        return train_in(run, asr, run_data, f"Pruning ({method})", distillation, wer)


def pathway_config(
    asr: AsrModel, method: str, sparsity: float, languages: Sequence[str], recipe: PruneRecipe
) -> PathwayConfig:
    """The method's config for a run of ``recipe``.

    Raises:
        PathwaysError: for an unknown method or option, a sparsity outside [0, 1), or too few steps to get there.
    """
    if method not in METHODS:
        raise PathwaysError(f"unknown method {method!r}: choose among {', '.join(METHODS)}")
    if "sparsity" in recipe.pathways:
        raise PathwaysError("recipe: pathways.sparsity: sparsity is an option beside the recipe: leave it out")
    options = options_for(asr.model, recipe.pathways)
    steps = recipe.optimizer.steps
    config = METHODS[method].config(sparsity, steps, languages, **options)
    last = config.prune_start + (len(config.stages) - 1) * (config.prune_every or 0)
    if last > steps:
        raise PathwaysError(
            f"method {method} reaches sparsity {sparsity:g} at step {last}, and the run ends at step {steps}: "
            "train longer, or prune in fewer stages"
        )
    return config


def options_for(model: SpeechModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a `PathwayConfig`, with what depends on the model: weights to leave out, pairs around neurons.

    Where ``options`` name others to leave out, those stay out that no mask would reach.
    """
    given: dict[str, Any] = {"exclude": matching(model.network, model.unprunable), **options}
    if replaced := matching(model.network, model.of_languages):
        given["exclude"] = tuple(dict.fromkeys((*given["exclude"], *replaced)))
    if given.get("granularity") == "neurons":
        given.setdefault("pairs", model.pairs)
    return given


def _dense_wer(run: Run, dense: AsrModel, dev: list[Batch]) -> float | None:
    """Mean WER on dev of the model that is pruned; None if there are no dev utterances."""
    if not dev:
        return None

    def watched(batches: Sequence[Batch]) -> Iterable[Batch]:
        return track(batches, "Decoding dev by the dense model", sum(map(len, batches)), len)

    return score_dev(dense, dev, run.fabric, watched=watched if run.fabric.is_global_zero else iter).mean_wer


def _check_teacher(dense: AsrModel, recipe: PruneRecipe) -> None:
    """Raises PathwaysError if the model cannot teach as the recipe wants."""
    if recipe.distillation and not dense.model.matched:
        raise PathwaysError("recipe: distillation: only for Whisper and the transducers of this package: leave it out")
    if recipe.distillation and recipe.drop_layers:
        raise PathwaysError(
            "recipe: distillation: compares layer by layer, and some are left out: use soft_targets alone"
        )
    if recipe.soft_targets and not dense.model.classifier:
        raise PathwaysError("recipe: soft_targets: only for Whisper and CTC models but Parakeet: leave it out")


def _distillation(dense: AsrModel, recipe: PruneRecipe) -> Distillation | None:
    if not (recipe.distillation or recipe.soft_targets):
        return None
    return Distillation(dense.model, recipe.distillation, recipe.soft_targets)


def _check_start(
    init: str | Sequence[Path], method: str, config: PathwayConfig, languages: Sequence[str], recipe: PruneRecipe
) -> None:
    """Raises PathwaysError if the method cannot start from the masks of ``init``, or from refitted weights."""
    for folder in _folders(init):
        if not (folder / "pathways").is_dir():
            raise PathwaysError(f"--init {folder}: neither one of {', '.join(INITS)} nor a pruned model folder")
    if init != "omp" and config.schedule != "oneshot":
        raise PathwaysError(
            f"--init {init} starts from masks of full sparsity, and method {method} prunes by stages: use omp"
        )
    if init != "omp" and recipe.drop_layers:
        raise PathwaysError(f"--init {init}: its masks are of all layers: use omp, or leave drop_layers out")
    if init == "lsp" and config.shared and len(languages) > 1:
        raise PathwaysError(f"--init lsp makes a mask for each language, and method {method} has one for all: use lap")
    if init == "lsp" and config.shared_middle and len(languages) > 1:
        raise PathwaysError("--init lsp makes masks for each language, and shared_middle has one for all: use lap")
    if recipe.refit_batches and (config.stage_at(0) != config.sparsity or config.rewind):
        raise PathwaysError(f"recipe: refit_batches: method {method} does not start with final masks: leave it out")


def _folders(init: str | Sequence[Path]) -> Sequence[Path]:
    """The pruned MODEL folders that ``init`` names."""
    if isinstance(init, str):
        return [] if init in INITS else [Path(init)]
    return init


def _resumed(run: Run, config: PathwayConfig, languages: Sequence[str]) -> AsrModel:
    """The start of the run in that folder, if it is this one."""
    asr = load_model(run.start)
    if asr.pathways is None or (asr.pathways.config, asr.pathways.languages) != (config, languages):
        different = "another method, sparsity, recipe or languages"
        raise PathwaysError(f"{run.out}: the run there has {different}: cannot resume it")
    return asr


def _first_pathways(
    run: Run,
    dense: AsrModel,
    config: PathwayConfig,
    inputs: Inputs,
    data: RunData,
    init: str | Sequence[Path],
    recipe: PruneRecipe,
    pruned_by_magnitude: Callable[[Sequence[str]], Path],
) -> AsrModel:
    """``dense`` with pathways of the inputs' languages and the first masks of ``init``."""
    drop_layers(dense, inputs, recipe.drop_layers, recipe.calibration_batches)
    before = copy.deepcopy(dense.model) if recipe.refit_batches else None
    pathways = Pathways.attach(dense.model.network, config, dense.card.languages)
    asr = AsrModel(dense.model, dense.tokenizer, dense.card, pathways)
    if init == "omp":
        _one_shot(run, asr, before, inputs, data, recipe)
        return asr
    folders: Sequence[Path]
    if init == "lap":
        folders = [pruned_by_magnitude(pathways.languages)]
    elif init == "lsp":
        folders = [pruned_by_magnitude([language]) for language in pathways.languages]
    else:
        folders = _folders(init)
    _load_masks(pathways, folders, init)
    if before is not None:
        refit(run, asr, before, inputs, recipe)
    return asr


def _one_shot(
    run: Run, asr: AsrModel, before: SpeechModel | None, inputs: Inputs, data: RunData, recipe: PruneRecipe
) -> None:
    """Masks by the score; with the model as it was ``before``, weights are refitted to them. Both in `stages`."""
    pathways = asr.pathways
    assert pathways is not None
    several = stages(pathways.config, recipe)
    batches = recipe.calibration_batches if run.fabric.is_global_zero else 0
    for number, sparsity in enumerate(several):
        target = sparsity if len(several) > 1 else None
        choose = partial(choose_masks, asr, inputs, pathways.languages, batches, masked=number > 0, sparsity=target)
        if before is not None and pathways.config.calibrates and not recipe.drop_layers:
            refit(run, asr, before, inputs, recipe, choose_once(run, pathways, recipe, data, choose))
            continue
        choose()
        if before is not None:
            refit(run, asr, before, inputs, recipe)


def _load_masks(pathways: Pathways, folders: Sequence[Path], init: str | Sequence[Path]) -> None:
    """The masks of pruned MODEL folders, which together have all languages, at the sparsity of ``pathways``."""
    loaded: list[str] = []
    for folder in folders:
        loaded += pathways.masks_from(folder / "pathways")
    if missing := [language for language in pathways.languages if language not in loaded]:
        raise PathwaysError(f"--init {init}: has no pathway for {', '.join(missing)}")
    target = pathways.config.sparsity
    for language, sparsity in pathways.summary().sparsity.items():
        if abs(sparsity - target) > 0.01:
            raise PathwaysError(
                f"--init {init}: its pathway of {language} has sparsity {sparsity:.2f}, not {target:g} as asked for"
            )


def _recipe_of_first_masks(recipe: PruneRecipe) -> PruneRecipe:
    """The recipe of the runs of ``lap`` and ``lsp``: plain pruning with the same structure of masks."""
    structure = {key: recipe.pathways[key] for key in _STRUCTURE if key in recipe.pathways}
    plain = {"pathways": structure, "distillation": 0.0, "soft_targets": 0.0, "refit_batches": 0, "refit_steps": 0}
    return recipe.with_steps(recipe.init_steps).model_copy(update=plain)
