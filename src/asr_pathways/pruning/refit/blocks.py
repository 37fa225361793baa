"""Block-wise reconstruction: a block's kept weights, biases and norms follow the output of the dense model's block.

When the layers of a block are solved for, one after the other, some steps of Adam bring the output of the whole block
nearer to that of the dense model's block, whose inputs come from the dense model. Every pathway counts, each with its
own mask; what no mask keeps does not move. After BRECQ (Li et al. 2021, arXiv 2102.05426) and, of sparse models, Guo et
al. 2024 (EBFT, arXiv 2402.12419).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_iter

from asr_pathways.errors import PathwaysError

Call: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"
"""Arguments of a module, by place and by name."""

RATE = 1e-4
"""Of learning at first; it falls to zero in a line."""


@dataclass(frozen=True)
class Example:
    """A batch as one block has it.

    Attributes:
        call: what the sparse model calls the block with.
        target: what is not padding of the dense model's output (N, C).
        valid: from an output (..., C) to what is not padding of it (N, C).
    """

    call: Call
    target: Tensor
    valid: Callable[[Tensor], Tensor]


def hidden(output: Any) -> Tensor:
    """The output of a block that the next one reads: the first tensor that it returns."""
    return next(one for one in tree_iter(output) if isinstance(one, Tensor))


def reconstruct(
    block: nn.Module,
    parameters: Mapping[str, Tensor],
    masks: Mapping[str, Mapping[str, Tensor]],
    examples: Mapping[str, Sequence[Example]],
    steps: int,
) -> dict[str, Tensor]:
    """New values of a block's parameters.

    Args:
        block: in eval mode; it is not changed.
        parameters: those to train, by their names in the block.
        masks: {name: {language: bool mask}} of those that are pruned.
        examples: of each language.
        steps: for each language, in turn, on its examples in turn.

    Raises:
        PathwaysError: if an output is not finite.
    """
    values = {name: value.detach().float().clone().requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.Adam(list(values.values()), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps * len(examples))
    powers = {
        language: sum(float(one.target.float().square().mean()) for one in group) / len(group)
        for language, group in examples.items()
    }  # so that every language counts alike
    rows = zip(*(islice(cycle(group), steps) for group in examples.values()), strict=True)
    with torch.enable_grad():
        for examples_of_step in rows:
            for language, example in zip(examples, examples_of_step, strict=True):
                masked = {
                    name: (value * masks[name][language] if name in masks else value).to(parameters[name].dtype)
                    for name, value in values.items()
                }
                arguments, named = copy.deepcopy(example.call)  # a block may change them, such as a stream's state
                output = example.valid(hidden(functional_call(block, masked, arguments, named)))
                loss = (output.float() - example.target.float()).square().mean() / (powers[language] or 1.0)
                if not loss.isfinite():
                    raise PathwaysError(f"refit: an output of a block is not finite on data of {language}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return {name: value.detach().to(parameters[name]) for name, value in values.items()}
