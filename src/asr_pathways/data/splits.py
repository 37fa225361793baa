"""Deterministic splits: what must not be torn apart is hashed together."""

from __future__ import annotations

import hashlib

SHARES = (("train", 0.8), ("dev", 0.9), ("test", 1.0))  # upper ends of the hash range of each split


def split_of(key: str) -> str:
    """``train`` (80%), ``dev`` (10%) or ``test`` (10%), by the SHA-256 of ``key``."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return next(split for split, end in SHARES if share < end)
