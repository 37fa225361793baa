"""``add-language``: one more pathway in a pruned model, without harm to its others.

The new pathway may use every weight and trains only those that no other pathway keeps, and language-specific copies of
the parameters outside the masks. The output of the other languages stays the same bit for bit (`Pathways.add`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.languages import known_language
from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.inputs import Inputs, choose_masks
from asr_pathways.training.loop import train_in
from asr_pathways.training.run import Run, open_run
from asr_pathways.training.state import TrainingState

_OF_PRUNE = ("pathways", "distillation", "soft_targets", "refit_batches", "refit_steps", "drop_layers")
"""Options of recipes on how all languages are pruned: an added one has the granularity and weights of the model."""

NEW_PIECES = (128, 96, 64, 48, 32, 24, 16)
"""Sizes of a new language's vocabulary: the first that its texts suffice for is used."""


def add_language(
    model: Path,
    data: Path,
    out: Path,
    *,
    language: str,
    recipe: PruneRecipe,
    sparsity: float | None = None,
    reuse: float = 1.0,
    resume: bool = False,
) -> TrainingState:
    """Adds a pathway of ``language`` to a pruned MODEL folder and trains it; the result goes to ``out``.

    Args:
        model: the pruned MODEL folder; it is only read.
        data: a data folder with the language.
        out: the run folder; becomes a MODEL folder.
        language: its code.
        recipe: steps, data, intervals; the options of the pathways are those of the model.
        sparsity: of the new pathway; None: that of the others.
        reuse: 0 to 1: factor on the scores of weights that others keep; see `Pathways.add`.
        resume: go on from the last checkpoint in ``out``, if there is one.

    Raises:
        PathwaysError: for anything the user can mend, such as a language that the model has already, or too few free
            weights; nothing that was in ``out`` is lost.
    """
    with open_run(out, recipe, resume) as run:
        _check(run, model, recipe)
        inputs = Inputs(run, data, [language])
        if run.resumes:
            asr = load_model(run.start)
            if asr.pathways is None or asr.pathways.added[-1:] != (language,):
                raise PathwaysError(f"{out}: the run there adds another language: cannot resume it")
            there = asr.pathways.state_dict()["added"][language]["sparsity"]
            if sparsity not in (None, there):
                raise PathwaysError(
                    f"{out}: the run there adds {language} at sparsity {there:g}, not {sparsity:g}: cannot resume it"
                )
        else:
            asr = load_model(model, run.fabric.device)
            _add(asr, model, [str(cut.supervisions[0].text) for cut in inputs.cuts], language, sparsity, reuse, recipe)
            credits = tuple(dict.fromkeys((*asr.card.attribution, *inputs.attribution)))
            asr.card = asr.card.model_copy(update={"languages": asr.languages, "attribution": credits})
            choose_masks(asr, inputs, [language], recipe.calibration_batches, masked=True)
        run_data = inputs.of(asr, [language])
        del inputs  # training may be long, and the corpus large
        return train_in(run, asr, run_data, f"Adding {language}")


def _check(run: Run, model: Path, recipe: PruneRecipe) -> None:
    """Raises PathwaysError if no language can be added to such a model, by such a recipe, or in several processes."""
    if run.fabric.world_size > 1:
        raise PathwaysError("add-language runs in one process: ranks do not exchange the gradients of one language")
    if is_bundle(model):
        raise PathwaysError(
            f"{model}: a bundle lacks the weights that no pathway keeps, which a new language would train: "
            "add it to the model folder"
        )
    if refused := [name for name in _OF_PRUNE if getattr(recipe, name)]:
        raise PathwaysError(f"recipe: {', '.join(refused)}: for prune only: leave it out")


def _add(
    asr: AsrModel,
    model: Path,
    texts: Sequence[str],
    language: str,
    sparsity: float | None,
    reuse: float,
    recipe: PruneRecipe,
) -> None:
    pathways = asr.pathways
    if pathways is None:
        raise PathwaysError(f"{model}: has no pathways: prune it first; a dense model is trained on all languages")
    if asr.model.languages:
        known_language(language, asr.model.languages)
    asr.model.load_languages([language])
    torch.manual_seed(recipe.seed)
    pathways.add(language, sparsity, reuse=reuse)
    _grow_vocabulary(asr, texts, language)


def _grow_vocabulary(asr: AsrModel, texts: Sequence[str], language: str) -> None:
    """New symbols for a language whose characters the vocabulary lacks; only that language has them."""
    tokenizer, model, card = asr.tokenizer, asr.model, asr.card
    unknown = tokenizer.unknown(texts, language)
    if not unknown:
        return
    if not isinstance(tokenizer, Tokenizer) or not isinstance(model, Transducer) or not isinstance(card, ModelCard):
        raise PathwaysError(
            f"{language}: the vocabulary lacks {len(unknown)} characters of its texts ({' '.join(unknown):.60}): only "
            "transducers of this package get new ones"
        )
    assert asr.pathways is not None
    new = _new_pieces(texts, language)
    added = dict(tokenizer.added) if isinstance(tokenizer, TokenizerFamily) else {}
    added[language] = ExtendedTokenizer(tokenizer, new)
    asr.tokenizer = TokenizerFamily(tokenizer, added)
    asr.card = card.model_copy(update={"added": tuple(added)})
    asr.pathways.set_language_tensors(language, model.grown(new.vocab_size))


def _new_pieces(texts: Sequence[str], language: str) -> Tokenizer:
    for size in NEW_PIECES:
        try:
            return Tokenizer.train(texts, size)
        except PathwaysError as error:
            failed = error
    raise PathwaysError(f"texts of {language}: too few for new word pieces: {failed}")
