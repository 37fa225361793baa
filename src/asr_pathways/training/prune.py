"""``prune``: a dense model becomes sparse pathways, by any of the methods, in both scenarios.

Scenario A (one sparse model for one language) is a run with one language; scenario B (one model, a mask for each
language) is a run with several.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from asr_pathways.bundle.load import load_model
from asr_pathways.config import load_yaml, parse_config
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.data.left_out import LeftOut
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.face import SpeechModel
from asr_pathways.pruning import METHODS, PathwayConfig, Pathways, matching
from asr_pathways.pruning.refit import refit
from asr_pathways.training.config import LoopConfig, OptimizerConfig
from asr_pathways.training.distillation import Distillation
from asr_pathways.training.folder import holding_out
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.ranks import launch
from asr_pathways.training.state import TrainingState, checkpoints
from asr_pathways.training.train import attribution, calibration_batches, dev_batches, rank_batches, save_start

INITS = ("omp", "lap", "lsp")
_STRUCTURE = ("granularity", "allocation", "include", "exclude")
"""Options of pathways that the runs which make first masks share with the run that takes them."""


class PruneRecipe(LoopConfig):
    """Everything that decides a pruning run beside the method, the sparsity and the languages.

    ``pathways`` holds fields of :class:`asr_pathways.pruning.PathwayConfig` that replace the method's own.
    """

    optimizer: OptimizerConfig = OptimizerConfig(steps=2000, peak_lr=5e-4, warmup_steps=50)
    pathways: dict[str, Any] = Field(default_factory=dict)
    calibration_batches: int = Field(default=4, gt=0, description="batches a language for score activation's start")
    refit_batches: int = Field(
        default=0,
        ge=0,
        description="batches a language to solve for the kept weights by, before training (whose layers' outputs are "
        "all held in memory); 0: as cut",
    )
    distillation: float = Field(
        default=0.0, ge=0, description="what the distance from the dense model's inner outputs counts in the loss"
    )
    soft_targets: float = Field(
        default=0.0, ge=0, le=1, description="share of the loss that learns the dense model's posteriors, not the text"
    )
    init_steps: int = Field(default=1000, ge=0, description="steps of each pruning run that --init lsp or lap needs")

    def with_steps(self, steps: int | None) -> PruneRecipe:
        """The same recipe for another number of training steps; None: the same."""
        if steps is None:
            return self
        return self.model_copy(update={"optimizer": self.optimizer.model_copy(update={"steps": steps})})


def read_prune_recipe(path: Path | None) -> PruneRecipe:
    """The recipe in a YAML file, or the default one.

    Raises:
        PathwaysError: if the file is missing or wrong; the key is named.
    """
    return PruneRecipe() if path is None else parse_config(PruneRecipe, load_yaml(path), str(path))


@holding_out
def prune(
    model: Path,
    data: Path,
    out: Path,
    *,
    method: str,
    sparsity: float,
    recipe: PruneRecipe,
    languages: Sequence[str] | None = None,
    init: str | Sequence[Path] = "omp",
    resume: bool = False,
) -> TrainingState:
    """Prunes a dense MODEL folder into ``out``, training on ``data`` as ``recipe`` says.

    Args:
        model: the dense MODEL folder; it is only read.
        data: a data folder with the languages.
        out: the run folder; becomes a MODEL folder with pathways.
        method: a key of :data:`asr_pathways.pruning.METHODS`.
        sparsity: share of prunable weights at zero, in [0, 1).
        recipe: steps, data, score, intervals.
        languages: which ones get a pathway; None: all of the model's.
        init: where masks start: ``omp`` (one shot, by the method's score), ``lap`` (a run of iterative magnitude
            pruning on all languages), ``lsp`` (one such run for each language), a pruned MODEL folder, or several
            of them, each with some of the languages.
        resume: go on from the last checkpoint in ``out``.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was in ``out`` is lost.
    """
    fabric = launch(recipe)
    start = out / "checkpoints" / "start"
    if start.exists() and not resume:
        raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
    dense = load_model(model)
    if dense.pathways is not None:
        raise PathwaysError(f"{model}: is pruned already; pruning starts from a dense model")
    left_out = LeftOut(recipe.data.max_left_out)
    languages = dense.languages_for(languages, languages_of(load_cuts(data, "train", left_out=left_out)))
    dense.model.open_languages(languages)
    dense.model.to(fabric.device)
    config = pathway_config(dense, method, sparsity, languages, recipe)
    _check_init(init, method, config, languages)
    if recipe.refit_batches and (config.stage_at(0) != config.sparsity or config.rewind):
        raise PathwaysError(
            f"recipe: refit_batches: masks are not final at the start with method {method}: leave it out"
        )
    cuts = load_cuts(data, "train", languages, left_out).to_eager()
    batches = rank_batches(fabric, recipe, cuts, dense, left_out)
    dense.card = dense.card.model_copy(update={"languages": languages, "attribution": attribution(data)})
    dev = dev_batches(data, dense, recipe.evaluation.utterances, left_out=left_out)
    distillation = _distillation(dense, recipe)
    going_on = resume and bool(checkpoints(out))
    fabric.barrier()  # all have looked before the first writes
    if going_on:
        asr = load_model(start)
        pathways = asr.pathways
        if pathways is None or (pathways.config, pathways.languages) != (config, languages):
            raise PathwaysError(
                f"{out}: the run there has another method, sparsity, recipe or languages: cannot resume it"
            )
    else:
        untouched = copy.deepcopy(dense.model) if recipe.refit_batches else None
        pathways = Pathways.attach(dense.model.network, config, languages)
        asr = AsrModel(dense.model, dense.tokenizer, dense.card, pathways)
        if init == "omp":
            _choose_by_activation(asr, cuts, recipe, fabric.is_global_zero, left_out)
        else:
            _take_masks(asr, init, model, data, out, sparsity, recipe, resume)
        if untouched is not None:
            _refit(asr, untouched, cuts, recipe, left_out, fabric.is_global_zero)
            del untouched
        save_start(fabric, start, asr)
    del cuts, dense  # training may be long, and the corpus large
    loop = TrainingLoop(asr, batches, dev, recipe, out, f"Pruning ({method})", fabric, distillation)
    if going_on:
        loop.resume()
    return loop.run()


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
        raise PathwaysError("recipe: pathways.sparsity: sparsity is given beside the recipe: leave it out")
    options = {"exclude": matching(asr.model.network, asr.model.unprunable), **recipe.pathways}
    steps = recipe.optimizer.steps
    config = METHODS[method].config(sparsity, steps, languages, **options)
    last = config.prune_start + (len(config.stages) - 1) * (config.prune_every or 0)
    if last > steps:
        raise PathwaysError(
            f"method {method} reaches sparsity {sparsity:g} at step {last}, and the run ends at step {steps}: "
            "train longer, or prune in fewer stages"
        )
    return config


def _distillation(dense: AsrModel, recipe: PruneRecipe) -> Distillation | None:
    if not (recipe.distillation or recipe.soft_targets):
        return None
    if recipe.distillation and not dense.model.matched:
        raise PathwaysError("recipe: distillation: only for Whisper and the transducers of this package: leave it out")
    if recipe.soft_targets and not dense.model.classifier:
        raise PathwaysError("recipe: soft_targets: only for Whisper and CTC models but Parakeet: leave it out")
    return Distillation(dense.model, recipe.distillation, recipe.soft_targets)


def _check_init(init: str | Sequence[Path], method: str, config: PathwayConfig, languages: Sequence[str]) -> None:
    if init == "omp":
        return
    if config.schedule != "oneshot":
        raise PathwaysError(
            f"--init {init} gives masks of full sparsity, and method {method} prunes by stages: use omp"
        )
    if init == "lsp" and config.shared and len(languages) > 1:
        raise PathwaysError(
            f"--init lsp gives each language its own mask, and method {method} has one for all: use lap"
        )


def _choose_by_activation(asr: AsrModel, cuts: Any, recipe: PruneRecipe, listens: bool, left_out: LeftOut) -> None:
    """One-shot masks by what each language's speech excites, where the score asks for that.

    Of several ranks one listens; all choose the same masks then.
    """
    pathways = asr.pathways
    assert pathways is not None
    if "inputs" not in pathways.config.score_needs or pathways.sparsity == 0:
        return
    asr.model.eval()
    for language in pathways.languages:
        own = [cut for cut in cuts if cut.supervisions[0].language == language]
        batches = calibration_batches(recipe.data, own, asr, left_out)
        with pathways.calibrate(language), torch.no_grad():
            for _ in range(recipe.calibration_batches if listens else 0):
                asr.model.loss(next(batches).to(asr.device))
    for language in pathways.languages[: 1 if pathways.config.shared else None]:
        pathways.adapt(language)


def _refit(asr: AsrModel, dense: SpeechModel, cuts: Any, recipe: PruneRecipe, left_out: LeftOut, shows: bool) -> None:
    """Solves for the weights that the masks keep, on speech as training will hear it; ``shows`` a bar."""
    assert asr.pathways is not None
    model = asr.model
    for one in (model, dense):
        one.eval()
        if recipe.optimizer.steps:
            one.train_on_short_windows()
    batches = {}
    for language in asr.pathways.languages:
        own = [cut for cut in cuts if cut.supervisions[0].language == language]
        drawn = calibration_batches(recipe.data, own, asr, left_out)
        batches[language] = [batch.to(asr.device) for batch in islice(drawn, recipe.refit_batches)]
    bar = partial(track, label="Refitting") if shows else iter
    refit(asr.pathways, model.loss, dense.network, dense.loss, batches, progress=bar)


def _take_masks(
    asr: AsrModel,
    init: str | Sequence[Path],
    model: Path,
    data: Path,
    out: Path,
    sparsity: float,
    recipe: PruneRecipe,
    resume: bool,
) -> None:
    """Masks from pruning runs made for the purpose (``lap``, ``lsp``) or from pruned MODEL folders."""
    pathways = asr.pathways
    assert pathways is not None
    if isinstance(init, str) and init in INITS:
        _make_masks(pathways, init, model, data, out, sparsity, recipe, resume)
    else:
        taken: list[str] = []
        for folder in [Path(init)] if isinstance(init, str) else init:
            if not (folder / "pathways").is_dir():
                raise PathwaysError(f"--init {folder}: neither one of {', '.join(INITS)} nor a pruned model folder")
            taken += pathways.masks_from(folder / "pathways")
        if missing := [language for language in pathways.languages if language not in taken]:
            raise PathwaysError(f"--init {init}: has no pathway for {', '.join(missing)}")
    for language, found in pathways.summary().sparsity.items():
        if abs(found - sparsity) > 0.01:
            raise PathwaysError(
                f"--init {init}: its pathway of {language} has sparsity {found:.2f}, not {sparsity:g} as asked for"
            )


def _make_masks(
    pathways: Pathways,
    init: str,
    model: Path,
    data: Path,
    out: Path,
    sparsity: float,
    recipe: PruneRecipe,
    resume: bool,
) -> None:
    """Runs iterative magnitude pruning for all languages at once (``lap``) or each by itself (``lsp``)."""
    structure = {key: recipe.pathways[key] for key in _STRUCTURE if key in recipe.pathways}
    optimizer = recipe.optimizer.model_copy(update={"steps": recipe.init_steps})
    own = recipe.model_copy(
        update={
            "optimizer": optimizer,
            "pathways": structure,
            "distillation": 0.0,
            "soft_targets": 0.0,
            "refit_batches": 0,
        }
    )
    groups = [pathways.languages] if init == "lap" else [(language,) for language in pathways.languages]
    for group in groups:
        folder = out / "init" / "-".join(group)
        # A run that is done already is only loaded again.
        prune(model, data, folder, method="imp", sparsity=sparsity, recipe=own, languages=group, resume=resume)
        pathways.masks_from(folder / "pathways")
