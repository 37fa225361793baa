from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.data.languages import (
    check_language,
    check_script,
    code_in_data,
    find_language,
    is_language,
    plain_language,
)
from asr_pathways.data.normalize import normalize
from asr_pathways.errors import PathwaysError

GREETINGS = {
    **{"ar": "مرحبا بالعالم", "bg": "Здравей", "bn": "ওহে বিশ্ব", "el": "Γειά σου Κόσμε", "fa": "سلام دنیا"},
    **{"he": "שלום עולם", "hi": "नमस्ते दुनिया", "hy": "Բարև աշխարհ", "ja": "こんにちは世界", "ka": "გამარჯობა"},
    **{"km": "សួស្តី", "ko": "안녕하세요 세계", "lo": "ສະບາຍດີ", "my": "မင်္ဂလာပါ", "ta": "வணக்கம்", "th": "สวัสดี"},
    **{"uk": "Привіт", "vi": "Xin chào thế giới", "yi": "שלום", "yue": "早晨", "zh": "你好世界", "de": "Grüß Gott"},
}


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


@pytest.mark.parametrize("language", ["xx", "zzz", "klingon", "und", "mul", "mis", "zxx", "qaa", "qtz", "", "x-a", "-"])
def test_unknown_language(language: str) -> None:
    with pytest.raises(PathwaysError, match=r"^unknown language '.*': give an ISO 639 code, such as de or yue$"):
        normalize("hello", language)
    assert not is_language(language)


@given(st.text(max_size=8))
def test_any_other_text_is_no_language_or_a_short_code(text: str) -> None:
    assert not is_language(text) or check_language(text) == check_language(check_language(text))


@pytest.mark.parametrize(("language", "text"), GREETINGS.items())
def test_scripts(language: str, text: str) -> None:
    check_script(normalize(text, language), language)
    for other in ("en", "ru"):
        if {language, other} not in ({"de", "en"}, {"vi", "en"}, {"bg", "ru"}, {"uk", "ru"}):
            with pytest.raises(PathwaysError, match=r"its text is not in \w+ letters"):
                check_script(text, other)
    with pytest.raises(PathwaysError, match=r"its text is not in [\w ]+ letters, as "):
        check_script("ᏣᎳᎩ", language)


@pytest.mark.parametrize("language", ["sr", "uz", "kk", "az", "mn", "pa", "ku", "tlh", "ber", "chr"])
def test_languages_of_two_scripts_or_of_one_that_is_not_well_known_pass(language: str) -> None:
    for text in ("hello", "привет", "سلام"):
        check_script(text, language)


@pytest.mark.parametrize(
    ("code", "present", "known", "found"),
    [
        ("jw", ["en", "jv"], ["en", "jw"], "jv"),
        ("tl", ["fil"], ["tl"], "fil"),
        ("zh-TW", ["zh-CN", "zh-TW"], ["zh"], "zh-TW"),
        ("zho", ["zh-CN", "zh-TW"], ["zh"], "zh-CN"),
        ("fra", ["de"], ["fr"], "fr"),
        ("fr-CA", ["fr"], ["fr", "fr-CA"], "fr-CA"),  # another language than fr, to a model that knows both
        ("fr", ["fr-CA", "fr-BE"], ["fr", "fr-CA"], "fr-BE"),
        ("fra", ["de", "fr"], [], "fr"),
    ],
)
def test_data_name_a_language_in_their_own_way(code: str, present: list[str], known: list[str], found: str) -> None:
    assert code_in_data(code, present, known) == found


def test_a_language_that_a_model_does_not_know_is_an_error() -> None:
    with pytest.raises(PathwaysError, match="unknown language 'ru': this model knows en fr"):
        code_in_data("ru", ["ru"], ["en", "fr"])
