"""The data of a run, from a data folder: batches to train on, to calibrate on and to score, and their statistics."""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_pathways.data.batches import Batch, TrainBatches, eval_batches, joined
from asr_pathways.data.corpus import languages_of, load_cuts, sources_of, texts_of
from asr_pathways.data.features import Fbank, FeatureConfig
from asr_pathways.data.identity import Identity
from asr_pathways.data.left_out import LeftOut, Unfit
from asr_pathways.data.progress import track
from asr_pathways.data.tokenizer import lost_words
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.training.fisher import fisher_loss
from asr_pathways.training.run import Run

_STATISTICS_UTTERANCES = 200
"""About how many utterances the mean and deviation of features are estimated from."""

_SAMPLED = 1_000
"""Of about so many utterances, evenly spread, a batch is drawn to measure a run's cost by."""

_CALIBRATION_UTTERANCES = 20_000
"""Calibration batches are drawn of at most so many utterances of a language."""

_TOKENIZER_TEXTS = 200_000
"""Word pieces are trained on at most so many texts of a language."""


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is scored on, and what a run that goes on must have again.

    Attributes:
        batches: to train on.
        dev: to score.
        identity: of the utterances of each split.
        model: a checksum of the weights of the MODEL that the run begins with.
    """

    batches: TrainBatches
    dev: list[Batch]
    identity: dict[str, Identity]
    model: int


class Inputs:
    """The data of one run; utterances that cannot be used are left out of all of it.

    Args:
        run: determines how much of the data, and which share of the batches, this process has.
        data: a data folder.
        languages: which ones of the data; None: all.
        announced: print first that data are read, which takes a while.

    Raises:
        PathwaysError: if the data folder is broken, lacks a language, or has too many unusable utterances.
    """

    def __init__(
        self, run: Run, data: Path, languages: Sequence[str] | None = None, *, announced: bool = False
    ) -> None:
        self._run, self._data = run, data
        if announced and run.fabric.is_global_zero:
            print(f"{run.out}: reading {data}", file=sys.stderr)
        self.left_out = LeftOut(run.config.data.max_left_out)
        self.cuts: list[Any] = []  # Lhotse's, of the train split
        self.select(languages)

    def select(self, languages: Sequence[str] | None) -> None:
        """Reads the train split; None: of all languages."""
        self.cuts = list(load_cuts(self._data, "train", languages, self.left_out))

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of the train split, sorted."""
        return tuple(languages_of(self.cuts))

    @property
    def seconds(self) -> float:
        """Audio of the train split."""
        return float(sum(cut.duration for cut in self.cuts))

    @property
    def attribution(self) -> tuple[str, ...]:
        """The credits of the data's sources."""
        credits = (source.get("attribution") for source in sources_of(self._data))
        return tuple(dict.fromkeys(str(credit) for credit in credits if credit))

    def of(self, asr: AsrModel, dev_languages: Sequence[str] | None = None) -> RunData:
        """All that a run of ``asr`` needs, which is scored in some or all of its languages."""
        batches, cuts = self.training(asr), self._dev_cuts(asr, dev_languages)
        self._report_dev(asr, cuts, dev_languages)
        targets = {name: ids for utterances in batches.targets().values() for name, ids in utterances.items()}
        identity = {"train": Identity.of(self.cuts, targets), "dev": Identity.of(cuts)}
        return RunData(batches, self._dev_batches(asr, cuts), identity, weights_checksum(asr))

    def training(self, asr: AsrModel) -> TrainBatches:
        """This rank's training batches."""
        config, fabric = self._run.config, self._run.fabric
        ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size, "accumulate": config.accumulate}
        batches = TrainBatches(self.cuts, config=config.data, **ranks, **self._options(asr))
        self._report_unfit("train")
        if without := [language for language in self.languages if language not in batches.targets()]:
            raise PathwaysError(
                f"{self._data}: none of the train utterances of {', '.join(without)} can be used: {self.left_out.last}"
            )
        _check_targets(asr, batches)
        self._report_lost_words(asr)
        return batches

    def calibration(self, asr: AsrModel, language: str, alone_each: int = 0) -> Iterator[Batch]:
        """Endless batches of one language, neither augmented nor made ahead, of an even sample of a large corpus.

        If the model pads to a window, utterances are joined to fill it; but the first one of the first batch, and of
        each ``alone_each`` after it, is in a window of its own, most of which is silence then; 0: none is.
        """
        cuts = [cut for cut in self.cuts if cut.supervisions[0].language == language]
        cuts = cuts[:: -(-len(cuts) // _CALIBRATION_UTTERANCES)]
        plain = {"spec_augment": None, "speed_factors": (1.0,), "prefetch": 0}
        batches = TrainBatches(cuts, config=self._run.config.data.model_copy(update=plain), **self._options(asr))
        pads, too_long = asr.model.pads_to_window, asr.model.length_error
        alone = (int(alone_each > 0 and number % alone_each == 0) for number in count())
        return (joined(one, too_long, next(alone)) if pads else one for one in batches)

    def sample(self, asr: AsrModel) -> Batch:
        """A batch of a training step (without steps: of calibration) of the usual size, to measure a run's cost by."""
        config, cuts = self._run.config, self.cuts[:: -(-len(self.cuts) // _SAMPLED)]
        plain = {"spec_augment": None, "speed_factors": (1.0,), "prefetch": 0}
        options = {**self._options(asr), "left_out": LeftOut(len(cuts))}
        batch = TrainBatches(cuts, config=config.data.model_copy(update=plain), **options).usual()
        whole = asr.model.pads_to_window and not config.optimizer.steps
        return joined(batch, asr.model.length_error) if whole else batch

    def dev(self, asr: AsrModel) -> list[Batch]:
        """Dev batches of the model's languages: of each, as many utterances as the run scores, by id."""
        return self._dev_batches(asr, self._dev_cuts(asr, None))

    def _dev_cuts(self, asr: AsrModel, languages: Sequence[str] | None) -> list[Any]:
        most = self._run.config.evaluation.utterances or None
        wanted = languages or asr.languages
        by_language: dict[str, list[Any]] = {}
        for cut in sorted(load_cuts(self._data, "dev", None, self.left_out), key=lambda cut: cut.id):
            if cut.supervisions[0].language not in wanted:
                continue
            reason = asr.model.length_error(int(cut.duration * asr.model.frontend.frame_rate), ())
            if reason is not None:
                self.left_out.note({cut.id: Unfit(f"utterance {cut.id}: {reason}")})
            else:
                by_language.setdefault(cut.supervisions[0].language, []).append(cut)
        return [cut for group in by_language.values() for cut in group[:most]]

    def _report_dev(self, asr: AsrModel, cuts: Sequence[Any], languages: Sequence[str] | None) -> None:
        """On stderr: what of dev is not used, and languages that have nothing there."""
        self._report_unfit("dev")
        there = languages_of(cuts)
        missing = [language for language in languages or asr.languages if language not in there]
        if missing and self._run.fabric.is_global_zero:
            others = "the model is chosen by the others" if there else "the last model is the result, unscored"
            print(f"{self._data}: no dev utterances of {', '.join(missing)}: {others}", file=sys.stderr)

    def _dev_batches(self, asr: AsrModel, cuts: Sequence[Any]) -> list[Batch]:
        options = {**self._options(asr), "length_error": lambda frames, _: asr.model.length_error(frames, ())}
        return list(eval_batches(cuts, **options))  # whose texts are not learned, so may be of any length

    def _report_unfit(self, split: str) -> None:
        """On stderr, in one line: how many utterances do not fit the model, or are broken as their rows show."""
        reasons = self.left_out.new_reasons()
        if reasons and self._run.fabric.is_global_zero:
            what = f"{len(reasons):,} utterances that cannot be used, such as " if len(reasons) > 1 else ""
            print(f"{self._data}, {split}: left out: {what}{reasons[0]}", file=sys.stderr)

    def _report_lost_words(self, asr: AsrModel) -> None:
        """On stderr; raises PathwaysError if they are too many."""
        for language, texts in texts_of(self.cuts).items():
            line = lost_words(asr.tokenizer, texts, language, f"{self._data}, train")
            if line is not None and self._run.fabric.is_global_zero:
                print(line, file=sys.stderr)

    def _options(self, asr: AsrModel) -> dict[str, Any]:
        """Arguments of all batches."""
        model = asr.model
        options = {"tokenizer": asr.tokenizer, "frontend": model.frontend, "length_error": model.length_error}
        return {**options, "left_out": self.left_out, "written": model.free_text}


def weights_checksum(asr: AsrModel) -> int:
    """Of all weights of a model."""
    checksum = 0
    for name, tensor in sorted(asr.model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        checksum = zlib.crc32(values.numpy(), zlib.crc32(name.encode(), checksum))
    return checksum


def _check_targets(asr: AsrModel, batches: TrainBatches) -> None:
    """Raises PathwaysError if the model cannot learn the targets of an utterance, before the first step."""
    for language, utterances in batches.targets().items():
        grown = asr.pathways is not None and language in asr.pathways.added  # has symbols of its own while in use
        with asr.inference(language) if grown else nullcontext():
            if not asr.model.target_error(sorted(set().union(*utterances.values())), language):
                continue
            for identifier, targets in utterances.items():
                if reason := asr.model.target_error(targets, language):
                    raise PathwaysError(f"utterance {identifier}: {reason}")


def choose_masks(
    asr: AsrModel,
    inputs: Inputs,
    languages: Sequence[str],
    batches: int,
    masked: bool = False,
    sparsity: float | None = None,
) -> None:
    """Masks of ``languages`` by what the score needs of ``batches`` of each, if it can be known before training.

    The model is dense then, or with ``masked`` the sub-network of the mask that the language has. With ``sparsity`` all
    masks get to it, as by `Pathways.prune`; else they are chosen at that which they have. Of several ranks those with 0
    ``batches`` choose by the statistics of the others: all get the same masks.
    """
    pathways = asr.pathways
    assert pathways is not None
    if not pathways.config.calibrates or pathways.sparsity == 0:
        return
    asr.model.eval()
    backward = "fisher" in pathways.config.score_needs
    for language in languages:
        drawn = inputs.calibration(asr, language)
        network = asr.use(language) if masked else nullcontext()
        # cuDNN's recurrent layers have no backward pass in eval mode.
        cudnn = torch.backends.cudnn.flags(enabled=False) if backward else nullcontext()
        with network, pathways.calibrate(language), torch.set_grad_enabled(backward), cudnn:
            shown = track(islice(drawn, batches), f"Calibrating {language}", batches) if batches else ()
            for number, batch in enumerate(one.to(asr.device) for one in shown):
                with asr.unpadded(batch):
                    if backward:
                        fisher_loss(asr.model, batch, number).backward()  # type: ignore[no-untyped-call]
                    else:
                        asr.model.loss(batch)
            asr.model.zero_grad(set_to_none=True)
    if sparsity is not None:
        pathways.prune(sparsity)
        return
    for language in languages[: 1 if pathways.config.shared else None]:
        pathways.adapt(language)


def tokenizer_texts(cuts: Sequence[Any], most: int = _TOKENIZER_TEXTS) -> list[str]:
    """Texts to train word pieces on: at most ``most`` a language, evenly spread over its cuts, in their order.

    SentencePiece indexes letters by 31 bits: too few for all of a corpus of ten thousand hours.
    """
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
    rows = [row[:length] for b in batches for row, length in zip(b.features, b.feature_lengths, strict=True)]
    frames = torch.cat(rows)
    return frames.mean(dim=0), frames.std(dim=0)
