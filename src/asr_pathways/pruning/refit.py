"""Refitting (layer-wise reconstruction): solves for the weights that masks keep, to compensate for those that are cut.

Linear layers are refitted in the order in which they run. With the inputs X_l of the dense layer W on data of language
l, and the inputs Z_l of the same layer in the sparse model, whose layers before it are refitted already, its weights
become the T that brings the outputs of all pathways, with masks m_l, nearest to those of the dense layer:

    sum over l of |W X_l - (T * m_l) Z_l|^2 + ridge * |T - W|^2 -> min

That is one system of linear equations a row. With one mask it is the reconstruction of AdaPrune (Hubara et al. 2021,
arXiv 2102.08124) and SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774), solved exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from asr_pathways import ranks
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.pathways import Pathways
from asr_pathways.pruning.prunable import tensors_of

T = TypeVar("T")

RIDGE = 0.05
"""Weight of the distance from the dense weights, in units of the mean square of an input summed over the batches."""


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same input, by name, and the modules that have run to their end before it."""

    layers: tuple[str, ...]
    finished: tuple[str, ...]


def refit(
    pathways: Pathways,
    forward: Callable[[T], object],
    dense: nn.Module,
    dense_forward: Callable[[T], object],
    batches: Mapping[str, Sequence[T]],
    *,
    ridge: float = RIDGE,
    progress: Callable[[Sequence[Group]], Iterable[Group]] = iter,
) -> None:
    """Changes the weights of ``pathways.model`` so that every pathway comes nearest to ``dense``, layer by layer.

    Changed are linear layers that run once in a forward pass. On several ranks all end with the first one's weights.

    Args:
        pathways: with the masks to refit to; both models are to be in eval mode.
        forward: runs the pathways' model on a batch.
        dense: the model as it was, with the same names of modules.
        dense_forward: runs it on a batch.
        batches: data of each language; more than the columns of the widest layer, in frames and in tokens.
        ridge: for as little data as that.
        progress: iterates over the groups of layers, and may show a bar.

    Raises:
        PathwaysError: if a language was added, which the weights of others must not move for, or lacks batches.
    """
    if pathways.added:
        raise PathwaysError(f"refit: {pathways.added[0]!r} was added: the pathways before it must stay as they are")
    if missing := [language for language in pathways.languages if not batches.get(language)]:
        raise PathwaysError(f"refit: no batches of {', '.join(missing)}")
    layers = _linear_layers(pathways)
    with torch.no_grad():
        first = batches[pathways.languages[0]][0]
        sides = _Side(pathways.model, forward), _Side(dense, dense_forward)
        for group in progress(_groups(dense, lambda: dense_forward(first), layers)):
            grams, crosses = _moments(pathways, *sides, group, batches)
            for name in group.layers:
                masks = list(pathways.masks_of(name).values())
                wanted, weight = dense.get_parameter(name), layers[name].weight
                kept = torch.stack(masks).any(dim=0).to(weight.device)
                weight.copy_(torch.where(kept, solve(wanted, masks, grams, crosses, ridge), weight))
        ranks.from_first([layer.weight for layer in layers.values()])


def solve(
    weight: Tensor, masks: Sequence[Tensor], grams: Sequence[Tensor], crosses: Sequence[Tensor], ridge: float
) -> Tensor:
    """The weights T (R, C) of the module's equation; what no mask keeps stays as it is.

    Args:
        weight: W (R, C).
        masks: m_l (R, C), bool.
        grams: Z_l Z_l' (C, C).
        crosses: X_l Z_l' (C, C).
        ridge: in units of the mean of the grams' diagonals.
    """
    device, kind = weight.device, weight.dtype
    weight = weight.double().cpu()
    masks = [mask.cpu() for mask in masks]
    grams = [gram.double().cpu() for gram in grams]
    wanted = [weight @ cross.double().cpu() for cross in crosses]
    penalty = ridge * sum(float(gram.diagonal().mean()) for gram in grams)
    kept = torch.stack(list(masks)).any(dim=0)
    solution = weight.clone()
    for row, columns in enumerate(kept):
        places = columns.nonzero()[:, 0]
        if penalty == 0 or not len(places):  # no input, or nothing is kept
            continue
        square = places[:, None] * weight.shape[1] + places  # in a flat matrix: take() is several times faster
        left = torch.zeros(len(places), len(places), dtype=torch.double)
        right = penalty * weight[row, places]
        for mask, gram, product in zip(masks, grams, wanted, strict=True):
            factor = mask[row, places].double()
            left += gram.take(square) * factor[:, None] * factor
            right += product[row, places] * factor
        left.diagonal().add_(penalty)
        solution[row, places] = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(left))[:, 0]
    return solution.to(device, kind)


