"""Batches whose rows are of several languages: each language's rows go through its own pathway.

The graph that autograd records of a language's rows is kept whole and apart. In the backward pass one node of the
outer graph puts the pathway's weights in place again and runs it, so that nothing is computed twice and gradients
are those of one language after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from asr_pathways.errors import PathwaysError

Pathway = Callable[[str], AbstractContextManager[None]]


class Rows:
    """Calls functions on batches of several languages; what ``Pathways.use([...])`` gives.

        with pathways.use(["en", "fr", "en"]) as rows:
            logits = rows(model, features, lengths)
            criterion(logits, targets).backward()

    Use the model in no other way inside the block: it is dense there.
    """

    def __init__(self, keys: Sequence[str], pathway: Pathway) -> None:
        """
        Args:
            keys: the name of the mask of each row.
            pathway: puts the mask of that name, and what belongs to it, in place while the context lasts.
        """
        self._count = len(keys)
        self._groups = {key: [row for row, own in enumerate(keys) if own == key] for key in dict.fromkeys(keys)}
        self._pathway = pathway
        self._open = True
        self._busy = False

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs ``function`` on each language's rows with its pathway in place, and puts the results together.

        With B rows: in the arguments, tensors (B, ...) and lists or tuples of B items are split, also inside dicts
        and other lists and tuples; all else is given whole to each call. In the result, tensors with the rows in
        front come back as (B, ...) in the order of the batch, also inside dicts, mappings and tuples; tensors
        without dimensions (losses) are summed; a list with one item a row comes back in the order of the batch.

        Call ``backward()`` on what follows from it inside the block; `torch.autograd.grad` would add to ``.grad``
        as well. Not for a model inside DistributedDataParallel.

        Raises:
            PathwaysError: after the block, if no argument has B rows, or if results cannot be put together.
        """
        splits = [_Split(rows, self._count) for rows in self._groups.values()]
        given = [
            (tuple(split(value) for value in args), {name: split(value) for name, value in kwargs.items()})
            for split in splits
        ]
        if not splits[0].found:
            raise PathwaysError(f"rows(): no argument has {self._count} rows, so there is nothing to split by language")
        results = [self._run(key, function, *one) for key, one in zip(self._groups, given, strict=True)]
        order = [row for rows in self._groups.values() for row in rows]
        back = sorted(range(self._count), key=order.__getitem__)
        return _Merge([len(rows) for rows in self._groups.values()], back)(results, "the result")

    def close(self) -> None:
        """From here on neither calls nor backward passes are possible."""
        self._open = False

    @contextmanager
    def _entered(self, key: str) -> Iterator[None]:
        if not self._open:
            raise PathwaysError(
                "rows() or a backward pass after its use([...]) block: run both inside it, where masks can be in place"
            )
        if self._busy:
            raise PathwaysError("rows() or a backward pass of its result inside a function that rows() calls")
        self._busy = True
        try:
            with self._pathway(key):
                yield
        finally:
            self._busy = False

    def _run(self, key: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            with self._entered(key):
                return function(*args, **kwargs)
        result: Any = None

        def run(inputs: Iterable[Tensor]) -> list[Tensor]:
            nonlocal result
            own_args, own_kwargs = _replaced((args, kwargs), inputs)
            with self._entered(key):
                result = function(*own_args, **own_kwargs)
            return _tensors(result)

        anchor = torch.empty(0, requires_grad=True)  # without it outputs would need no gradient where inputs do not
        outputs = _Apart.apply(run, lambda: self._entered(key), anchor, *_tensors((args, kwargs)))  # type: ignore[no-untyped-call]
        return _replaced(result, outputs)


class _Apart(torch.autograd.Function):
    """Runs something with a graph of its own; backward runs that graph inside a context."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[[Iterable[Tensor]], list[Tensor]],
        context: Callable[[], AbstractContextManager[None]],
        anchor: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.context = context
        ctx.inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
        with torch.enable_grad():
            ctx.outputs = run(ctx.inputs)
        ctx.set_materialize_grads(False)
        shown = tuple(tensor.detach() for tensor in ctx.outputs)
        ctx.mark_non_differentiable(*(s for s, t in zip(shown, ctx.outputs, strict=True) if not t.requires_grad))
        return shown

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        reached = [(o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if g is not None and o.requires_grad]
        with ctx.context():
            torch.autograd.backward([o for o, _ in reached], [g for _, g in reached])
        return (None, None, None, *(leaf.grad for leaf in ctx.inputs))


class _Split:
    """Takes some of a batch's rows out of arguments.

    Attributes:
        found: whether anything had rows.
    """

    def __init__(self, rows: list[int], count: int) -> None:
        self.found = False
        self._rows = rows
        self._count = count

    def __call__(self, value: Any) -> Any:
        if isinstance(value, PackedSequence):
            raise PathwaysError(
                "rows(): a packed sequence cannot be split: give it padded, and pack inside the function"
            )
        if isinstance(value, Tensor):
            if value.dim() == 0 or len(value) != self._count:
                return value
            self.found = True
            return value.index_select(0, torch.tensor(self._rows, device=value.device))
        if isinstance(value, Mapping):
            return _mapping(value, {key: self(item) for key, item in value.items()})
        if not isinstance(value, (list, tuple)) or isinstance(value, torch.Size):
            return value
        if len(value) == self._count and not hasattr(value, "_fields"):
            self.found = True
            return type(value)(value[row] for row in self._rows)
        return _sequence(value, [self(item) for item in value])


class _Merge:
    """Puts the results of groups of rows together."""

    def __init__(self, sizes: list[int], back: list[int]) -> None:
        """
        Args:
            sizes: rows of each group.
            back: where each row of the batch is among the rows of all groups, one group after the other.
        """
        self._sizes = sizes
        self._back = back

    def __call__(self, parts: Sequence[Any], where: str) -> Any:
        first = parts[0]
        if all(part is None for part in parts):
            return None
        if all(isinstance(part, Tensor) for part in parts):
            return self._tensor(parts, where)
        if all(isinstance(part, Mapping) and part.keys() == first.keys() for part in parts):
            return _mapping(first, {k: self([part[k] for part in parts], f"{where}[{k!r}]") for k in first})
        if all(isinstance(part, list) for part in parts) and [len(part) for part in parts] == self._sizes:
            if all(
                isinstance(i, Tensor) and _rows_of(i) == n for p, n in zip(parts, self._sizes, strict=True) for i in p
            ):
                raise PathwaysError(
                    f"rows(): {where} may be one item a row or tensors of rows: make it a tuple of tensors"
                )
            items = [item for part in parts for item in part]
            return [items[place] for place in self._back]
        if all(isinstance(part, (list, tuple)) and len(part) == len(first) for part in parts):
            return _sequence(first, [self(items, f"{where}[{i}]") for i, items in enumerate(zip(*parts, strict=True))])
        raise PathwaysError(
            f"rows(): {where} is a {type(first).__name__}, neither a tensor nor a list with one item a row"
        )

    def _tensor(self, parts: Sequence[Tensor], where: str) -> Tensor:
        if all(part.dim() == 0 for part in parts):
            return reduce(add, parts)
        if [_rows_of(part) for part in parts] != self._sizes:
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise PathwaysError(f"rows(): {where} does not have the rows in front: {shapes} for {self._sizes} rows")
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise PathwaysError(f"rows(): {where} differs in shape between languages: {shapes}: give a list of rows")
        return torch.cat(list(parts)).index_select(0, torch.tensor(self._back, device=parts[0].device))


def _rows_of(tensor: Tensor) -> int | None:
    return len(tensor) if tensor.dim() else None


def _tensors(value: Any) -> list[Tensor]:
    """All tensors inside dicts, lists and tuples, in order."""
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _each(value, take)
    return found


def _replaced(value: Any, tensors: Iterable[Tensor]) -> Any:
    """``value`` with other tensors in the places of those that `_tensors` found."""
    others = iter(tensors)
    return _each(value, lambda _: next(others))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _mapping(value, {key: _each(item, change) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return _sequence(value, [_each(item, change) for item in value])
    return value


def _mapping(like: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping of the kind of ``like``; those of transformers are dataclasses."""
    kind: Any = type(like)
    if hasattr(like, "__dataclass_fields__"):
        return kind(**items)
    if isinstance(like, MutableMapping):
        changed = copy(like)  # with what it has beside its items, such as a default
        changed.update(items)
        return changed
    return kind(items)


def _sequence(like: Sequence[Any], items: list[Any]) -> Any:
    """A list or tuple of the kind of ``like``."""
    kind: Any = type(like)
    return kind(*items) if hasattr(like, "_fields") else kind(items)
