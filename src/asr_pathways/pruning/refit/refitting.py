"""Refitting (layer-wise reconstruction): solves for the weights that masks keep, to compensate for those that are cut.

Linear layers are refitted in the order in which they run. With the inputs X_l of the dense layer W on data of language
l, and the inputs Z_l of the same layer in the sparse model, whose layers before it are refitted already, its weights
become the T that brings the outputs of all pathways, with masks m_l, nearest to those of the dense layer:

    sum over l of |W X_l - (T * m_l) Z_l|^2 + ridge * |T - W|^2 -> min

That is one system of linear equations a row. With one mask it is the reconstruction of AdaPrune (Hubara et al. 2021,
arXiv 2102.08124) and SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774), solved by conjugate gradients, as ALPS
does (Meng et al. 2024, arXiv 2406.07831).

It streams: of a batch only outputs that are still needed are in memory, in a chain of blocks those of the last one. Of
inputs only the sums X Z' and Z Z' are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from asr_pathways import ranks
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.observe import without_padding
from asr_pathways.pruning.pathways import Pathways
from asr_pathways.pruning.prunable import tensors_of
from asr_pathways.pruning.refit.blocks import Call, Example, hidden, reconstruct
from asr_pathways.pruning.refit.dataflow import Group, trace

T = TypeVar("T")

RIDGE = 0.05
"""Weight of the distance from the dense weights, in units of the mean square of an input summed over the batches."""

STEPS, TOLERANCE = 16, 1e-4
"""Of conjugate gradients: at most so many, until a row's residual is so small a part of what it was.

