"""``train``: a dense multilingual model from a recipe and a data folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_pathways.config import load_yaml, parse_config
from asr_pathways.data.batches import Batch, eval_batches, train_batches
from asr_pathways.data.corpus import languages_of, load_cuts, sources_of
from asr_pathways.data.features import Fbank, FeatureConfig
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder
from asr_pathways.model_folder import ModelCard, Recognizer, load_recognizer, save_recognizer
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import TrainRecipe
from asr_pathways.training.folder import holding_out
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.state import TrainingState, checkpoints

_STATISTICS_UTTERANCES = 200
"""About how many utterances the mean and deviation of features are estimated from."""


def read_train_recipe(path: Path) -> TrainRecipe:
    """The recipe in a YAML file.

    Raises:
        PathwaysError: if the file is missing or wrong; the key is named.
    """
    return parse_config(TrainRecipe, load_yaml(path), str(path))


@holding_out
def train(
    config: TrainRecipe,
    data: Path,
    out: Path,
    *,
    init: Path | None = None,
    languages: Sequence[str] | None = None,
    resume: bool = False,
) -> TrainingState:
    """Trains a dense model on the train split of ``data``, choosing by its dev split.

    Args:
        config: the recipe.
        data: a data folder.
        out: the run folder; becomes a MODEL folder.
        init: a MODEL folder to start from: its weights, tokenizer and feature statistics (and sizes) are taken.
        languages: which ones of the data; None: all.
        resume: go on from the last checkpoint in ``out``.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was in ``out`` is lost.
    """
    start = out / "checkpoints" / "start"
    if start.exists() and not resume:
        raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
    resume = start.exists()  # a run that was killed before that is there has done nothing
    cuts = load_cuts(data, "train", languages).to_eager()
    if resume:
        recognizer = load_recognizer(start)
    elif init is not None:
        recognizer = load_recognizer(init)
        if recognizer.pathways is not None:
            raise PathwaysError(f"{init}: is pruned already; training starts from a dense model (see prune)")
        taught = recognizer.model.languages and recognizer.languages_for(languages, languages_of(cuts))
        update = {"languages": taught or tuple(languages or languages_of(cuts)), "attribution": attribution(data)}
        recognizer.card = recognizer.card.model_copy(update=update)
        recognizer.model.open_languages(recognizer.card.languages)
    else:
        tokenizer = Tokenizer.train((str(cut.supervisions[0].text) for cut in cuts), config.model.vocab_size)
        torch.manual_seed(config.seed)
        model = Transducer(preset(config.model.preset, config.model.vocab_size, config.data.features.bins))
        model.set_feature_statistics(*feature_statistics(cuts, config.data.features))
        card = ModelCard(
            model=model.config,
            features=config.data.features,
            languages=tuple(languages or languages_of(cuts)),
            attribution=attribution(data),
        )
        recognizer = Recognizer(model, tokenizer, card)
    batches = train_batches(cuts, recognizer.tokenizer, config.data, recognizer.model.frontend)
    dev = dev_batches(data, recognizer, config.evaluation.utterances)
    loop = TrainingLoop(recognizer, batches, dev, config, out, "Training")
    if not resume:
        with atomic_folder(start) as folder:
            save_recognizer(folder, recognizer)
    elif checkpoints(out):
        loop.resume()
    return loop.run()


def attribution(data: Path) -> tuple[str, ...]:
    """What the sources of a data folder ask to be said of them."""
    return tuple(dict.fromkeys(str(source["attribution"]) for source in sources_of(data) if source.get("attribution")))


def dev_batches(
    data: Path, recognizer: Recognizer, utterances: int, languages: Sequence[str] | None = None
) -> list[Batch]:
    """Dev batches of some or all of the model's languages: the first ``utterances`` of each by id, or all if 0."""
    cuts = sorted(load_cuts(data, "dev", languages or recognizer.languages), key=lambda cut: cut.id)
    count: Counter[str] = Counter()
    kept = []
    for cut in cuts:
        language = cut.supervisions[0].language
        count[language] += 1
        if not utterances or count[language] <= utterances:
            kept.append(cut)
    return list(eval_batches(kept, recognizer.tokenizer, frontend=recognizer.model.frontend))


def feature_statistics(cuts: Iterable[Any], config: FeatureConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) of features over an evenly spread sample of utterances."""
    ordered = sorted(cuts, key=lambda cut: cut.id)
    sample = ordered[:: max(1, len(ordered) // _STATISTICS_UTTERANCES)]
    batches = eval_batches(sample, frontend=Fbank(config))
    frames = torch.cat(
        [row[:length] for b in batches for row, length in zip(b.features, b.feature_lengths, strict=True)]
    )
    return frames.mean(dim=0), frames.std(dim=0)
