"""The processes of one run, as many as torchrun started: what they sum and compare, so that all do the same."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError

_apart = False


@contextmanager
def apart() -> Iterator[None]:
    """A block in which this process computes alone, such as what only the first rank tries out."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def alone() -> bool:
    """Whether this is the only process of its run, or inside a block `apart`."""
    distributed = torch.distributed
    return _apart or not (
        distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    )


def total(values: Tensor) -> Tensor:
    """The sum of ``values`` over all ranks; ``values`` itself where only one process runs."""
    if alone():
        return values
    summed = _sendable(values)
    torch.distributed.all_reduce(summed)
    return summed.to(values.device)


def anywhere(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Which flags are set on any rank; ``device`` is one that ranks communicate through."""
    if alone():
        return list(flags)
    return total(torch.tensor(flags, dtype=torch.int32, device=device)).bool().tolist()


def require_same(what: str, parts: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Compares named tensors over all ranks by 32-bit checksums.

    Raises:
        PathwaysError: on every rank, naming the first that is not the same everywhere.
    """
    if alone():
        return
    names, sums = [], []
    for name, tensor in parts:
        names.append(name)
        sums.append(zlib.crc32(tensor.cpu().numpy().tobytes()))
    extremes = torch.tensor([*sums, *(-checksum for checksum in sums)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
    largest_and_negated: list[int] = extremes.tolist()
    for name, largest, smallest in zip(names, largest_and_negated, largest_and_negated[len(names) :], strict=False):
        if largest != -smallest:
            raise PathwaysError(f"{what} {name} is not the same on all ranks: their weights or statistics diverged")


def from_first(values: Sequence[Tensor]) -> None:
    """Every rank's ``values`` become those of the first."""
    if not alone():
        for value in values:
            sent = _sendable(value)
            torch.distributed.broadcast(sent, 0)
            value.copy_(sent)


def _sendable(values: Tensor) -> Tensor:
    """A copy on a device that the ranks can communicate through: before training, models are still on the CPU."""
    return values.clone() if torch.distributed.get_backend() != "nccl" else values.to("cuda", copy=True)


def gather(value: Any, device: torch.device) -> list[Any]:
    """The ``value`` of every rank, plain JSON data, in order of ranks."""
    if alone():
        return [value]
    encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = _all(torch.tensor([len(encoded)], device=device))
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8, device=device)
    padded[: len(encoded)] = encoded
    gathered = _all(padded)
    return [json.loads(bytes(t[: int(size)].tolist())) for t, size in zip(gathered, sizes, strict=True)]


def _all(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.zeros_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, tensor)
    return gathered
