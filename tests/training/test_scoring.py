from __future__ import annotations

import pytest

from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.scoring import beside_dense, changes, warning


@pytest.mark.parametrize(
    ("wer", "dense", "begins"),
    [
        (0.12, 0.10, ""),
        (0.04, 0.01, ""),  # three points: too few to warn of, whatever the ratio
        (0.25, 0.10, "far worse than the dense model"),
        (0.60, 0.40, "not usable: more than half of the words are wrong: prune less"),
        (1.03, 0.18, "not usable"),
        (0.66, 0.59, "not usable: more than half of the words are wrong, of the dense model too"),
        (0.45, 0.59, ""),
    ],
)
def test_a_warning_where_a_model_is_of_no_use(wer: float, dense: float, begins: str) -> None:
    assert warning(wer, dense, "prune less").startswith(begins)
    assert bool(warning(wer, dense, "prune less")) == bool(begins)


def test_what_to_change_follows_what_was_done() -> None:
    plain = PruneRecipe().with_steps(0)
    assert changes(plain, 0.7) == (
        "refit (refit_batches: 12), train after pruning (--steps 500 or more), prune less (--sparsity 0.5)"
    )
    refitted = plain.with_steps(100).model_copy(update={"refit_batches": 12})
    assert changes(refitted, 0.5) == "train longer (200 steps)"


def test_both_rates_are_shown() -> None:
    assert beside_dense(0.251, 0.183) == "WER on dev: 25.1%, dense 18.3% (+6.8 points)"
