from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.data.splits import fold_split, split_of


@given(st.text(), st.integers(2, 10))
def test_each_text_is_tested_in_exactly_one_fold(key: str, folds: int) -> None:
    splits = [fold_split(key, folds, fold) for fold in range(folds)]
    assert splits.count("test") == 1
    assert len({split for split in splits if split != "test"}) == 1  # train everywhere else, or dev


def test_folds_are_about_alike() -> None:
    keys = [f"en line {number}" for number in range(2000)]
    tested = Counter(next(fold for fold in range(5) if fold_split(key, 5, fold) == "test") for key in keys)
    assert all(340 < tested[fold] < 460 for fold in range(5))
    splits = Counter(fold_split(key, 5, 0) for key in keys)
    assert 100 < splits["dev"] < 160


def test_split_of_keeps_the_splits_of_the_past() -> None:
    """What was held out from models that are out in the world stays so."""
    found = {number: split for number in range(8) if (split := split_of(f"key {number}", 0.25)) != "train"}
    assert found == {4: "dev", 6: "dev"}
