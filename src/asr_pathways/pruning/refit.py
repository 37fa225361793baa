"""Refitting: the weights that masks keep are solved for anew, so that they make up for those that are cut.

Linear layers are taken in the order in which they run. With the inputs X_l of the dense layer W on speech of language
l, and the inputs Z_l of the same layer in the sparse model, whose layers before it are refitted already, it gets the
weights T that bring the outputs of all pathways, with masks m_l, nearest to those of the dense layer:

    sum over l of |W X_l - (T * m_l) Z_l|^2 + ridge * |T - W|^2 -> min

That is one system of linear equations a row. With one mask it is the reconstruction of AdaPrune (Hubara et al. 2021,
arXiv 2102.08124) and SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774), solved exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
        batches: some speech of each language; more than the columns of the widest layer, in frames and in tokens.
        ridge: for as little speech as that.
        progress: goes through the groups of layers, and may show a bar.

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
    """The weights (R, C) of the module's equation; what no mask keeps stays as it is.

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
    """What runs once in a forward pass, in order."""
    modules = {name.rpartition(".")[0]: name for name in layers}
    begun: list[tuple[str, bool]] = []  # a layer, and whether it reads another input than the one before it
    latest: Tensor | None = None
    ended: dict[str, int] = {}
    calls: Counter[str] = Counter()
    removers = []
    for name, module in model.named_modules():

        def enter(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
            nonlocal latest
            calls[name] += 1
            if name in modules:
                begun.append((name, inputs[0] is not latest))
                latest = inputs[0]

        def leave(_: nn.Module, inputs: object, output: object, name: str = name) -> None:
            ended[name] = len(begun)

        removers += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        run()
    finally:
        for remover in removers:
            remover.remove()
    groups: list[tuple[int, list[str]]] = []
    other = True
    for when, (name, differs) in enumerate(begun):
        other = other or differs
        if calls[name] == 1:
            if other:
                groups.append((when, []))
            groups[-1][1].append(modules[name])
            other = False
    complete = []
    for when, names in groups:
        done = {name for name, end in ended.items() if calls[name] == 1 and end <= when}
        whole = tuple(sorted(name for name in done if not done.intersection(_above(name))))
        complete.append(Group(tuple(names), whole))
    return complete


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
            entered = [sparse.entering(group, (language, n), batch) for n, batch in enumerate(batches[language])]
        for number, (batch, inputs) in enumerate(zip(batches[language], entered, strict=True)):
            gram = gram + inputs.T @ inputs
            cross = cross + dense.entering(group, (language, number), batch).T @ inputs
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

    def entering(self, group: Group, key: object, batch: T) -> Tensor:
        """What enters the layers of ``group`` (N, C) in a batch that ``key`` stands for."""
        for name in set(self._outputs) - set(group.finished):  # it is inside a larger one now
            del self._outputs[name]
        entered: list[Tensor] = []

        def take(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            entered.append(inputs[0])
            raise _Reached

        layer = self._model.get_submodule(group.layers[0].rpartition(".")[0])
        remover = layer.register_forward_pre_hook(take)
        try:
            with self._kept(group.finished, key):
                self._forward(batch)
        except _Reached:
            pass
        finally:
            remover.remove()
        return entered[0].reshape(-1, entered[0].shape[-1]).float()

    @contextmanager
    def _kept(self, finished: Sequence[str], key: object) -> Iterator[None]:
        """Inside, modules return at once what they returned before; what others return is kept."""
        undo: list[Callable[[], None]] = []
        for name in finished:
            module, outputs = self._model.get_submodule(name), self._outputs.setdefault(name, {})
            if key in outputs:
                module.forward = _constant(outputs[key])
                undo.append(lambda module=module: delattr(module, "forward"))  # type: ignore[misc]
            else:
                undo.append(module.register_forward_hook(_keeper(outputs, key)).remove)
        try:
            yield
        finally:
            for step in undo:
                step()


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *arguments, **options: _copied(value)


def _keeper(outputs: dict[object, Any], key: object) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[key] = _copied(output)

    return keep


def _copied(value: Any) -> Any:
    """What follows a module may change its output in place."""
    return tree_map_only(Tensor, Tensor.clone, value)
