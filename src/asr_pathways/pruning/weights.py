"""Masks reach the weights in place: m * theta while a pathway is in use, theta again after.

In place, so that the module's parameters stay what autograd, optimizers, DDP, torch.compile and state_dict
know; and so that autograd's version counter makes a backward pass with the wrong weights an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import Granularity
from asr_pathways.pruning.prunable import Prunable


@contextmanager
def no_autograd() -> Iterator[None]:
    """No gradients are recorded, and what is made is an ordinary tensor even under ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def as_number(mask: Tensor) -> Tensor:
    """A bool mask seen as uint8, without a copy: multiplying by it is several times faster on a CPU."""
    return mask.view(torch.uint8)


def hook_gradients(
    weights: Sequence[Tensor], hooks: Sequence[Callable[[Tensor], Tensor | None]]
) -> list[Callable[[], None]]:
    """Registers one gradient hook a weight; returns what removes them."""
    removers = []
    for weight, hook in zip(weights, hooks, strict=True):
        # A weight that does not train now may later; hooks can only be put on one that does.
        trains = weight.requires_grad
        weight.requires_grad_(True)
        removers.append(weight.register_hook(hook).remove)  # type: ignore[no-untyped-call]
        weight.requires_grad_(trains)
    return removers


@contextmanager
def no_tracing(model: nn.Module) -> Iterator[None]:
    """Inside, whatever traces ``model`` or a part of it is refused: a trace keeps the parameters, soon dense again.

    Layers of torch have no such hook, so that those of an encoder may still run as one kernel in evaluation.
    """
    modules = [module for module in model.modules() if module is model or not _of_torch(module)]
    hook = partial(_refuse_tracing, frozenset(map(id, modules)))
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _refuse_tracing(modules: frozenset[int], module: nn.Module, _: object) -> None:
    tracing = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined, no-untyped-call]
    if tracing and id(module) in modules:  # a copy made in the block has the hook too, and keeps its zeros
        raise PathwaysError(
            "tracing or exporting inside use(): the result would be dense after it: trace copy.deepcopy(model) made "
            "there, or load extract(language) into a model of its own"
        )


