"""Masks reach the weights in place: m * theta while a pathway is in use, theta again after.

In place, so that the module's own parameters stay what autograd, optimizers, DDP, torch.compile and state_dict
know; and so that autograd's version counter makes a backward pass with the wrong weights an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.targets import Target


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients are recorded, and what is made is an ordinary tensor even under ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def as_number(mask: Tensor) -> Tensor:
    """A bool mask seen as uint8, without a copy: multiplying by it is several times faster on a CPU."""
    return mask.view(torch.uint8)


class MaskedWeights:
    """The prunable weights of a model, and a copy of their dense values while they are masked."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._weights: list[Tensor] = [target.parameter for target in self._targets]
        self._dense: list[Tensor] = []
        self._masked: list[Tensor] = []  # what the present masks were written through; empty while dense
        self._version = self._current_version()

    def mask(self, masks: Sequence[Tensor], tracked: bool = True) -> None:
        """theta becomes m * theta; the dense values are kept aside.

        Args:
            masks: bool masks, one a tensor.
            tracked: whether autograd notices, so that a backward pass after `restore` is an error. If not, a
                backward pass is right only where the same masks are in place again, which is the caller's to see to.
        """
        self._check_in_place()
        with quiet():
            if not self._fits():
                self._dense = [torch.empty_like(weight) for weight in self._weights]
            torch._foreach_copy_(self._dense, self._weights)
            # Before the weights change: an interrupt from here on can be undone. What is written through `.data`
            # leaves the version counters of autograd as they are.
            self._masked = self._weights if tracked else [weight.data for weight in self._weights]
            torch._foreach_mul_(self._masked, [as_number(mask) for mask in masks])
        # Autocast keeps low-precision copies of the weights, which would go on showing the other values.
        torch.clear_autocast_cache()

    def restore(self) -> None:
        """theta is what it was before `mask`, bit for bit."""
        if self._masked:
            with quiet():
                torch._foreach_copy_(self._masked, self._dense)
            self._masked = []
            torch.clear_autocast_cache()
        self._version = self._current_version()

    def restore_outside(self, mask: Callable[[int], Tensor]) -> None:
        """Weights outside the masks go back to their values of the last `mask`; the others stay.

        Args:
            mask: from the index of a tensor to its bool mask.
        """
        with quiet():
            for index, (weight, dense) in enumerate(zip(self._weights, self._dense, strict=True)):
                # Exact, since the factors are 0 and 1; many times faster on a CPU than torch.where.
                weight.copy_(dense.lerp_(weight, mask(index).to(weight.dtype)))
        self._version = self._current_version()

    def write_zeros(self, masks: Sequence[Tensor]) -> None:
        """theta becomes m * theta for good."""
        with quiet():
            torch._foreach_mul_(self._weights, [as_number(mask) for mask in masks])

    def moved(self) -> bool:
        """Whether someone changed the weights since the last `restore`."""
        return self._version != self._current_version()

    def hook_gradients(self, hooks: Sequence[Callable[[Tensor], Tensor | None]]) -> list[Callable[[], None]]:
        """Registers one gradient hook a weight; returns what removes them."""
        removers = []
        for weight, hook in zip(self._weights, hooks, strict=True):
            # A weight that does not train now may later; hooks can only be put on one that does.
            trains = weight.requires_grad
            weight.requires_grad_(True)
            removers.append(weight.register_hook(hook).remove)  # type: ignore[no-untyped-call]
            weight.requires_grad_(trains)
        return removers

    def release(self) -> None:
        """Frees the copy of the dense values."""
        self._dense = []

    def _fits(self) -> bool:
        return len(self._dense) == len(self._weights) and all(
            dense.device == weight.device and dense.dtype == weight.dtype
            for dense, weight in zip(self._dense, self._weights, strict=True)
        )

    def _check_in_place(self) -> None:
        for target in self._targets:
            for module, attribute in target.owners:
                if getattr(module, attribute, None) is not target.parameter:
                    raise PathwaysError(
                        f"{target.name} was replaced by another parameter since pathways were attached: attach again"
                    )

    def _current_version(self) -> int:
        return sum(weight._version for weight in self._weights)