Of what solving gains in a layer of whisper-base at 50 or 70%, two languages, 0.1 to 0.6% is left then; after 30 steps,
in twice the time, 0.002 to 0.08%.
"""


_PASSES = 3
"""Time of a step on a block, in units of its forward pass."""

_FOR_GRADIENT = 60
"""In a block, what a backward pass needs of a batch, about, in units of the outputs that later layers need."""


@dataclass(frozen=True)
class RefitCost:
    """What refitting takes.

    Attributes:
        batch, step, solving: seconds a language: of each batch, of each step on a block of the blocks together, and of
            the solutions.
        outputs: bytes of a batch's outputs that later layers need.
        weights: bytes of weights, sums and a solution; ``sums`` those of a language.
    """

    batch: float = 0.0
    step: float = 0.0
    solving: float = 0.0
    outputs: int = 0
    weights: int = 0
    sums: int = 0

    def seconds(self, batches: int, steps: int) -> float:
        """Of refitting on so many batches, and with so many steps on each block."""
        on_blocks = (steps + batches / _PASSES) * self.step if steps else 0.0  # the dense block runs on each batch
        return batches * self.batch + on_blocks + self.solving

    def bytes(self, languages: int, batches: int, steps: int) -> int:
        """At most, beside the batches themselves, about."""
        # Of a block also what both models have before and after it, and of one batch what its gradient needs.
        count = 4 * languages * batches + _FOR_GRADIENT if steps else 2 * languages * batches
        return count * self.outputs + self.weights + languages * self.sums


class Refitting(Generic[T]):
    """What is to be refitted; `run` does it.

    Changed are linear layers that run once in a forward pass; with steps (see `run`) all parameters of the blocks that
    end with one. On several ranks all end with the first one's weights.

    Args:
        pathways: with the masks to refit to; both models are to be in eval mode.
        forward: runs the pathways' model on a batch.
        dense: the model as it was, with the same names of modules.
        dense_forward: runs it on a batch.
        sample: a batch, the largest if they differ in size.
        positions: from a batch to what is not padding in it, as `Pathways.unpadded` takes it.

    Attributes:
        groups: the layers to refit, in order.

    Raises:
        PathwaysError: if a language was added, which the weights of others must not move for.
    """

    def __init__(
        self,
        pathways: Pathways,
        forward: Callable[[T], object],
        dense: nn.Module,
        dense_forward: Callable[[T], object],
        sample: T,
        positions: Callable[[T], Mapping[str, Tensor]] = lambda _: {},
    ) -> None:
        if pathways.added:
            raise PathwaysError(f"refit: {pathways.added[0]!r} was added: the pathways before it must stay as they are")
        self._pathways, self._dense, self._positions = pathways, dense, positions
        self._forwards = (pathways.model, forward), (dense, dense_forward)
        self._layers = _linear_layers(pathways)
        with torch.no_grad():
            self.groups = trace(dense, lambda: dense_forward(sample), self._layers)

    @property
    def blocks(self) -> tuple[Group, ...]:
        """Those groups that complete a block."""
        return tuple(group for group in self.groups if group.completes)

    def bytes(self, batches: int, steps: int = 0) -> int:
        """What ``batches`` of each language occupy at most beside themselves, about, in outputs, weights and sums."""
        return self.cost.bytes(len(self._pathways.languages), batches, steps)

    def seconds(self, batches: int, steps: int = 0) -> float:
        """How long it takes with ``batches`` of each language, about."""
        return len(self._pathways.languages) * self.cost.seconds(batches, steps)

    @cached_property
    def cost(self) -> RefitCost:
        """What it takes, about: forward passes up to each group of layers and sums of their inputs a batch, passes of
        blocks a step, and the solutions, before each of which the pathway comes into use.
        """
        groups, weights = self.groups, [layer.weight for layer in self._layers.values()]
        device = next(self._pathways.model.parameters()).device
        summing, solving = cache(partial(_summing, device)), cache(partial(_solving, device))
        # A bias is one more column.
        batch = sum(2 * group.seconds + summing(group.rows, self._columns(group) + 1) for group in groups)
        step = _PASSES * sum(group.block_seconds for group in groups) + self._updates(device)
        shapes = [(one.out_features, one.in_features + (one.bias is not None)) for one in self._refitted]
        solved = sum(map(solving, shapes))
        began = time.monotonic()
        with self._pathways.use(self._pathways.languages[0]):
            pass
        used = (len(groups) + len(self.blocks)) * (time.monotonic() - began)
        return RefitCost(
            batch,
            step,
            solved + used,
            outputs=max((group.bytes for group in groups), default=0),
            weights=4 * (sum(map(Tensor.numel, weights)) + 12 * max(map(Tensor.numel, weights), default=0)),
            sums=4 * 2 * max((weight.shape[1] for weight in weights), default=0) ** 2,
        )

    @property
    def _refitted(self) -> list[nn.Linear]:
        return [self._layers[name] for group in self.groups for name in group.layers]

    def _columns(self, group: Group) -> int:
        return self._layers[group.layers[0]].in_features

    def _updates(self, device: torch.device) -> float:
        """Seconds to mask and to update the parameters of all blocks once, by those of the largest."""
        model = self._pathways.model
        sizes = [sum(map(Tensor.numel, _parameters_within(model, one.completes).values())) for one in self.blocks]
        return sum(sizes) / max(sizes) * _updating(device, max(sizes)) if sizes else 0.0

    def run(
        self,
        batches: Mapping[str, Sequence[T]],
        ridge: float = RIDGE,
        steps: int = 0,
        progress: Callable[[Sequence[Group]], Iterable[Group]] = iter,
        solved: MutableMapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Changes the weights of the pathways' model so that every pathway comes nearest to the dense model.

        Args:
            batches: data of each language; more than the columns of the widest layer, in frames and in tokens.
            ridge: for as little data as that.
            steps: of Adam a block and language, on one batch each, when a block's layers are solved for; 0: none.
            progress: iterates over the groups of layers, and may show a bar.
            solved: {first layer of a group, or block: its new parameters}: those that are there already are taken from
                there, and new ones are put there.

        Raises:
            PathwaysError: if a language lacks batches, or a layer's input is not finite.
        """
        if missing := [language for language in self._pathways.languages if not batches.get(language)]:
            raise PathwaysError(f"refit: no batches of {', '.join(missing)}")
        solved = {} if solved is None else solved
        sides = [_Side(*one) for one in self._forwards]
        with torch.no_grad():
            for group in progress(self.groups):
                if group.layers[0] not in solved:
                    moments = self._moments(sides, group, batches, biases=steps > 0)
                    solved[group.layers[0]] = self._solve(group, *moments, ridge)
                self._take(solved[group.layers[0]])
                if steps and group.completes:
                    if group.completes not in solved:
                        solved[group.completes] = self._reconstruct(sides, group, batches, steps)
                    self._take(solved[group.completes])
            ranks.from_first(list(self._pathways.model.parameters()))

    def _take(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._pathways.model.get_parameter(name).copy_(value)

    def _reconstruct(
        self, sides: Sequence[_Side[T]], group: Group, batches: Mapping[str, Sequence[T]], steps: int
    ) -> dict[str, Tensor]:
        """New values of the parameters of the block that ``group`` completes, by their names in the model."""
        block, (sparse, dense) = group.completes, sides
        examples: dict[str, list[Example]] = {}
        for language in self._pathways.languages:
            examples[language] = []
            with self._pathways.use(language):
                for number, batch in enumerate(batches[language]):
                    key, positions = (language, number), self._positions(batch)
                    valid = partial(without_padding, channel=-1, weight=group.layers[0], positions=positions)
                    call, output = sparse.block(group, key, batch), dense.output(group, key, batch)
                    examples[language].append(Example(call, valid(hidden(output)), valid))
        module = self._pathways.model.get_submodule(block)
        parameters = _parameters_within(self._pathways.model, block)
        pruned = [name for name in parameters if f"{block}.{name}" in self._pathways.names]
        masks = {name: self._pathways.masks_of(f"{block}.{name}") for name in pruned}
        found = reconstruct(module, parameters, masks, examples, steps)
        return {f"{block}.{name}": value for name, value in found.items()}

    def _solve(self, group: Group, grams: list[Tensor], crosses: list[Tensor], ridge: float) -> dict[str, Tensor]:
        """New weights, and biases if the moments have them, by their names in the model."""
        solutions = {}
        for name in group.layers:
            masks = [mask.to(grams[0].device) for mask in self._pathways.masks_of(name).values()]
            layer, columns = self._layers[name], self._layers[name].in_features
            weight, bias = self._dense.get_parameter(name).float(), f"{name.removesuffix('weight')}bias"
            left, right = grams, crosses
            if layer.bias is not None and len(grams[0]) > columns:
                weight = torch.cat((weight, self._dense.get_parameter(bias).float()[:, None]), dim=1)
                masks = [nn.functional.pad(mask, (0, 1), value=True) for mask in masks]
            else:
                left, right = ([one[:columns, :columns] for one in moments] for moments in (grams, crosses))
            solution = solve(weight, masks, left, right, ridge).to(layer.weight)
            kept = torch.stack(masks).any(dim=0)[:, :columns]
            solutions[name] = torch.where(kept, solution[:, :columns], layer.weight)
            if solution.shape[1] > columns:
                solutions[bias] = solution[:, columns].contiguous()
        return solutions

    def _moments(
        self, sides: Sequence[_Side[T]], group: Group, batches: Mapping[str, Sequence[T]], biases: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Z Z' and X Z' of each pathway, (C, C); with ``biases`` of inputs with a 1 after them, (C + 1, C + 1)."""
        columns = self._layers[group.layers[0]].in_features
        grams, crosses = [], []
        for language in self._pathways.languages:
            gram = cross = torch.zeros(())
            with self._pathways.use(language):
                for number, batch in enumerate(batches[language]):
                    positions = self._positions(batch)
                    z, x = (
                        without_padding(side.input(group, (language, number), batch), -1, group.layers[0], positions)
                        .reshape(-1, columns)
                        .float()
                        for side in sides
                    )
                    if biases:
                        z, x = (nn.functional.pad(one, (0, 1), value=1.0) for one in (z, x))
                    gram = gram + z.T @ z
                    cross = cross + x.T @ z
            if not (gram.isfinite().all() and cross.isfinite().all()):
                raise PathwaysError(f"refit: inputs of {group.layers[0]} are not finite on data of {language}")
            grams.append(gram)
            crosses.append(cross)
        return grams, crosses


def solve(
    weight: Tensor,
    masks: Sequence[Tensor],
    grams: Sequence[Tensor],
    crosses: Sequence[Tensor],
    ridge: float,
    steps: int = STEPS,
) -> Tensor:
    """The weights T (R, C) of the module's equation; what no mask keeps stays as it is.

    Args:
        weight: W (R, C).
        masks: m_l (R, C), bool.
        grams: Z_l Z_l' (C, C).
        crosses: X_l Z_l' (C, C).
        ridge: in units of the mean of the grams' diagonals.
        steps: at most.
    """
    penalty = ridge * sum(float(gram.diagonal().mean()) for gram in grams)
    kept = torch.stack(list(masks)).any(dim=0)
    if penalty == 0:  # no input
        return weight

    def product(values: Tensor) -> Tensor:  # the left side of the equations; values are 0 where nothing is kept
        parts = zip(masks, grams, strict=True)
        return sum(((values * mask) @ gram * mask for mask, gram in parts), penalty * values)

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=1, keepdim=True)

    diagonal = sum((mask * gram.diagonal() for mask, gram in zip(masks, grams, strict=True)), torch.tensor(penalty))
    solution = weight * kept
    right = sum((weight @ cross * mask for mask, cross in zip(masks, crosses, strict=True)), penalty * solution)
    residual = right - product(solution)
    enough = TOLERANCE**2 * dot(residual, residual)
    direction = scaled = residual / diagonal
    length = dot(residual, scaled)
    for _ in range(steps):
        if bool((dot(residual, residual) <= enough).all()):
            break
        image = product(direction)
        step = length / dot(direction, image).clamp(min=torch.finfo(weight.dtype).tiny)
        solution = solution + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        before, length = length, dot(residual, scaled)
        direction = scaled + length / before.clamp(min=torch.finfo(weight.dtype).tiny) * direction
    return torch.where(kept, solution, weight)


@torch.no_grad()
def _summing(device: torch.device, rows: int, columns: int) -> float:
    """Seconds to add so many inputs to the sums of both models."""
    inputs, sums = torch.ones(rows, columns, device=device), torch.zeros(columns, columns, device=device)
    began = time.monotonic()
    for _ in range(2):
        sums = sums + inputs.T @ inputs
    float(sums[0, 0])  # which waits for it
    return time.monotonic() - began


@torch.no_grad()
def _solving(device: torch.device, shape: tuple[int, int]) -> float:
    """Seconds to solve for a weight of this shape, were it of one language: by those of one step."""
    weight = torch.linspace(-1, 1, shape[0] * shape[1], device=device).view(shape)
    square, masks = torch.eye(shape[1], device=device) + 1 / shape[1], [weight > 0]
    began = time.monotonic()
    solve(weight, masks, [square], [square], RIDGE, steps=1)
    return (time.monotonic() - began) * (STEPS + 2) / 3  # products, of which there are two before the first step


@torch.enable_grad()
def _updating(device: torch.device, count: int) -> float:
    """Seconds of Adam on so many masked parameters."""
    values, mask = torch.zeros(count, device=device, requires_grad=True), torch.ones(count, device=device) > 0
    optimizer = torch.optim.Adam([values])
    began = time.monotonic()
    (values * mask).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    float(values.detach()[0])
    return time.monotonic() - began


def _linear_layers(pathways: Pathways) -> dict[str, nn.Linear]:
    """{prunable tensor's name: the layer} of those that belong to one linear layer alone."""
    prunable = set(pathways.names)
    return {
        names[0]: owners[0][0]
        for names, owners in tensors_of(pathways.model).values()
        if names[0] in prunable and len(owners) == 1 and isinstance(owners[0][0], nn.Linear)
    }


def _parameters_within(model: nn.Module, block: str) -> dict[str, nn.Parameter]:
    """The floating-point parameters that ``block`` alone has, by their first names in it."""
    prefix = f"{block}."
    return {
        names[0].removeprefix(prefix): tensor
        for tensor, (names, _) in tensors_of(model).items()
        if isinstance(tensor, nn.Parameter)
        and tensor.is_floating_point()
        and all(name.startswith(prefix) for name in names)
    }


class _Reached(Exception):
    """A forward pass has come as far as it needs to."""


class _Side(Generic[T]):
    """A model that is run up to one layer after the other; what has run to its end is not run again."""

    def __init__(self, model: nn.Module, forward: Callable[[T], object]) -> None:
        self._model, self._forward = model, forward
        self._outputs: dict[
            object, dict[str, Any]
        ] = {}  # {batch: {finished module: its output, or what looks like it}}

    def input(self, group: Group, key: object, batch: T) -> Tensor:
        """The input of the layers of ``group`` (..., C) in the batch that ``key`` names."""
        entered: Tensor = self._call(group.layers[0].rpartition(".")[0], group, key, batch)[0][0]
        return entered

    def block(self, group: Group, key: object, batch: T) -> Call:
        """What the block that ``group`` completes is called with."""
        return self._call(group.completes, group, key, batch)

    def output(self, group: Group, key: object, batch: T) -> Any:
        """What that block returns."""
        returned: list[Any] = []

        def record(_: nn.Module, inputs: Any, output: Any) -> None:
            returned.append(output)
            raise _Reached

        self._run(lambda model: model.get_submodule(group.completes).register_forward_hook(record), group, key, batch)
        return returned[0]

    def _call(self, name: str, group: Group, key: object, batch: T) -> Call:
        entered: list[Call] = []

        def record(_: nn.Module, *call: Any) -> None:
            entered.append(call)
            raise _Reached

        def register(model: nn.Module) -> RemovableHandle:
            return model.get_submodule(name).register_forward_pre_hook(record, with_kwargs=True)

        self._run(register, group, key, batch)
        return entered[0]

    def _run(self, register: Callable[[nn.Module], RemovableHandle], group: Group, key: object, batch: T) -> None:
        """A forward pass to where the hook that ``register`` puts on the model raises `_Reached`."""
        outputs = self._outputs.setdefault(key, {})
        with ExitStack() as undo, suppress(_Reached):
            undo.callback(register(self._model).remove)
            for name, output in outputs.items():  # is returned at once
                module = self._model.get_submodule(name)
                module.forward = partial(_copied, output)
                undo.callback(delattr, module, "forward")
            for name in set(group.finished).difference(outputs):
                keep = partial(_keep, outputs, name)
                undo.callback(self._model.get_submodule(name).register_forward_hook(keep).remove)
            self._forward(batch)
        self._outputs[key] = {
            name: outputs[name] if name in group.needed else tree_map_only(Tensor, _stand_in, outputs[name])
            for name in group.finished
            if name in outputs
        }


def _keep(outputs: dict[str, Any], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = _copied(output)


def _copied(value: Any, *_: Any, **__: Any) -> Any:
    """A copy, since what follows a module may change its output in place."""
    return tree_map_only(Tensor, Tensor.clone, value)


def _stand_in(tensor: Tensor) -> Tensor:
    """In the place of an output that nothing needs: of its shape, in no memory, and undefined wherever it can be."""
    return tensor.new_full((), float("nan") if tensor.is_floating_point() else 0).expand(tensor.shape)