def _linear_layers(pathways: Pathways) -> dict[str, nn.Linear]:
    """{prunable tensor's name: the layer} of those that belong to one linear layer alone."""
    prunable = set(pathways.names)
    return {
        names[0]: owners[0][0]
        for names, owners in tensors_of(pathways.model).values()
        if names[0] in prunable and len(owners) == 1 and isinstance(owners[0][0], nn.Linear)
    }


def _groups(model: nn.Module, run: Callable[[], object], layers: Iterable[str]) -> list[Group]:
    """The layers that run once in a forward pass, in order."""
    names = {module: name for name, module in model.named_modules()}
    weights = {name.rpartition(".")[0]: name for name in layers}
    begun: list[tuple[str, bool]] = []  # a layer, and whether it reads another input than the one before it
    latest: Tensor | None = None
    ended: dict[str, int] = {}
    calls: Counter[str] = Counter()

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal latest
        calls[names[module]] += 1
        if names[module] in weights:
            begun.append((names[module], inputs[0] is not latest))
            latest = inputs[0]

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        ended[names[module]] = len(begun)

    with ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        run()
    starts: list[tuple[int, list[str]]] = []
    other = True
    for when, (name, differs) in enumerate(begun):
        other = other or differs
        if calls[name] == 1:
            if other:
                starts.append((when, []))
            starts[-1][1].append(weights[name])
            other = False
    groups = []
    for when, group in starts:
        done = {name for name, end in ended.items() if calls[name] == 1 and end <= when}
        outermost = sorted(name for name in done if not done.intersection(_above(name)))
        groups.append(Group(tuple(group), tuple(outermost)))
    return groups


def _above(name: str) -> list[str]:
    """The names of the modules that hold a module, but for the whole model."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _moments(
    pathways: Pathways, sparse: _Side[T], dense: _Side[T], group: Group, batches: Mapping[str, Sequence[T]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Z Z' and X Z' of each pathway, (C, C)."""
    grams, crosses = [], []
    for language in pathways.languages:
        gram = cross = torch.zeros(())
        with pathways.use(language):
            inputs = [sparse.inputs(group, (language, n), batch) for n, batch in enumerate(batches[language])]
        for number, (batch, z) in enumerate(zip(batches[language], inputs, strict=True)):
            gram = gram + z.T @ z
            cross = cross + dense.inputs(group, (language, number), batch).T @ z
        grams.append(gram)
        crosses.append(cross)
    return grams, crosses


class _Reached(Exception):
    """A forward pass has come as far as it needs to."""


class _Side(Generic[T]):
    """A model that is run up to one layer after the other; what has run to its end is not run again."""

    def __init__(self, model: nn.Module, forward: Callable[[T], object]) -> None:
        self._model, self._forward = model, forward
        self._outputs: dict[str, dict[object, Any]] = {}  # of finished modules, by batch

    def inputs(self, group: Group, key: object, batch: T) -> Tensor:
        """The input of the layers of ``group`` (N, C) in the batch that ``key`` names."""
        for name in set(self._outputs) - set(group.finished):  # it is inside a larger one now
            del self._outputs[name]
        entered: list[Tensor] = []

        def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            entered.append(inputs[0])
            raise _Reached

        layer = self._model.get_submodule(group.layers[0].rpartition(".")[0])
        with ExitStack() as undo, suppress(_Reached):
            undo.callback(layer.register_forward_pre_hook(record).remove)
            for name in group.finished:
                module, outputs = self._model.get_submodule(name), self._outputs.setdefault(name, {})
                if key in outputs:  # returns it at once
                    module.forward = partial(_copied, outputs[key])
                    undo.callback(delattr, module, "forward")
                else:
                    undo.callback(module.register_forward_hook(partial(_keep, outputs, key)).remove)
            self._forward(batch)
        return entered[0].reshape(-1, entered[0].shape[-1]).float()


def _keep(outputs: dict[object, Any], key: object, module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[key] = _copied(output)


def _copied(value: Any, *_: Any, **__: Any) -> Any:
    """A copy, since what follows a module may change its output in place."""
    return tree_map_only(Tensor, Tensor.clone, value)
