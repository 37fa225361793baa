"""The examples of training loops of others run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_pathways.pruning import storage
from tests.examples.test_models import example


@pytest.mark.filterwarnings("ignore")  # of Lightning, about few workers and batches
@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("trainer_pathways", {"eval_loss"}),
        ("lightning_pathways", {"loss of en", "loss of fr"}),
    ],
)
def test_loops(name: str, scores: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = example(name).main(tmp_path)
    assert scores <= set(found) and all(found[score] > 0 for score in scores)
    stored = storage.read_folder(tmp_path / "pathways").description
    assert stored.languages == ("en", "fr") and stored.current_sparsity == 0.7
    assert min(stored.own_steps.values()) >= 8
