from __future__ import annotations

import pytest
import torch

from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.batches import LanguageBatches, language_of
from tests.integrations.tiny import Noise


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_would_make_no_batch_is_refused(size: int) -> None:
    with pytest.raises(PathwaysError, match=f"LanguageBatches: size {size}: a batch has one item or more"):
        LanguageBatches(Noise(4), size)


@pytest.mark.parametrize("languages", [["en"], ["en"] * 5])
def test_languages_that_are_not_one_an_item_are_refused(languages: list[str]) -> None:
    with pytest.raises(PathwaysError, match=f"LanguageBatches: {len(languages)} languages for 4 items"):
        LanguageBatches(Noise(4), 2, languages=languages)


@pytest.mark.parametrize("language", [3, torch.tensor([1, 1]), b"en", ["en", 3]])
def test_what_is_no_code_of_a_language_is_refused(language: object) -> None:
    with pytest.raises(
        PathwaysError, match=r"the batch.s .language. is .*: a code is wanted, such as 'fr', or one a row"
    ):
        language_of({"language": language})
