"""WER on dev, which the processes of a run share, and what it says of a pruned model beside its dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from asr_pathways import ranks
from asr_pathways.data.batches import Batch
from asr_pathways.evaluation.wer import Scores, Utterance, score
from asr_pathways.formats import percent, points
from asr_pathways.model_folder.decode import evaluate
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.training.config import LoopConfig, PruneRecipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

USELESS = 0.5
"""WER above which a model is of no use: most of what it writes is wrong."""

TWICE, LEAST = 2.0, 0.05
"""A pruned model is called bad if its WER is so many times the dense one's, and by so much higher."""


def score_dev(
    asr: AsrModel,
    batches: Sequence[Batch],
    fabric: Fabric,
    *,
    shared: bool = True,
    watched: Callable[[Sequence[Batch]], Iterable[Batch]] = iter,
) -> Scores:
    """Scores of dev batches, of which there are some; ``shared``: every rank decodes a part of them.

    ``watched`` iterates over this rank's batches, and may show a bar, or end it all.
    """
    share = slice(fabric.global_rank, None, fabric.world_size) if shared else slice(None)
    own = batches[share]  # empty where there are more ranks
    utterances = evaluate(asr, watched(own)) if own else []
    if shared:
        gathered = ranks.gather([asdict(utterance) for utterance in utterances], fabric.device)
        utterances = [Utterance(**fields) for of_rank in gathered for fields in of_rank]
        utterances.sort(key=lambda utterance: utterance.language)
    return score(utterances, replications=1)


def beside_dense(wer: float, dense: float, split: str = "dev") -> str:
    """``WER on dev: 25.1%, dense 18.3% (+6.8 points)``."""
    return f"WER on {split}: {percent(wer)}%, dense {percent(dense)}% ({points(wer - dense)} points)"


def warning(wer: float, dense: float, changes: str) -> str:
    """One line if a pruned model with this WER is of no use, or far worse than the dense one; else nothing."""
    if dense > USELESS:
        return (
            ""
            if wer <= USELESS
            else (
                "not usable: more than half of the words are wrong, of the dense model too: finetune that first, "
                "or check that texts and languages of the data are right"
            )
        )
    if wer > USELESS:
        return f"not usable: more than half of the words are wrong: {changes}"
    if wer > TWICE * dense and wer > dense + LEAST:
        return f"far worse than the dense model, with more than twice its errors: {changes}"
    return ""


def changes(config: LoopConfig, sparsity: float) -> str:
    """What to change of a run for a better model."""
    advice = []
    if isinstance(config, PruneRecipe) and not config.refit_batches:
        advice.append("refit (refit_batches: 12)")
    steps = config.optimizer.steps
    advice.append(f"train longer ({2 * steps:,} steps)" if steps else "train after pruning (--steps 500 or more)")
    if sparsity > 0.5:
        advice.append("prune less (--sparsity 0.5)")
    return ", ".join(advice)
