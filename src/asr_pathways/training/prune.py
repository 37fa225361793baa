"""``prune``: a dense model becomes sparse pathways, by any of the methods, in both scenarios.

Scenario A (one sparse model for one language) is a run with one language; scenario B (one model, a mask for each
language) is a run with several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from asr_pathways.config import load_yaml, parse_config
from asr_pathways.data.batches import train_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder
from asr_pathways.model_folder import Recognizer, load_recognizer, save_recognizer
from asr_pathways.pruning import METHODS, PathwayConfig, Pathways
from asr_pathways.training.config import LoopConfig, OptimizerConfig
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.state import TrainingState
from asr_pathways.training.train import attribution, dev_batches

INITS = ("omp", "lap", "lsp")


class PruneRecipe(LoopConfig):
    """Everything that decides a pruning run beside the method, the sparsity and the languages.

    ``pathways`` holds fields of :class:`asr_pathways.pruning.PathwayConfig` that replace the method's own.
    """

    optimizer: OptimizerConfig = OptimizerConfig(steps=2000, peak_lr=5e-4, warmup_steps=50)
    pathways: dict[str, Any] = Field(default_factory=dict)
    calibration_batches: int = Field(default=4, gt=0, description="batches a language for score activation's start")
    init_steps: int = Field(default=1000, ge=0, description="steps of each pruning run that --init lsp or lap needs")


def read_prune_recipe(path: Path | None) -> PruneRecipe:
    """The recipe in a YAML file, or the default one.

    Raises:
        PathwaysError: if the file is missing or wrong; the key is named.
    """
    return PruneRecipe() if path is None else parse_config(PruneRecipe, load_yaml(path), str(path))


def prune(
    model: Path,
    data: Path,
    out: Path,
    *,
    method: str,
    sparsity: float,
    recipe: PruneRecipe,
    languages: Sequence[str] | None = None,
    init: str = "omp",
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
            pruning on all languages), ``lsp`` (one such run for each language), or a pruned MODEL folder.
        resume: go on from the last checkpoint in ``out``.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was in ``out`` is lost.
    """
    start = out / "checkpoints" / "start"
    if start.exists() and not resume:
        raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
    dense = load_recognizer(model)
    if dense.pathways is not None:
        raise PathwaysError(f"{model}: is pruned already; pruning starts from a dense model")
    languages = dense.check_languages(languages)
    config = pathway_config(dense, method, sparsity, languages, recipe)
    cuts = load_cuts(data, "train", languages).to_eager()
    batches = train_batches(cuts, dense.tokenizer, recipe.data)
    if resume and start.exists():
        recognizer = load_recognizer(start)
        if recognizer.pathways is None or recognizer.pathways.config != config:
            raise PathwaysError(f"{out}: the run there has another method, sparsity or recipe: cannot resume it")
    else:
        card = dense.card.model_copy(update={"languages": languages, "attribution": attribution(data)})
        recognizer = Recognizer(dense.model, dense.tokenizer, card, Pathways.attach(dense.model, config, languages))
        if init == "omp":
            _choose_by_activation(recognizer, cuts, recipe)
        else:
            _take_masks(recognizer, init, model, data, out, sparsity, recipe, resume)
        with atomic_folder(start) as folder:
            save_recognizer(folder, recognizer)
    dev = dev_batches(data, recognizer, recipe.evaluation.utterances)
    loop = TrainingLoop(recognizer, batches, dev, recipe, out, f"Pruning ({method})")
    if resume and loop.checkpoint.exists():
        loop.resume()
    return loop.run()


def pathway_config(
    recognizer: Recognizer, method: str, sparsity: float, languages: Sequence[str], recipe: PruneRecipe
) -> PathwayConfig:
    """The method's config for a run of ``recipe``.

    Raises:
        PathwaysError: for an unknown method or option, or a sparsity outside [0, 1).
    """
    if method not in METHODS:
        raise PathwaysError(f"unknown method {method!r}: choose among {', '.join(METHODS)}")
    options = {"exclude": recognizer.model.unprunable, **recipe.pathways}
    return METHODS[method].config(sparsity, recipe.optimizer.steps, languages, **options)


def _choose_by_activation(recognizer: Recognizer, cuts: Any, recipe: PruneRecipe) -> None:
    """One-shot masks by what each language's speech excites, where the score asks for that."""
    pathways = recognizer.pathways
    assert pathways is not None
    if pathways.config.score != "activation" or pathways.sparsity == 0:
        return
    plain = recipe.data.model_copy(update={"spec_augment": None, "speed_factors": (1.0,), "prefetch": 0})
    recognizer.model.eval()
    for language in pathways.languages:
        own = [cut for cut in cuts if cut.supervisions[0].language == language]
        batches = iter(train_batches(own, recognizer.tokenizer, plain))
        with pathways.calibrate(language), torch.no_grad():
            for _ in range(recipe.calibration_batches):
                recognizer.model.loss(next(batches))
    for language in pathways.languages[: 1 if pathways.config.shared else None]:
        pathways.adapt(language)


def _take_masks(
    recognizer: Recognizer,
    init: str,
    model: Path,
    data: Path,
    out: Path,
    sparsity: float,
    recipe: PruneRecipe,
    resume: bool,
) -> None:
    """Masks from pruning runs made for the purpose (``lap``, ``lsp``) or from a pruned MODEL folder."""
    pathways = recognizer.pathways
    assert pathways is not None
    if init not in INITS:
        if not (Path(init) / "pathways").is_dir():
            raise PathwaysError(f"--init {init}: neither one of {', '.join(INITS)} nor a pruned model folder")
        taken = pathways.masks_from(Path(init) / "pathways")
        if missing := [language for language in pathways.languages if language not in taken]:
            raise PathwaysError(f"--init {init}: has no pathway for {', '.join(missing)}")
        return
    steps = recipe.init_steps
    own = recipe.model_copy(
        update={"optimizer": recipe.optimizer.model_copy(update={"steps": steps}), "pathways": {}},
    )
    groups = [pathways.languages] if init == "lap" else [(language,) for language in pathways.languages]
    for group in groups:
        folder = out / "init" / "-".join(group)
        if not (folder / "pathways").is_dir():
            going = resume and (folder / "checkpoints").exists()
            prune(model, data, folder, method="imp", sparsity=sparsity, recipe=own, languages=group, resume=going)
        pathways.masks_from(folder / "pathways")
