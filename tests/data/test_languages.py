from __future__ import annotations

import pytest

from asr_pathways.data.languages import find_language, plain_language


@pytest.mark.parametrize(
    ("code", "plain"),
    [
        ("fr", "fr"),
        ("fra", "fr"),
        ("fre", "fr"),
        ("fr-FR", "fr"),
        ("fra_Latn", "fr"),
        ("<|fr|>", "fr"),
        ("FR", "fr"),
        ("eng", "en"),
        ("yue", "yue"),
        ("cmn_hans_cn", "zh"),
        ("nb-NO", "no"),
        ("nn", "nn"),
        ("uzb-script_cyrillic", "uz"),
        ("not a code", "not a code"),
        ("", ""),
    ],
)
def test_plain_codes(code: str, plain: str) -> None:
    assert plain_language(code) == plain


def test_the_same_code_comes_before_the_same_language() -> None:
    assert find_language("fr-CA", ["fr-FR", "fr-CA"]) == "fr-CA"
    assert find_language("fra", ["en", "fr-FR"]) == "fr-FR"
    assert find_language("xx", ["en", "fr"]) is None
