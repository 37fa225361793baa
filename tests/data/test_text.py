from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr_pathways.data.text import LANGUAGES, fold_accents, normalize, scoring_text
from asr_pathways.errors import PathwaysError


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Please leave your message. [beep] (tone plays) <hum>", "please leave your message"),
        ("en", "28.8 kilobit, 1,000 times", "twenty eight point eight kilobit one thousand times"),
        ("en", "dial 007 or 8500", "dial zero zero seven or eight thousand five hundred"),
        ("en", "The 1st, the 22nd", "the first the twenty second"),
        ("en", "3D", "three d"),
        ("en", "don’t ‘quote’ me, 'em", "don't quote me 'em"),
        ("en", "call-forward on busy", "call forward on busy"),
        ("en", "one\N{SOFT HYPHEN}two", "onetwo"),
        ("es", "¿Número 2?", "número dos"),
        ("es", "1.000 pesos, el 3º, la 3ª", "mil pesos el tercero la tercera"),
        ("fr", "L’eau d'ici : 71", "l'eau d'ici soixante et onze"),
        ("fr", "la 1re et le 2ème", "la première et le deuxième"),
        ("it", "un po' d'acqua, città'", "un po' d'acqua città"),
        ("it", "L'1 e 28,5", "l'uno e ventotto virgola cinque"),
        ("ru", "Ещё 2 звонка", "еще два звонка"),
        ("cs", "Máš 5 ryb?", "máš pět ryb"),
        ("nl", "'s Avonds zo'n 3e keer", "'s avonds zo'n derde keer"),
        ("en", "[nothing (at) all]", ""),
    ],
)
def test_normalize(language: str, text: str, expected: str) -> None:
    assert normalize(text, language) == expected


@given(st.text(max_size=60), st.sampled_from(LANGUAGES))
@example("a\N{SOFT HYPHEN}\N{COMBINING ACUTE ACCENT}", "fr")
@example("İΣ ﬁ Ǆ 1² ٣ ½", "en")
@example("((a)b) ''a'' 'em' 'po'", "it")
def test_normalize_is_idempotent_and_leaves_words_only(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once
    assert all(c in " '" or unicodedata.category(c)[0] in "LM" for c in once)
    assert once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


@given(st.integers(0, 10**14), st.sampled_from(LANGUAGES))
def test_numbers_are_spelled_in_letters(number: int, language: str) -> None:
    words = normalize(f"x {number} y", language)
    assert words.startswith("x ") and words.endswith(" y") and len(words) > 5


def test_unknown_language_lists_the_known() -> None:
    with pytest.raises(PathwaysError, match=r"unknown language 'xx': choose among en, es"):
        normalize("hello", "xx")


def test_fold_accents() -> None:
    assert fold_accents("número contraseña") == "numero contrasena"


def test_spanish_is_scored_without_accents() -> None:
    assert scoring_text("¿Cuál es su Contraseña?", "es") == "cual es su contrasena"
    assert scoring_text("L'été, déjà !", "fr") == "l'été déjà"