class MaskedWeights:
    """The prunable weights of a model, with a copy of their dense values while they are masked.

    Of neurons only the second weight is masked, which gives the same outputs, bit for bit. So what a dropped neuron
    would put out is still observed, and so is the gradient of the weights after it: it may come back.
    """

    def __init__(self, prunable: Sequence[Prunable], granularity: Granularity) -> None:
        self._prunable = list(prunable)
        implied = [part.implied for part in granularity.parts]
        self._applied = [index for index in range(len(self._prunable)) if not implied[index % len(implied)]]
        self._weights: list[Tensor] = [one.parameter for one in self._prunable]
        self._dense: list[Tensor] = []
        self._masked: list[Tensor] = []  # what the present masks were written through; empty while dense
        self._version = self._current_version()
        self._whole: list[Tensor] = []  # the values before the zeros of first masks were written in
        self._zeroed = self._version  # when theta was last what follows from these
        self._zeros_out = False

    def dense(self, name: str) -> Tensor:
        """The dense values of a weight, whether or not masks are in place."""
        index = next(index for index, one in enumerate(self._prunable) if one.name == name)
        return self._dense[index] if self._masked else self._weights[index]

    def mask(self, masks: Sequence[Tensor], tracked: bool = True) -> None:
        """theta becomes m * theta; the dense values are kept aside.

        Args:
            masks: bool masks, one a tensor.
            tracked: whether autograd notices, so that a backward pass after `restore` is an error. If not, the
                caller has to put the same masks in place again for a backward pass.
        """
        self._check_in_place()
        self._unchanged()
        with no_autograd():
            if [(t.device, t.dtype) for t in self._dense] != [(t.device, t.dtype) for t in self._weights]:
                self._dense = [torch.empty_like(weight) for weight in self._weights]
            torch._foreach_copy_(self._dense, self._weights)
            # Before the weights change: an interrupt from here on can be undone. What is written through `.data`
            # leaves the version counters of autograd as they are.
            self._masked = self._weights if tracked else [weight.data for weight in self._weights]
            applied = [(self._masked[index], as_number(masks[index])) for index in self._applied]
            torch._foreach_mul_(*map(list, zip(*applied, strict=True)))
        self._version = self._current_version()
        # Autocast caches low-precision copies of the weights, which would have the other values.
        torch.clear_autocast_cache()

    def restore(self) -> bool:
        """theta is what it was before `mask`, bit for bit; returns whether somebody changed what was masked."""
        changed = bool(self._masked) and self.moved()
        if self._masked:
            with no_autograd():
                torch._foreach_copy_(self._masked, self._dense)
            self._masked = []
            torch.clear_autocast_cache()
            self._zeroed = self._current_version()
        self._version = self._current_version()
        return changed

    def restore_outside(self, mask: Callable[[int], Tensor]) -> None:
        """Weights outside the masks go back to their values of the last `mask`; the others stay.

        Args:
            mask: from the index of a tensor to its bool mask.
        """
        with no_autograd():
            for index, (weight, dense) in enumerate(zip(self._weights, self._dense, strict=True)):
                # Exact, since the factors are 0 and 1; many times faster on a CPU than torch.where.
                weight.copy_(dense.lerp_(weight, mask(index).to(weight.dtype)))
        self._version = self._current_version()

    def write_zeros(self, masks: Sequence[Tensor], first: bool = False) -> None:
        """theta becomes m * theta for good; if the masks are the ``first``, until training others may take their place.

        Those then choose among all weights, and not among what the first masks left.
        """
        with no_autograd():
            if self._unchanged():
                torch._foreach_copy_(self._weights, self._whole)
            else:
                self._whole = [weight.detach().clone() for weight in self._weights] if first else []
            torch._foreach_mul_(self._weights, [as_number(mask) for mask in masks])
        self._zeroed, self._zeros_out = self._current_version(), False

    @contextmanager
    def before_zeros(self) -> Iterator[None]:
        """Inside, theta is what it was before the zeros of first masks, unless it has changed since or is masked."""
        if self._masked or not self._unchanged():
            yield
            return
        zeroed = [weight.detach().clone() for weight in self._weights]
        with no_autograd():
            torch._foreach_copy_(self._weights, self._whole)
        self._zeroed, self._zeros_out = self._current_version(), True
        try:
            yield
        finally:
            if self._zeros_out:  # no other masks were written
                with no_autograd():
                    torch._foreach_copy_(self._weights, zeroed)
                self._zeroed, self._zeros_out = self._current_version(), False

    def write_again(self, masks: Sequence[Tensor]) -> None:
        """If theta still has the zeros of first masks, and nothing else has changed: those of other ``masks``."""
        if self._unchanged():
            self.write_zeros(masks)

    def keep_zeros(self) -> None:
        """Training has begun: what first masks set to zero is forgotten."""
        self._whole = []

    def _unchanged(self) -> bool:
        """Whether theta is what was made of `_whole`."""
        if self._current_version() != self._zeroed:
            self._whole = []
        return bool(self._whole)

    def moved(self) -> bool:
        """Whether someone changed the weights since the last `mask` or `restore`."""
        return self._version != self._current_version()

    def release(self) -> None:
        """Frees the copies of the dense values."""
        self._dense = self._whole = []

    def _check_in_place(self) -> None:
        for prunable in self._prunable:
            for module, attribute in prunable.owners:
                if getattr(module, attribute, None) is not prunable.parameter:
                    raise PathwaysError(
                        f"{prunable.name} was replaced by another parameter since pathways were attached: attach again"
                    )

    def _current_version(self) -> int:
        return sum(weight._version for weight in self._weights)


def reset_revived(optimizer: torch.optim.Optimizer, prunable: Sequence[Prunable], revived: Sequence[Tensor]) -> None:
    """Zeroes the optimizer's state (moments, momentum) of revived weights: bool masks, one a prunable weight."""
    with no_autograd():
        for weight, mask in zip(prunable, revived, strict=True):
            for value in optimizer.state.get(weight.parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(mask, 0)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, by name."""
    return {name: value.detach().clone() for name, value in _parameters_and_buffers(model).items()}


def rewind(model: nn.Module, start: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
    """Puts all parameters and buffers back to ``start`` and clears the optimizer's state."""
    with no_autograd():
        for name, value in _parameters_and_buffers(model).items():
            value.copy_(start[name])
    if optimizer is not None:
        optimizer.state.clear()


def _parameters_and_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
