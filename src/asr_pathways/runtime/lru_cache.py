"""What is ready to run, kept while there is memory for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(OrderedDict[K, V]):
    """Values by their keys, the most recently used last; the others go first when all take too much. Not thread-safe.

    Args:
        memory: bytes that values may take; one is always kept.
        nbytes: of a value.
    """

    def __init__(self, memory: float, nbytes: Callable[[V], int]) -> None:
        super().__init__()
        self._memory, self._nbytes = memory, nbytes

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(map(self._nbytes, self.values()))

    def used(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made now if it is not there."""
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > 1 and self.nbytes > self._memory:
            self.popitem(last=False)
        return self[key]
