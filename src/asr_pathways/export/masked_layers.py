"""Linear and convolution layers whose masks a graph chooses while it runs, for each stream of a batch its own.

Weights are kept once; each pathway's masks are kept at one bit a weight, as in `asr_pathways.pruning.masks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import masks

Masks = Sequence[Mapping[str, Tensor]]
"""For each language {name of a weight: bool mask}."""


class Choice:
    """Which pathway each stream of a batch takes: set once a pass, read by all masked layers."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        """(B,), int64: indices of pathways."""


class MaskedWeight(nn.Module):
    """A weight theta (...) and the masks of L pathways: indices (B,) -> m * theta (B, ...)."""

    weight: Tensor
    bits: Tensor
    patterns: Tensor

    def __init__(self, weight: Tensor, kept: Sequence[Tensor]) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.register_buffer("weight", weight.detach().float().contiguous().clone())
        self.register_buffer("bits", torch.stack([masks.pack(mask.cpu()) for mask in kept]))
        # What each byte of a packed mask means, so that a graph unpacks it by looking it up.
        self.register_buffer("patterns", masks.unpack(torch.arange(256, dtype=torch.uint8), (256, 8)).float())

    def forward(self, rows: Tensor) -> Tensor:
        chosen = self.bits.index_select(0, rows).to(torch.int32)
        kept = F.embedding(chosen, self.patterns).flatten(1)
        count = self.weight.numel()
        if kept.shape[1] != count:
            kept = kept[:, :count]
        return (kept * self.weight.flatten()).view(-1, *self.shape)


class MaskedLinear(nn.Module):
    """``nn.Linear`` with a weight for each stream: (B, ..., I) -> (B, ..., O)."""

    def __init__(self, linear: nn.Linear, kept: Sequence[Tensor], choice: Choice) -> None:
        super().__init__()
        self.masked = MaskedWeight(linear.weight, kept)
        self.bias = linear.bias
        self.choice = choice

    def forward(self, x: Tensor) -> Tensor:
        assert self.choice.rows is not None
        weight = self.masked(self.choice.rows)
        out = torch.matmul(x.flatten(1, -2), weight.transpose(1, 2)).view(*x.shape[:-1], weight.shape[1])
        return out if self.bias is None else out + self.bias


class MaskedConv(nn.Module):
    """``nn.Conv1d`` without padding or groups, with a weight for each stream: (B, I, T) -> (B, O, T')."""

    def __init__(self, conv: nn.Conv1d, kept: Sequence[Tensor], choice: Choice) -> None:
        super().__init__()
        self.masked = MaskedWeight(conv.weight, kept)
        self.bias = conv.bias
        self.stride = conv.stride[0]
        self.kernel = conv.kernel_size[0]
        self.choice = choice

    def forward(self, x: Tensor) -> Tensor:
        assert self.choice.rows is not None
        weight = self.masked(self.choice.rows).flatten(2)
        count = (x.shape[2] - self.kernel) // self.stride + 1
        taps = [x[:, :, tap : tap + (count - 1) * self.stride + 1 : self.stride] for tap in range(self.kernel)]
        out = torch.matmul(weight, torch.stack(taps, dim=2).flatten(1, 2))
        return out if self.bias is None else out + self.bias[:, None]


def mask_layers(module: nn.Module, prefix: str, kept: Masks, choice: Choice) -> None:
    """Puts masked layers in place of those of ``module`` whose weights have masks.

    Args:
        module: changed in place.
        prefix: the module's own name in the model that the names in ``kept`` are of.
        kept: the masks of each pathway; those of other modules are left alone.
        choice: where the layers look up which pathway to take.

    Raises:
        PathwaysError: if a masked weight belongs to a layer of another kind.
    """
    for name, layer in list(module.named_modules()):
        weight = f"{prefix}.{name}.weight"
        if weight not in kept[0]:
            continue
        owner, _, attribute = name.rpartition(".")
        own = [one[weight] for one in kept]
        new: nn.Module
        if isinstance(layer, nn.Linear):
            new = MaskedLinear(layer, own, choice)
        elif isinstance(layer, nn.Conv1d) and layer.groups == 1 and layer.padding == (0,):
            new = MaskedConv(layer, own, choice)
        else:
            raise PathwaysError(
                f"{weight}: the masks of such a {type(layer).__name__} cannot be chosen in a graph: "
                "export one language at a time"
            )
        setattr(module.get_submodule(owner), attribute, new)
