"""``train``: a dense multilingual model from a recipe and a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import TrainRecipe
from asr_pathways.training.estimate import report_cost
from asr_pathways.training.inputs import Inputs, feature_statistics, tokenizer_texts, weights_checksum
from asr_pathways.training.loop import train_in
from asr_pathways.training.origin import REFUSED
from asr_pathways.training.run import open_run
from asr_pathways.training.state import TrainingState


def train(
    config: TrainRecipe,
    data: Path,
    out: Path,
    *,
    init: Path | None = None,
    languages: Sequence[str] | None = None,
    resume: bool = False,
    announced: bool = True,
) -> TrainingState:
    """Trains a dense model on the train split of ``data``, choosing by its dev split.

    Args:
        config: the recipe.
        data: a data folder.
        out: the run folder; becomes a MODEL folder.
        init: a MODEL folder to start from, with its sizes, weights, tokenizer and feature statistics.
        languages: which ones of the data; None: all.
        resume: go on from the last checkpoint in ``out``, if there is one.
        announced: say first what it will cost.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was in ``out`` is lost.
    """
    with open_run(out, config, resume, init=init is not None, languages=list(languages or ())) as run:
        inputs = Inputs(run, data, languages, announced=announced)
        if run.resumes:
            there = None if init is None else weights_checksum(_from_model(init, inputs, languages))
            asr = load_model(run.start)
            if there not in (None, weights_checksum(asr)):
                raise PathwaysError(f"{out}: the run there began with another model than {init}: {REFUSED}")
        elif init is not None:
            asr = _from_model(init, inputs, languages)
        else:
            asr = _from_scratch(config, inputs, languages)
        if {*asr.card.languages} < {*inputs.languages}:  # some that the model does not know
            inputs.select(asr.card.languages)
        run_data = inputs.of(asr)
        if announced and not run.resumes:
            report_cost(run, "Training", asr, inputs, run_data.dev)
        del inputs  # training may be long, and the corpus large
        return train_in(run, asr, run_data, "Training")


def _from_model(init: Path, inputs: Inputs, languages: Sequence[str] | None) -> AsrModel:
    """The model in ``init``, for the languages of the data."""
    asr = load_model(init)
    if asr.pathways is not None:
        raise PathwaysError(f"{init}: is pruned already; training starts from a dense model (see prune)")
    known = asr.model.languages and asr.languages_for(languages, inputs.languages)
    update = {"languages": known or tuple(languages or inputs.languages), "attribution": inputs.attribution}
    asr.card = asr.card.model_copy(update=update)
    asr.model.load_languages(asr.card.languages)
    return asr


def _from_scratch(config: TrainRecipe, inputs: Inputs, languages: Sequence[str] | None) -> AsrModel:
    """A transducer with random weights and the word pieces and feature statistics of the data."""
    features = config.data.features
    tokenizer = Tokenizer.train(tokenizer_texts(inputs.cuts), config.model.vocab_size)
    torch.manual_seed(config.seed)
    model = Transducer(preset(config.model.preset, config.model.vocab_size, features.bins))
    model.set_feature_statistics(*feature_statistics(inputs.cuts, features, inputs.left_out))
    codes = tuple(languages or inputs.languages)
    card = ModelCard(model=model.config, features=features, languages=codes, attribution=inputs.attribution)
    return AsrModel(model, tokenizer, card)
