"""Prunable weights of a model, and the meaning of their rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Neurons, parse_granularity

if TYPE_CHECKING:
    from asr_pathways.pruning.config import PathwayConfig

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Owners = tuple[tuple[nn.Module, str], ...]  # the modules that hold a tensor, each with the attribute that it is there


@dataclass(frozen=True)
class Prunable:
    """One prunable weight, counted once however many modules share it.

    Attributes:
        name: the first of its ``names`` in the model's state_dict.
        parameter: the weight (rows, columns, ...).
        owners: the modules that hold it, each with the attribute that it is there.
        groups: number of equal parts of its rows that have different inputs.
    """

    name: str
    names: tuple[str, ...]
    parameter: nn.Parameter
    owners: Owners
    groups: int

    @property
    def shape(self) -> torch.Size:
        return self.parameter.shape


def tensors_of(model: nn.Module) -> dict[Tensor, tuple[tuple[str, ...], Owners]]:
    """Every parameter and buffer once, in the model's order, with its names and the modules that hold it."""
    places: dict[Tensor, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            places.setdefault(tensor, []).append((f"{prefix}.{attribute}" if prefix else attribute, module, attribute))
    return {
        tensor: (tuple(name for name, *_ in of_tensor), tuple(dict.fromkeys((m, a) for _, m, a in of_tensor)))
        for tensor, of_tensor in places.items()
    }


def to_prune(model: nn.Module, config: PathwayConfig) -> list[Prunable]:
    """What the masks of a config cover: `find_prunable`, or of granularity ``neurons`` the weights of its pairs."""
    prunable = find_prunable(model, config.include, config.exclude)
    if not isinstance(parse_granularity(config.granularity), Neurons):
        return prunable
    return [one for pair in find_pairs(model, config.pairs, prunable) for one in pair]


def find_pairs(
    model: nn.Module, pairs: Sequence[tuple[str, str]], prunable: Sequence[Prunable]
) -> list[tuple[Prunable, Prunable]]:
    """The weights of every two linear layers whose names end as one of ``pairs`` does and begin alike.

    Returns:
        Pairs of those among ``prunable``, in their order.

    Raises:
        PathwaysError: if there are no pairs, one is in no part of the model, or its layers do not follow one another,
            are not linear, or are not both to be pruned.
    """
    if not pairs:
        raise PathwaysError(
            "granularity neurons needs pairs, how the names of the two layers around the neurons end: "
            "pairs=[('fc1', 'fc2')]"
        )
    weights = {name: one for one in prunable for name in one.names}
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, tuple[Prunable, Prunable]] = {}
    for first, second in pairs:
        tails = [name.removesuffix(first) for name in modules if f".{name}".endswith(f".{first}")]
        both = [tail for tail in tails if f"{tail}{second}" in modules]
        if not both:
            raise PathwaysError(f"pairs: no {first} of the model has a {second} beside it: see model.named_modules()")
        for tail in both:
            names = f"{tail}{first}", f"{tail}{second}"
            layers = [modules[name] for name in names]
            if not all(isinstance(layer, nn.Linear) for layer in layers):
                raise PathwaysError(f"pairs: {' and '.join(names)} are not two linear layers")
            if layers[0].out_features != layers[1].in_features:
                sizes = f"{layers[0].out_features} outputs and {layers[1].in_features} inputs"
                raise PathwaysError(f"pairs: {' and '.join(names)} do not follow one another: they have {sizes}")
            chosen = [weights[f"{name}.weight"] for name in names if f"{name}.weight" in weights]
            if len(chosen) == 1:
                raise PathwaysError(
                    f"pairs: of {' and '.join(names)} only {chosen[0].name} is to be pruned: exclude both"
                )
            if chosen:
                found[chosen[0].name] = chosen[0], chosen[1]
    if not found:
        raise PathwaysError("nothing to prune: include and exclude leave no pair of layers")
    if len({one.name for pair in found.values() for one in pair}) != 2 * len(found):
        raise PathwaysError("pairs: a layer is in two of them")
    return [found[one.name] for one in prunable if one.name in found]


def find_prunable(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> list[Prunable]:
    """The weight matrices of linear, convolution, recurrent and attention layers, in the model's order.

    Norms, biases, embeddings and weights computed by a parametrization are not among them, nor is a weight
    that is tied to an embedding or to an excluded name.

    Raises:
        PathwaysError: if nothing is left to prune, if a pattern matches no parameter, or if `torch.nn.utils.prune`
            masks one of these weights.
    """
    for pattern in (*include, *exclude):
        if not matching(model, [pattern]):
            raise PathwaysError(f"pattern {pattern!r} matches no parameter of the model: see model.named_parameters()")
    for prefix, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                attribute: str = hook._tensor_name
                name = f"{prefix}.{attribute}_orig".lstrip(".")
                would = not {attribute, f"{attribute}_orig"}.isdisjoint(_prunable_attributes(module))
                if would and matches([name], include) and not matches([name], exclude):
                    raise PathwaysError(
                        f"{name.removesuffix('_orig')} is masked by torch.nn.utils.prune: "
                        f"end that by its remove(module, {attribute!r}), or exclude the module"
                    )
    prunable = []
    for parameter, (names, owners) in tensors_of(model).items():
        if not isinstance(parameter, nn.Parameter) or not (parameter.numel() and parameter.is_floating_point()):
            continue
        matrix = all(attribute in _prunable_attributes(module) for module, attribute in owners)
        if matrix and matches(names, include) and not matches(names, exclude):
            module, attribute = owners[0]
            groups = module.groups if isinstance(module, CONVOLUTIONS) else 3 if attribute == "in_proj_weight" else 1
            prunable.append(Prunable(names[0], names, parameter, owners, groups))
    if not prunable:
        raise PathwaysError(
            "nothing to prune: the model has no included weight of a linear, convolution, recurrent or attention layer"
        )
    return prunable


def matching(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Those of ``patterns`` that match a parameter, for lists that are made for several kinds of model."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return tuple(pattern for pattern in patterns if matches(names, [pattern]))


def _prunable_attributes(module: nn.Module) -> Iterable[str]:
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, nn.RNNBase):  # of its own names, since weight_norm and others add parameters beside these
        return [name for layer in module._all_weights for name in layer if name.startswith("weight_")]
    return ("weight_ih", "weight_hh") if isinstance(module, nn.RNNCellBase) else ()


def in_the_middle(model: nn.Module, prunable: Sequence[Prunable]) -> frozenset[int]:
    """Which of ``prunable``, by index, are in the middle third of a list of layers (`ModuleList`, the outermost)."""
    lists = {f"{name}.": len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = set()
    for index, one in enumerate(prunable):
        outermost = min((name for name in lists if one.name.startswith(name)), key=len, default="")
        if outermost:
            layer, third = int(one.name.removeprefix(outermost).partition(".")[0]), round(lists[outermost] / 3)
            if third <= layer < lists[outermost] - third:
                found.add(index)
    return frozenset(found)


def matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether a pattern is of one of these parameters, or of a module that holds it."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for name in names for p in patterns)


def by_module(prunable: Iterable[Prunable]) -> dict[nn.Module, dict[str, str]]:
    """{module: {attribute: name of the prunable weight there}}."""
    modules: dict[nn.Module, dict[str, str]] = {}
    for weight in prunable:
        for module, attribute in weight.owners:
            modules.setdefault(module, {})[attribute] = weight.name
    return modules
