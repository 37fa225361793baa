"""Deterministic splits: what must not be torn apart is hashed together."""

from __future__ import annotations

import hashlib


def split_of(key: str, held_out: float = 0.1) -> str:
    """``train``, ``dev`` or ``test`` by the SHA-256 of ``key``; dev and test have the share ``held_out`` each."""
    place = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    if place < 1 - 2 * held_out:
        return "train"
    return "dev" if place < 1 - held_out else "test"
