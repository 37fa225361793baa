"""Batches whose rows are of several languages: each language's rows go through its pathway, gradients accumulate.

The graph that autograd records of a language's rows is kept whole and apart. In the backward pass one node of the
outer graph puts the pathway's weights in place again and runs it, so that nothing is computed twice and gradients
are those of one language after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import TreeSpec, tree_flatten, tree_iter, tree_map, tree_map_only, tree_unflatten

from asr_pathways.errors import PathwaysError


class MixedBatch:
    """Calls functions on batches of several languages; what ``Pathways.use([...])`` yields.

        with pathways.use(["en", "fr", "en"]) as rows:
            logits = rows(model, features, lengths)
            criterion(logits, targets).backward()

    Use the model in no other way inside the block: it is dense there.
    """

    def __init__(self, keys: Sequence[str], in_place: Callable[[str], AbstractContextManager[None]]) -> None:
        """
        Args:
            keys: the name of the mask of each row.
            in_place: puts the mask of that name, and what belongs to it, in place while the context lasts.
        """
        self._count = len(keys)
        self._rows = {key: [row for row, of_row in enumerate(keys) if of_row == key] for key in dict.fromkeys(keys)}
        self._sizes = [len(rows) for rows in self._rows.values()]
        by_language = [row for rows in self._rows.values() for row in rows]
        self._positions = sorted(range(self._count), key=by_language.__getitem__)  # of each row in `by_language`
        self._in_place = in_place
        self._closed = False
        self._running = False

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs ``function`` on each language's rows with its pathway in place, and puts the results together.

        With B rows: in the arguments, tensors (B, ...) and lists or tuples of B items are split, also inside dicts
        and other lists and tuples; all else is passed whole to each call. In the result, tensors with the rows in
        front come back as (B, ...) in the order of the batch, also inside dicts, tuples and other containers that
        `torch.utils._pytree` knows; tensors without dimensions (losses) are summed; a list with one item a row comes
        back in the order of the batch.

        Call ``backward()`` on what follows from it inside the block; `torch.autograd.grad` would add to ``.grad``
        as well. Not for a model inside DistributedDataParallel.

        Raises:
            PathwaysError: after the block, if no argument has B rows, or if results cannot be put together.
        """
        call = (args, kwargs)

        def is_leaf(value: Any) -> bool:
            inside = value is not call and value is not args
            return inside and (isinstance(value, (PackedSequence, torch.Size)) or self._has_rows(value))

        leaves = list(tree_iter(call, is_leaf=is_leaf))
        for leaf in leaves:
            if isinstance(leaf, PackedSequence):
                raise PathwaysError("rows(): a packed sequence cannot be split: pass it padded, pack in the function")
            if isinstance(leaf, Mapping):
                raise PathwaysError(f"rows(): a {type(leaf).__name__} cannot be split: pass a dict")
        if not any(map(self._has_rows, leaves)):
            raise PathwaysError(f"rows(): no argument has {self._count} rows, so there is nothing to split by language")
        results = []
        for key, rows in self._rows.items():
            inputs = tree_map(partial(self._select, rows), call, is_leaf=is_leaf)
            results.append(self._run(key, function, inputs))
        return self._merge(results, "the result")

    def close(self) -> None:
        """From here on neither calls nor backward passes are possible."""
        self._closed = True

    @contextmanager
    def _entered(self, key: str) -> Iterator[None]:
        if self._closed:
            raise PathwaysError(
                "rows() or a backward pass after its use([...]) block: run both inside it, where masks can be in place"
            )
        if self._running:
            raise PathwaysError("rows() or a backward pass of its result inside a function that rows() calls")
        self._running = True
        try:
            with self._in_place(key):
                yield
        finally:
            self._running = False

    def _run(self, key: str, function: Callable[..., Any], call: tuple[Any, Any]) -> Any:
        if not torch.is_grad_enabled():
            with self._entered(key):
                return function(*call[0], **call[1])
        result: Any = None

        def run(inputs: Iterable[Tensor]) -> list[Tensor]:
            nonlocal result
            args, kwargs = _replaced(call, inputs)
            with self._entered(key):
                result = function(*args, **kwargs)
            return _tensors(result)

        anchor = torch.empty(0, requires_grad=True)  # without it outputs would need no gradient where inputs do not
        outputs = _SeparateGraph.apply(run, lambda: self._entered(key), anchor, *_tensors(call))  # type: ignore[no-untyped-call]
        return _replaced(result, outputs)

    def _has_rows(self, value: Any) -> bool:
        """Whether ``value`` is a tensor, list or tuple with one entry a row; a namedtuple is a container of others."""
        if isinstance(value, Tensor):
            return _rows_of(value) == self._count
        sequence = isinstance(value, (list, tuple)) and not hasattr(value, "_fields")
        return sequence and not isinstance(value, torch.Size) and len(value) == self._count

    def _select(self, rows: list[int], leaf: Any) -> Any:
        """``leaf`` with only these rows, or whole where it has none."""
        if not self._has_rows(leaf):
            return leaf
        if isinstance(leaf, Tensor):
            return leaf.index_select(0, torch.tensor(rows, device=leaf.device))
        return type(leaf)(leaf[row] for row in rows)

    def _merge(self, parts: Sequence[Any], where: str) -> Any:
        """The results of the groups of rows as one, in the order of the batch."""
        first = parts[0]
        if all(part is None for part in parts):
            return None
        if all(isinstance(part, Tensor) for part in parts):
            return self._merge_tensors(parts, where)
        if all(isinstance(part, list) for part in parts) and [len(part) for part in parts] == self._sizes:
            if all(isinstance(i, Tensor) and _rows_of(i) == len(part) for part in parts for i in part):
                raise PathwaysError(
                    f"rows(): {where} may be one item a row or tensors of rows: make it a tuple of tensors"
                )
            items = [item for part in parts for item in part]
            return [items[position] for position in self._positions]
        children, specs = zip(*map(_children, parts), strict=True)
        if specs[0].is_leaf() or any(spec != specs[0] for spec in specs):
            raise PathwaysError(
                f"rows(): {where} is a {type(first).__name__}, neither a tensor nor a list with one item a row"
            )
        names = first if isinstance(first, Mapping) else range(len(children[0]))
        merged = [self._merge(of_name, f"{where}[{n!r}]") for n, *of_name in zip(names, *children, strict=True)]
        return tree_unflatten(merged, specs[0])

    def _merge_tensors(self, parts: Sequence[Tensor], where: str) -> Tensor:
        if all(part.dim() == 0 for part in parts):
            return reduce(add, parts)
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        if [_rows_of(part) for part in parts] != self._sizes:
            raise PathwaysError(f"rows(): {where} does not have the rows in front: {shapes} for {self._sizes} rows")
        if len({part.shape[1:] for part in parts}) > 1:
            raise PathwaysError(f"rows(): {where} differs in shape between languages: {shapes}: return a list of rows")
        return torch.cat(list(parts)).index_select(0, torch.tensor(self._positions, device=parts[0].device))


class _SeparateGraph(torch.autograd.Function):
    """Runs a function with a separate graph; backward runs that graph inside a context."""

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
        detached = tuple(tensor.detach() for tensor in ctx.outputs)
        ctx.mark_non_differentiable(*(d for d, t in zip(detached, ctx.outputs, strict=True) if not t.requires_grad))
        return detached

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = [(o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if g is not None and o.requires_grad]
        with ctx.context():
            torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        return (None, None, None, *(leaf.grad for leaf in ctx.inputs))


def _children(container: Any) -> tuple[list[Any], TreeSpec]:
    return tree_flatten(container, is_leaf=lambda inner: inner is not container)


def _rows_of(tensor: Tensor) -> int | None:
    return len(tensor) if tensor.dim() else None


def _tensors(value: Any) -> list[Tensor]:
    """All tensors inside containers, in order."""
    return [leaf for leaf in tree_iter(value) if isinstance(leaf, Tensor)]


def _replaced(value: Any, tensors: Iterable[Tensor]) -> Any:
    """``value`` with other tensors in the places of those that `_tensors` returned."""
    others = iter(tensors)
    return tree_map_only(Tensor, lambda _: next(others), value)
