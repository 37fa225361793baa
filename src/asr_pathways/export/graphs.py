"""What is exported of a recogniser: three modules that make graphs, and what goes with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.export.masked_layers import Masks
from asr_pathways.export.streaming_graph import JoinerStep, PredictorStep, StreamingEncoder
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer

BLANK = "<blk>"


@dataclass(frozen=True)
class Graphs:
    """One language's pathway written in, or several to choose from.

    Attributes:
        encoder: takes the index of a language in ``languages`` if it `selects`.
        predictor: what exports of transducers call the decoder.
        joiner: scores symbols.
        languages: their codes, in the order of their indices.
        symbols: word pieces in order of their ids, blank last.
        order: the model's own ids of them.
    """

    encoder: StreamingEncoder
    predictor: PredictorStep
    joiner: JoinerStep
    languages: tuple[str, ...]
    symbols: list[str]
    order: list[int]


def build_graphs(asr: AsrModel, languages: Sequence[str] | None) -> Graphs:
    """The graphs of some languages, or of all that the model knows; the recogniser is left as it is.

    Raises:
        PathwaysError: if the model is none of this package's transducers, a language is unknown or was added and is
            not the only one, or masks differ where a graph cannot choose among them.
    """
    model, tokenizer = asr.model, asr.tokenizer
    if not isinstance(model, Transducer) or not isinstance(tokenizer, Tokenizer):
        raise PathwaysError(
            "only the transducers of this package are exported to ONNX; for a model from elsewhere, --format hf writes "
            "a folder that other exporters take"
        )
    chosen = asr.check_languages(languages)
    if not chosen:
        raise PathwaysError("the languages of the model are not written down: name them, such as --languages fr")
    kept = _masks(asr, chosen)
    if kept is None:
        with asr.use(chosen[0]):
            model = copy.deepcopy(model)
    else:
        model = copy.deepcopy(model)
    model = model.cpu().float().eval().requires_grad_(False)
    for module in model.modules():  # what training has pathways watch is no part of a graph
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    pieces = tokenizer.of(chosen[0]).pieces()
    order = [index for index in range(len(model.joiner.output.weight)) if index != model.blank] + [model.blank]
    _reorder(model, order)
    own = _predictor_masks(kept)
    predictors = len(own) if own is not None else 1
    return Graphs(
        encoder=StreamingEncoder(model, chosen, kept, predictors),
        predictor=PredictorStep(model.predictor, own),
        joiner=JoinerStep(model.joiner, order.index(model.blank), predictors),
        languages=chosen,
        symbols=[*(pieces[index] for index in order[:-1]), BLANK],
        order=order,
    )


def _masks(asr: AsrModel, languages: Sequence[str]) -> Masks | None:
    """The masks to choose from; None if there is no choice."""
    pathways = asr.pathways
    if pathways is None or len(languages) == 1:
        return None
    added = [language for language in languages if language in pathways.added]
    if added:
        raise PathwaysError(
            f"{added[0]} was added and has tensors of its own: export it alone (--languages {added[0]}), and the "
            "others without it"
        )
    kept = [pathways.mask(language) for language in languages]
    if _same(kept, list(kept[0])):
        return None
    fixed = [name for name in kept[0] if not name.startswith(("encoder.", "predictor.lstm."))]
    if not _same(kept, fixed):
        raise PathwaysError(f"masks of {fixed[0]} cannot be chosen in a graph: export one language at a time")
    return kept


def _predictor_masks(kept: Masks | None) -> list[Mapping[str, Tensor]] | None:
    """One predictor for each language, or one for all if their masks are the same."""
    if kept is None:
        return None
    names = [name for name in kept[0] if name.startswith("predictor.")]
    return list(kept[:1]) if _same(kept, names) else list(kept)


def _same(kept: Masks, names: Sequence[str]) -> bool:
    return all(torch.equal(one[name], kept[0][name]) for one in kept for name in names)


def _reorder(model: Transducer, order: Sequence[int]) -> None:
    """Symbols in another order: a language that was added has word pieces after blank."""
    index = torch.tensor(order)
    for module, name in (
        (model.predictor.embedding, "weight"),
        (model.joiner.output, "weight"),
        (model.joiner.output, "bias"),
    ):
        rows = getattr(module, name).detach()[index]
        setattr(module, name, nn.Parameter(rows, requires_grad=False))
