"""Masks as bytes: the union of all, then each within the union, bit by bit or by context and entropy-coded.

A *sequence* is the 0s and 1s (uint8) of one tensor, row-major: for the union, one for each weight; for a mask, one for
each weight of the union. The context of a bit is what the given masks (earlier ones) have at its place, a number of
as many bits. Each context of each tensor has one probability, a level of `rans`. Bits of one context are coded eight
at a time; the symbols of all tensors go into one stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bundle import rans
from asr_pathways.bundle.layout import Coding

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class CodedMask:
    """One mask of all tensors.

    Attributes:
        coding: of each tensor: ``bits`` or ``coded``, whichever is smaller.
        bits: packed sequences (bit b of byte j is item 8 j + b) of tensors that are not entropy-coded, each from a
            byte of its own.
        levels: probabilities of the contexts of the others.
        stream: their entropy-coded bits.
    """

    coding: tuple[Coding, ...]
    bits: Bits
    levels: Bits
    stream: Bits

    @property
    def nbytes(self) -> int:
        return len(self.bits) + len(self.levels) + len(self.stream)


def encode(sequences: Iterable[Bits], given: Sequence[Sequence[Bits]], *, plain: bool = False) -> CodedMask:
    """Codes a mask.

    Args:
        sequences: one a tensor.
        given: earlier masks, each with sequences of the same lengths.
        plain: entropy-code nothing.
    """
    coding: list[Coding] = []
    bits, levels, symbols, symbol_levels = [_NONE], [_NONE], [_NONE], [_NONE]
    for index, sequence in enumerate(sequences):
        found = _contexts(given, index, len(sequence))
        chosen = _levels(sequence, found, len(given))
        parts = list(_symbols(sequence, found, chosen))
        cost = sum(float(rans.bits_of(level)[own].sum()) for own, level in parts) / 8 + len(chosen)
        if plain or cost >= (len(sequence) + 7) // 8:
            coding.append("bits")
            bits.append(np.packbits(sequence, bitorder="little"))
        else:
            coding.append("coded")
            levels.append(chosen)
            symbols += [own for own, _ in parts]
            symbol_levels += [np.full(len(own), level, dtype=np.uint8) for own, level in parts]
    stream = rans.encode(np.concatenate(symbols), np.concatenate(symbol_levels))
    return CodedMask(tuple(coding), np.concatenate(bits), np.concatenate(levels), stream)


def decode(coded: CodedMask, lengths: Sequence[int], given: Sequence[Sequence[Bits]]) -> list[Bits]:
    """The sequences (of these lengths) that `encode` was given.

    Raises:
        CodingError: if they cannot be of these lengths.
    """
    levels = iter(np.split(coded.levels, max(1, len(coded.levels) >> len(given))))
    chosen = [next(levels) if kind == "coded" else _NONE for kind in coded.coding]
    counts = [
        _counts(_contexts(given, index, length), length, len(given)) if len(chosen[index]) else np.zeros(0, np.int64)
        for index, length in enumerate(lengths)
    ]
    symbols = rans.decode(coded.stream, _symbol_levels(chosen, counts))
    found, position, byte = [], 0, 0
    for index, length in enumerate(lengths):
        if coded.coding[index] == "bits":
            size = (length + 7) // 8
            found.append(np.unpackbits(coded.bits[byte : byte + size], count=length, bitorder="little"))
            byte += size
        else:
            size = int(_sizes(chosen[index], counts[index]).sum())
            own = symbols[position : position + size]
            found.append(_placed(own, _contexts(given, index, length), chosen[index], counts[index], length))
            position += size
    return found


def entropy(sequences: Iterable[Bits], given: Sequence[Sequence[Bits]]) -> float:
    """Empirical conditional entropy of a mask in bits: the least that any code with these contexts needs."""
    total = 0.0
    for index, sequence in enumerate(sequences):
        found = _contexts(given, index, len(sequence))
        counts = _counts(found, len(sequence), len(given)).astype(np.float64)
        ones = _ones(sequence, found, len(given)).astype(np.float64)
        for part in (ones, counts - ones):
            held = part > 0
            total -= float((part[held] * np.log2(part[held] / counts[held])).sum())
    return total


_NONE: Bits = np.zeros(0, dtype=np.uint8)


def _contexts(given: Sequence[Sequence[Bits]], index: int, length: int) -> Bits | None:
    """(length,): the context of each bit of tensor ``index``; None where there is but one."""
    if not given:
        return None
    found = np.zeros(length, dtype=np.uint8)
    for place, mask in enumerate(given):
        found |= mask[index] << np.uint8(place)
    return found


def _counts(contexts: Bits | None, length: int, given: int) -> NDArray[np.int64]:
    if contexts is None:
        return np.array([length])
    return np.bincount(contexts, minlength=1 << given)


def _ones(sequence: Bits, contexts: Bits | None, given: int) -> NDArray[np.int64]:
    if contexts is None:
        return np.array([np.count_nonzero(sequence)])
    return np.bincount(contexts[sequence.view(np.bool_)], minlength=1 << given)


def _levels(sequence: Bits, contexts: Bits | None, given: int) -> Bits:
    counts = _counts(contexts, len(sequence), given)
    ones = _ones(sequence, contexts, given)
    pairs = zip(ones.tolist(), counts.tolist(), strict=True)
    return np.array([rans.level_of(own, count) for own, count in pairs], dtype=np.uint8)


def _symbols(sequence: Bits, contexts: Bits | None, levels: Bits) -> Iterator[tuple[Bits, int]]:
    """The bytes of each context and their level; the last byte is filled with the likelier bit."""
    if contexts is not None:
        sequence = sequence[np.argsort(contexts, kind="stable")]
    end = 0
    for level, count in zip(levels.tolist(), _counts(contexts, len(sequence), _given(levels)).tolist(), strict=True):
        start, end = end, end + count
        if level not in (rans.NEVER, rans.ALWAYS):
            filled = np.pad(sequence[start:end], (0, -count % 8), constant_values=int(level >= 128))
            yield np.packbits(filled, bitorder="little"), level


def _given(levels: Bits) -> int:
    return len(levels).bit_length() - 1


def _sizes(levels: Bits, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Symbols of each context."""
    return np.where((levels == rans.NEVER) | (levels == rans.ALWAYS), 0, (counts + 7) // 8)


def _symbol_levels(levels: Sequence[Bits], counts: Sequence[NDArray[np.int64]]) -> Bits:
    pairs = zip(levels, counts, strict=True)
    return np.concatenate([_NONE, *(np.repeat(own, _sizes(own, count)) for own, count in pairs if len(own))])


def _placed(symbols: Bits, contexts: Bits | None, levels: Bits, counts: NDArray[np.int64], length: int) -> Bits:
    """The sequence whose bits, context by context, are in ``symbols``."""
    pieces, position = [_NONE], 0
    for level, count, size in zip(levels.tolist(), counts.tolist(), _sizes(levels, counts).tolist(), strict=True):
        if level in (rans.NEVER, rans.ALWAYS):
            pieces.append(np.full(count, level == rans.ALWAYS, dtype=np.uint8))
        else:
            own = symbols[position : position + size]
            pieces.append(np.unpackbits(own, count=count, bitorder="little"))
            position += size
    ordered = np.concatenate(pieces)
    if contexts is None:
        return ordered
    found = np.empty(length, dtype=np.uint8)
    found[np.argsort(contexts, kind="stable")] = ordered
    return found
