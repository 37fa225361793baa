from __future__ import annotations

import re

import pytest

from asr_pathways.cli.shared import split_languages
from asr_pathways.errors import PathwaysError


def test_codes_have_commas_between() -> None:
    assert split_languages(None) is None
    assert split_languages("en, fr,") == ["en", "fr"]
    for languages in ("en fr", "en,fr it", "en fr, it"):
        commas = re.sub(r"[ ,]+", ",", languages)
        with pytest.raises(PathwaysError, match=f"--languages {languages}: commas are wanted between codes: {commas}$"):
            split_languages(languages)
    for languages in ("", " ", ","):  # not the same as no option, which means all
        with pytest.raises(PathwaysError, match="--languages: name at least one, such as fr"):
            split_languages(languages)
