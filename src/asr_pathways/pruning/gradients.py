"""Gradient hooks: they mask what reaches frozen weights, and take the dense gradient when a score needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from asr_pathways.pruning.targets import Target
from asr_pathways.pruning.weights import as_number

Hook = Callable[[Tensor], "Tensor | None"]


class GradientHooks:
    """What happens to the gradient of each prunable weight, one contribution at a time.

    Each backward pass is masked by its own pathway's mask before it is added to ``.grad``, so that gradients
    accumulated over several languages are right, and ranks exchange masked gradients.

    Attributes:
        mask: from the index of a tensor to the bool mask that its gradient is multiplied by; None: by nothing.
        taking: the pathway whose dense gradients are being summed up; None: of none.
    """

    def __init__(self, targets: Sequence[Target], take: bool) -> None:
        self.mask: Callable[[int], Tensor] | None = None
        self.taking: str | None = None
        self._count = len(targets)
        self._take = take
        self._taken: dict[str, list[Tensor | None]] = {}

    def hooks(self) -> list[Hook]:
        """One hook for each tensor, for `torch.Tensor.register_hook`."""
        return [self._hook(index) for index in range(self._count)]

    def taken(self, pathway: str) -> list[Tensor | None]:
        """The sum of the dense gradients taken for a pathway, one a tensor; empty if none were."""
        return self._taken.get(pathway, [])

    def forget(self) -> None:
        """Drops what was taken."""
        self._taken.clear()

    def _hook(self, index: int) -> Hook:
        def hook(gradient: Tensor) -> Tensor | None:
            if self._take and self.taking is not None:
                sums = self._taken.setdefault(self.taking, [None] * self._count)
                held = sums[index]
                new = gradient.detach().float()
                sums[index] = new.clone() if held is None else held + new
            return None if self.mask is None else gradient * as_number(self.mask(index))

        return hook
