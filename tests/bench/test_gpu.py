"""The checks that a GPU gets, rehearsed on the CPU, but for those of whole commands, which other tests run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from asr_pathways import Pathways
from benchmarks import gpu

QUICK = ("losses and gradients", "masks of every score", "batches of two languages", "refitting", "what does not fit")


@pytest.mark.parametrize("name", QUICK)
def test_the_checks_of_a_gpu_pass_on_a_cpu(name: str, tmp_path: Path) -> None:
    assert gpu.CHECKS[name](torch.device("cpu"), tmp_path)


def test_a_check_that_finds_a_difference_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = gpu.trained, itertools.count()

    def trained(device: torch.device, **options: object) -> tuple[nn.Module, Pathways]:
        """On every second call, which is that of the CPU, with one language's mask for both."""
        model, pathways = plain(device, **options)
        if next(calls) % 2:
            pathways.set_mask("en", pathways.mask("fr"))
        return model, pathways

    monkeypatch.setattr(gpu, "trained", trained)
    with pytest.raises(AssertionError, match="share of other masks"):
        gpu.CHECKS["masks of every score"](torch.device("cpu"), tmp_path)
    if torch.cuda.is_available():
        return
    with pytest.raises(SystemExit, match="no GPU here: --device cpu rehearses the checks"):
        gpu.main("cuda")
