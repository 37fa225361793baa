"""Which weights of a model can be pruned, and what each one's rows and columns mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from asr_pathways.errors import PathwaysError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Target:
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
    owners: tuple[tuple[nn.Module, str], ...]
    groups: int

    @property
    def shape(self) -> torch.Size:
        return self.parameter.shape

    @property
    def moment_shape(self) -> tuple[int, int]:
        """(groups, columns) of the running statistics of its inputs."""
        return self.groups, self.shape[1]


def find_targets(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> list[Target]:
    """The weight matrices of linear, convolution, recurrent and attention layers, in the model's order.

    Norms, biases, embeddings and weights computed by a parametrization are not among them, nor is a weight
    that is tied to an embedding or to an excluded name.

    Raises:
        PathwaysError: if nothing is left to prune, or if a pattern matches no parameter.
    """
    owners: dict[nn.Parameter, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            owners.setdefault(parameter, []).append((name, module, attribute))
    found = matching(model, (*include, *exclude))
    for pattern in (*include, *exclude):
        if pattern not in found:
            raise PathwaysError(f"pattern {pattern!r} matches no parameter of the model: see model.named_parameters()")
    targets = []
    for parameter, held in owners.items():
        names = tuple(name for name, _, _ in held)
        prunable = all(attribute in _prunable_attributes(module) for _, module, attribute in held)
        wanted = _any_matches(names, include) and not _any_matches(names, exclude)
        if prunable and wanted and parameter.numel() and parameter.is_floating_point():
            places = tuple(dict.fromkeys((module, attribute) for _, module, attribute in held))
            targets.append(Target(names[0], names, parameter, places, _groups(*places[0])))
    if not targets:
        raise PathwaysError(
            "nothing to prune: the model has no included weight of a linear, convolution, recurrent or attention layer"
        )
    return targets


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


def modules_of(targets: Iterable[Target]) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Each module that holds targets, once, with {attribute: target's name}."""
    held: dict[nn.Module, dict[str, str]] = {}
    for target in targets:
        for module, attribute in target.owners:
            held.setdefault(module, {})[attribute] = target.name
    yield from held.items()
