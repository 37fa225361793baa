"""Which outputs of modules a forward pass still needs, so that nothing else of it has to be in memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same input.

    Attributes:
        layers: by name.
        finished: the modules that have run to their end before it: blocks (entries of a `ModuleList` without such lists
            in it), and what is in none that still runs.
        needed: those of them whose outputs it or a later group depends on.
        bytes: of these outputs in the traced pass.
        seconds: of the traced pass from where the group before it began its block.
        rows: how many vectors they read in it.
        completes: the block of which these are the last layers; empty if they are not, or in none that runs once.
        block_seconds: of that block in the traced pass.
    """

    layers: tuple[str, ...]
    finished: tuple[str, ...]
    needed: tuple[str, ...]
    bytes: int
    seconds: float
    rows: int
    completes: str = ""
    block_seconds: float = 0.0


class _Flow(TorchFunctionMode):
    """Notes which tensors are made of which, as numbers; one that is changed in place gets another number."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[list[int]] = []  # of each number, other numbers
        self._numbers = WeakTensorKeyDictionary()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sources = self.numbers((args, kwargs))
        result = function(*args, **(kwargs or {}))
        self.made(args[0] if function is Tensor.__setitem__ else result, sources)
        return result

    def numbers(self, value: Any) -> list[int]:
        return [self._numbers[one] for one in _tensors(value) if one in self._numbers]

    def made(self, value: Any, sources: list[int]) -> int:
        """The number that the tensors in ``value`` have from here on."""
        self.sources.append(sources)
        for one in _tensors(value):
            self._numbers[one] = len(self.sources) - 1
        return len(self.sources) - 1

    def needed(self, results: Iterable[int], outputs: dict[int, str]) -> set[str]:
        """Those modules of ``outputs`` ({number of the output: module}) that ``results`` depend on first."""
        rest, seen, found = list(results), set(), set()
        while rest:
            number = rest.pop()
            if number in outputs:
                found.add(outputs[number])
            elif number not in seen:
                seen.add(number)
                rest += self.sources[number]
        return found


def trace(model: nn.Module, run: Callable[[], object], layers: Iterable[str]) -> list[Group]:
    """The ``layers`` (names of their weights) that run once in the forward pass that ``run`` does, in order."""
    names = {module: name for name, module in model.named_modules()}
    lists = {name for module, name in names.items() if isinstance(module, nn.ModuleList)}
    blocks = {
        name
        for name in names.values()
        if name.rpartition(".")[0] in lists and not any(other.startswith(f"{name}.") for other in lists)
    }
    weights = {name.rpartition(".")[0]: name for name in layers}
    flow = _Flow()
    begun: list[tuple[str, list[int], bool, float]] = []  # layer, input, whether that is not the one before, time
    rows: list[int] = []  # of these inputs
    latest: Tensor | None = None
    ended: dict[str, tuple[int, int, int, float]] = {}  # after so many layers; output, its bytes, time
    calls: Counter[str] = Counter()
    entered: dict[str, float] = {}

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal latest
        calls[names[module]] += 1
        entered[names[module]] = time.monotonic()
        if names[module] in weights:
            begun.append((names[module], flow.numbers(inputs[0]), inputs[0] is not latest, time.monotonic()))
            latest = inputs[0]
            rows.append(inputs[0].numel() // inputs[0].shape[-1])

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        size = sum(one.nbytes for one in _tensors(output))
        if not set(map(id, _tensors(inputs))) & set(map(id, _tensors(output))):  # else it is run again
            ended[names[module]] = len(begun), flow.made(output, flow.numbers(output)), size, time.monotonic()

    start = time.monotonic()
    with ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        with flow:
            run()
    starts: list[tuple[int, list[str]]] = []
    other = True
    for when, (name, _, differs, _) in enumerate(begun):
        other = other or differs
        if calls[name] == 1:
            if other:
                starts.append((when, []))
            starts[-1][1].append(weights[name])
            other = False
    last = {block: place for place, (_, group) in enumerate(starts) for block in blocks.intersection(_above(group[0]))}
    completed = {place: block for block, place in last.items() if calls[block] == 1}
    groups, before = [], start
    for place, (when, group) in enumerate(starts):
        done = {name for name, (end, *_) in ended.items() if calls[name] == 1 and end <= when}
        outermost = [name for name in done if not (done | blocks).intersection(_above(name))]
        outputs = {ended[name][1]: name for name in outermost}
        needed = flow.needed([number for later, _ in starts[place:] for number in begun[later][1]], outputs)
        size = sum(ended[name][2] for name in needed)
        seconds, completes = begun[when][3] - before, completed.get(place, "")
        of_block = ended[completes][3] - entered[completes] if completes and completes in ended else 0.0
        names_of = tuple(group), tuple(sorted(outermost)), tuple(sorted(needed))
        groups.append(Group(*names_of, size, seconds, rows[when], completes, of_block))
        before = max((ended[name][3] for name in needed), default=start)
    return groups


def _above(name: str) -> list[str]:
    """The names of the modules that hold a module, but for the whole model."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_iter(value) if isinstance(one, Tensor)]
