"""Deterministic splits: what belongs together is hashed together."""

from __future__ import annotations

import hashlib

DEV = 0.08
"""Share of dev in what is not test, in folds."""


def split_of(key: str, held_out: float = 0.1) -> str:
    """``train``, ``dev`` or ``test`` by the SHA-256 of ``key``; dev and test have the share ``held_out`` each."""
    place = _place(key)
    if place < 1 - 2 * held_out:
        return "train"
    return "dev" if place < 1 - held_out else "test"


def fold_split(key: str, folds: int, fold: int) -> str:
    """The split of ``key`` when part ``fold`` of ``folds`` is the test split (cross-validation).

    Every key is in the test split of exactly one fold; a share `DEV` of the others is held out for dev.
    """
    if int(_place(f"fold {key}") * folds) == fold:
        return "test"
    return "dev" if _place(f"dev {key}") < DEV else "train"


def _place(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
