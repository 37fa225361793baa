"""Entropy coding of bits of known probability: range variant of asymmetric numeral systems, many lanes side by side.

rANS (Duda 2013, arXiv 1311.2540) with interleaved lanes (Giesen 2014, arXiv 1402.3392), in numpy: every step codes one
symbol in each of up to 4,096 lanes. A symbol is a byte of eight bits that share one probability, so that a step does
the work of eight binary ones. Probabilities are one of 256 levels. All arithmetic is on whole numbers.

A lane's state x lies in [2^24, 2^40); frequencies are of 2^16; lanes take 16-bit words from one sequence, in order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.uint64]

NEVER, ALWAYS = 0, 255
"""The levels at which bits are all 0, or all 1: these take no symbols."""

_BITS = 16
_LOW = 1 << 24
_LANES = 4096
_SYMBOLS_PER_LANE = 1024  # a lane costs 3 bytes
_STATE_BYTES = 5


class CodingError(ValueError):
    """Bytes that no encoder wrote."""


def lanes_of(symbols: int) -> int:
    """How many lanes code so many symbols."""
    return min(_LANES, -(-symbols // _SYMBOLS_PER_LANE))


def probability(level: int) -> int:
    """The probability of a 1 at a level, in 1/255^3: close to sin^2, which spreads the loss of rounding evenly."""
    return level * level * (3 * 255 - 2 * level)


def level_of(ones: int, count: int) -> int:
    """The level for ``ones`` bits of ``count`` that are 1; only NEVER and ALWAYS are exact."""
    if ones == 0 or ones == count:
        return ALWAYS if ones else NEVER
    wanted = ones * 255**3
    return min(range(1, 255), key=lambda level: abs(probability(level) * count - wanted))


@lru_cache(maxsize=256)
def _frequencies(level: int) -> NDArray[np.int64]:
    """Of the 256 bytes at a level, in 1/2^16; each at least 1."""
    one, zero = probability(level), 255**3 - probability(level)
    spread = (1 << _BITS) - 256
    by_count = [1 + spread * one**k * zero ** (8 - k) // 255**24 for k in range(9)]
    found = np.array([by_count[byte.bit_count()] for byte in range(256)], dtype=np.int64)
    found[found.argmax()] += (1 << _BITS) - found.sum()
    return found


@lru_cache(maxsize=256)
def bits_of(level: int) -> NDArray[np.float64]:
    """What each of the 256 bytes costs at a level, in bits."""
    return np.asarray(_BITS - np.log2(_frequencies(level)))


class _Tables:
    """Frequencies of the levels in use, and the way back from a slot to its byte."""

    def __init__(self, levels: Bytes) -> None:
        used = np.unique(levels)
        self.index = np.zeros(256, dtype=np.uint64)
        self.index[used] = np.arange(len(used), dtype=np.uint64)
        table = np.stack([_frequencies(int(level)) for level in used]) if len(used) else np.zeros((0, 256), np.int64)
        self.frequency = table.reshape(-1).astype(np.uint64)
        self.start = (np.cumsum(table, axis=1) - table).reshape(-1).astype(np.uint64)
        self._table = table

    def symbols(self) -> Bytes:
        """(levels in use * 2^16,): the byte at each slot."""
        everything = np.arange(256, dtype=np.uint8)
        return np.concatenate([np.repeat(everything, row) for row in self._table]) if len(self._table) else everything


def encode(symbols: Bytes, levels: Bytes) -> Bytes:
    """Codes bytes (S,), each at its own level (S,): 5 bytes a lane, then 16-bit words."""
    count = len(symbols)
    lanes = lanes_of(count)
    tables = _Tables(levels)
    places = tables.index[levels].astype(np.int64) << 8 | symbols
    state = np.full(lanes, _LOW, dtype=np.uint64)
    chunks: list[NDArray[np.uint16]] = []
    for first in reversed(range(0, count, lanes)) if count else ():
        now = places[first : first + lanes]
        x, frequency = state[: len(now)], tables.frequency[now]
        full = x >= frequency << np.uint64(24)
        chunks.append(x[full].astype(np.uint16))
        x[full] >>= np.uint64(16)
        high, low = np.divmod(x, frequency)
        state[: len(now)] = (high << np.uint64(_BITS)) + low + tables.start[now]
    heads = state.astype("<u8").view(np.uint8).reshape(lanes, 8)[:, :_STATE_BYTES].reshape(-1)
    words = np.concatenate(chunks[::-1]) if chunks else np.zeros(0, np.uint16)
    return np.concatenate((heads, words.astype("<u2").view(np.uint8)))


def decode(stream: Bytes, levels: Bytes) -> Bytes:
    """The bytes (S,) that `encode` was given with these levels.

    Raises:
        CodingError: if ``stream`` is not what `encode` gives for any bytes at these levels.
    """
    count = len(levels)
    lanes = lanes_of(count)
    heads, rest = stream[: lanes * _STATE_BYTES], stream[lanes * _STATE_BYTES :]
    if len(heads) < lanes * _STATE_BYTES or len(rest) % 2:
        raise CodingError("the entropy-coded stream has another length")
    padded = np.zeros((lanes, 8), dtype=np.uint8)
    padded[:, :_STATE_BYTES] = heads.reshape(lanes, _STATE_BYTES)
    state: Numbers = padded.view("<u8").reshape(-1).astype(np.uint64)
    words = np.frombuffer(rest.tobytes(), dtype="<u2").astype(np.uint64)
    out = _decode(state, words, levels)
    if np.any(state != _LOW):
        raise CodingError("the entropy-coded stream does not end where it began")
    return out


def _decode(state: Numbers, words: Numbers, levels: Bytes) -> Bytes:
    tables = _Tables(levels)
    symbols, index = tables.symbols(), tables.index[levels]
    lanes, position = len(state), 0
    out = np.empty(len(levels), dtype=np.uint8)
    mask, low, shift = np.uint64((1 << _BITS) - 1), np.uint64(_LOW), np.uint64(_BITS)
    for first in range(0, len(levels), lanes) if lanes else ():
        now = index[first : first + lanes]
        x = state[: len(now)]
        slot = x & mask
        found = symbols[(now << shift) + slot]
        out[first : first + lanes] = found
        place = (now << np.uint64(8)) + found
        x >>= shift
        x *= tables.frequency[place]
        x += slot - tables.start[place]
        empty = np.flatnonzero(x < low)
        taken = words[position : position + len(empty)]
        if len(taken) < len(empty):
            raise CodingError("the entropy-coded stream is too short")
        x[empty] = x[empty] << shift | taken
        position += len(empty)
    if position != len(words):
        raise CodingError("the entropy-coded stream is too long")
    return out
