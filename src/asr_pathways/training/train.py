"""``train``: a dense multilingual model from a recipe and a data folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asr_pathways.bundle.load import load_model
from asr_pathways.config import load_yaml, parse_config
from asr_pathways.data.batches import Batch, DataConfig, TrainBatches, eval_batches, train_batches
from asr_pathways.data.corpus import languages_of, load_cuts, sources_of
from asr_pathways.data.features import Fbank, FeatureConfig
from asr_pathways.data.left_out import LeftOut
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel, ModelCard
from asr_pathways.models.presets import preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.training.config import LoopConfig, TrainRecipe
from asr_pathways.training.folder import holding_out
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.ranks import launch
from asr_pathways.training.state import TrainingState, checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_STATISTICS_UTTERANCES = 200
"""About how many utterances the mean and deviation of features are estimated from."""

_LISTENED = 20_000
"""Of at most so many utterances of a language are batches to listen to drawn."""

_TOKENIZER_TEXTS = 200_000
"""At most so many texts of a language are word pieces trained on."""


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
    fabric = launch(config)
    start = out / "checkpoints" / "start"
    if start.exists() and not resume:
        raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
    resume = start.exists()  # a run that was killed before that is there has done nothing
    fabric.barrier()  # all have looked before the first writes
    left_out = LeftOut(config.data.max_left_out)
    cuts = load_cuts(data, "train", languages, left_out).to_eager()
    if resume:
        asr = load_model(start)
    elif init is not None:
        asr = load_model(init)
        if asr.pathways is not None:
            raise PathwaysError(f"{init}: is pruned already; training starts from a dense model (see prune)")
        taught = asr.model.languages and asr.languages_for(languages, languages_of(cuts))
        update = {"languages": taught or tuple(languages or languages_of(cuts)), "attribution": attribution(data)}
        asr.card = asr.card.model_copy(update=update)
        asr.model.open_languages(asr.card.languages)
    else:
        tokenizer = Tokenizer.train(tokenizer_texts(cuts), config.model.vocab_size)
        torch.manual_seed(config.seed)
        model = Transducer(preset(config.model.preset, config.model.vocab_size, config.data.features.bins))
        model.set_feature_statistics(*feature_statistics(cuts, config.data.features, left_out))
        card = ModelCard(
            model=model.config,
            features=config.data.features,
            languages=tuple(languages or languages_of(cuts)),
            attribution=attribution(data),
        )
        asr = AsrModel(model, tokenizer, card)
    batches = rank_batches(fabric, config, cuts, asr, left_out)
    dev = dev_batches(data, asr, config.evaluation.utterances, left_out=left_out)
    loop = TrainingLoop(asr, batches, dev, config, out, "Training", fabric)
    if not resume:
        save_start(fabric, start, asr)
    elif checkpoints(out):
        loop.resume()
    return loop.run()


def rank_batches(
    fabric: Fabric, config: LoopConfig, cuts: Iterable[Any], asr: AsrModel, left_out: LeftOut
) -> TrainBatches:
    """This rank's training batches."""
    ranks = fabric.global_rank, fabric.world_size, config.accumulate
    model = asr.model
    return train_batches(cuts, asr.tokenizer, config.data, model.frontend, *ranks, left_out, model.refusal)


def calibration_batches(config: DataConfig, cuts: Iterable[Any], asr: AsrModel, left_out: LeftOut) -> Iterator[Batch]:
    """Batches to listen to, in one language: neither augmented nor made ahead, of an even sample of a large corpus."""
    cuts = list(cuts)
    cuts = cuts[:: -(-len(cuts) // _LISTENED)]
    plain = config.model_copy(update={"spec_augment": None, "speed_factors": (1.0,), "prefetch": 0})
    model = asr.model
    found = train_batches(cuts, asr.tokenizer, plain, model.frontend, left_out=left_out, refusal=model.refusal)
    return iter(found)


def save_start(fabric: Fabric, folder: Path, asr: AsrModel) -> None:
    """Writes what a run starts from, by its first rank; the others wait."""
    if fabric.is_global_zero:
        with atomic_folder(folder) as temporary:
            save_model(temporary, asr)
    fabric.barrier()


def attribution(data: Path) -> tuple[str, ...]:
    """What the sources of a data folder ask to be said of them."""
    return tuple(dict.fromkeys(str(source["attribution"]) for source in sources_of(data) if source.get("attribution")))


def dev_batches(
    data: Path,
    asr: AsrModel,
    utterances: int,
    languages: Sequence[str] | None = None,
    left_out: LeftOut | None = None,
) -> list[Batch]:
    """Dev batches of some or all of the model's languages: the first ``utterances`` of each by id, or all if 0."""
    cuts = sorted(load_cuts(data, "dev", languages or asr.languages, left_out), key=lambda cut: cut.id)
    count: Counter[str] = Counter()
    kept = []
    for cut in cuts:
        language = cut.supervisions[0].language
        count[language] += 1
        if not utterances or count[language] <= utterances:
            kept.append(cut)
    model = asr.model
    refusal = None if left_out is None else model.refusal
    return list(eval_batches(kept, asr.tokenizer, frontend=model.frontend, left_out=left_out, refusal=refusal))


def tokenizer_texts(cuts: Iterable[Any], most: int = _TOKENIZER_TEXTS) -> list[str]:
    """Texts to train word pieces on: at most ``most`` a language, evenly spread over its cuts, in their order.

    SentencePiece indexes letters by 31 bits: it cannot take all of a corpus of ten thousand hours.
    """
    cuts = list(cuts)
    count = Counter(str(cut.supervisions[0].language) for cut in cuts)
    seen: Counter[str] = Counter()
    texts = []
    for cut in cuts:
        supervision = cut.supervisions[0]
        if seen[supervision.language] % -(-count[supervision.language] // most) == 0:
            texts.append(str(supervision.text))
        seen[supervision.language] += 1
    return texts


def feature_statistics(
    cuts: Iterable[Any], config: FeatureConfig, left_out: LeftOut | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) of features over an evenly spread sample of utterances."""
    ordered = sorted(cuts, key=lambda cut: cut.id)
    sample = ordered[:: max(1, len(ordered) // _STATISTICS_UTTERANCES)]
    batches = eval_batches(sample, frontend=Fbank(config), left_out=left_out)
    frames = torch.cat(
        [row[:length] for b in batches for row, length in zip(b.features, b.feature_lengths, strict=True)]
    )
    return frames.mean(dim=0), frames.std(dim=0)
