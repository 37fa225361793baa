"""What a server keeps of streams that have ended."""

from __future__ import annotations

import gc
import sys

import torch

from asr_pathways.serve.service import give_back_memory


def test_names_that_were_looked_up_once_are_forgotten() -> None:
    """By torch, which makes them anew for each tensor of a list; Python's cache of look-ups keeps them."""
    for _ in range(3000):
        torch.tensor([[0]])
    gc.collect()
    before = sys.getallocatedblocks()
    give_back_memory()
    assert sys.getallocatedblocks() < before - 100
