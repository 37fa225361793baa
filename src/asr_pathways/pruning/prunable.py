"""Which weights of a model can be pruned, and what each one's rows and columns mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Owners = tuple[tuple[nn.Module, str], ...]  # the modules that hold a tensor, each with the attribute that it is there


@dataclass(frozen=True)
class Prunable:
    """One prunable weight, counted once however many modules share it.

    Attributes:
        name: its first name in the model, which is its name everywhere here.
        names: every name it has in the model's state_dict.
        parameter: the weight (rows, columns, ...).
        owners: the modules that hold it, each with the attribute that it is there.
        groups: its rows fall into this many equal parts that read different inputs.
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
        tensor: (
            tuple(name for name, _, _ in of_tensor),
            tuple(dict.fromkeys((module, attribute) for _, module, attribute in of_tensor)),
        )
        for tensor, of_tensor in places.items()
    }


def find_prunable(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> list[Prunable]:
    """The weight matrices of linear, convolution, recurrent and attention layers, in the model's order.

    Norms, biases, embeddings and weights computed by a parametrization are not among them, nor is a weight
    that is tied to an embedding or to an excluded name.

    Raises:
        PathwaysError: if nothing is left to prune, or if a pattern matches no parameter.
    """
    matched = matching(model, (*include, *exclude))
    for pattern in (*include, *exclude):
        if pattern not in matched:
            raise PathwaysError(f"pattern {pattern!r} matches no parameter of the model: see model.named_parameters()")
    prunable = []
    for parameter, (names, owners) in tensors_of(model).items():
        if not isinstance(parameter, nn.Parameter) or not (parameter.numel() and parameter.is_floating_point()):
            continue
        matrix = all(attribute in _prunable_attributes(module) for module, attribute in owners)
        if matrix and _any_matches(names, include) and not _any_matches(names, exclude):
            prunable.append(Prunable(names[0], names, parameter, owners, _groups(*owners[0])))
    if not prunable:
        raise PathwaysError(
            "nothing to prune: the model has no included weight of a linear, convolution, recurrent or attention layer"
        )
    return prunable


def matching(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Those of ``patterns`` that match a parameter, for lists that are made for several kinds of model."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return tuple(pattern for pattern in patterns if any(_matches(name, pattern) for name in names))


def _prunable_attributes(module: nn.Module) -> Iterable[str]:
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight_")]
    return ()


def _groups(module: nn.Module, attribute: str) -> int:
    if isinstance(module, CONVOLUTIONS):
        return module.groups
    return 3 if attribute == "in_proj_weight" else 1


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _any_matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(_matches(name, pattern) for name in names for pattern in patterns)


def by_module(prunable: Iterable[Prunable]) -> dict[nn.Module, dict[str, str]]:
    """{module: {attribute: name of the prunable weight there}}."""
    modules: dict[nn.Module, dict[str, str]] = {}
    for weight in prunable:
        for module, attribute in weight.owners:
            modules.setdefault(module, {})[attribute] = weight.name
    return modules
