from __future__ import annotations

import random
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_pathways.data.languages import check_language
from asr_pathways.data.normalize import fold_accents, letters_apart, normalize, scoring_text, written_text
from asr_pathways.data.numerals import SIGNS, SPELLED

WHISPER = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
LANGUAGES = WHISPER.split()
DEAR = "die straße kostet eine million einhunderteintausend mark achtundzwanzig komma acht prozent"


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
        ("en", "٣ x² 1,00,000", "three x ² one zero zero zero zero zero"),
        ("de", "Die Straße kostet 1.101.000 Mark, 28,8 %", DEAR),
        ("de", "Am 3. um 21 Uhr", "am drei um einundzwanzig uhr"),
        ("pt", "O 1º e a 22ª, 1.234,5", "o primeiro e a vigésima segunda mil duzentos e trinta e quatro vírgula cinco"),
        ("pt-PT", "16 Ônibus", "dezesseis ônibus"),
        ("sv", "År 1999", "år ettusen niohundranittionio"),
        ("hu", "102 alma, 2,05", "százkettő alma kettő egész öt század"),
        ("hu", "0,1234", "nulla ezerkétszázharmincnégy"),
        ("ca", "28,8 graus", "vint i vuit vuit graus"),
        ("eo", "1100", "mil cent"),
        ("kk", "5 бала", "бес бала"),
        ("uk", "П’ять і 5", "п'ять і п'ять"),
        ("fa", "۱٬۲۳۴ نفر", "هزار و دویست و سی و چهار نفر"),
        ("he", "1,000 איש", "אלף איש"),
        ("th", "มี 11 คน ๒๑", "มี สิบเอ็ด คน ยี่สิบเอ็ด"),
        ("tr", "IŞIK İyi, 1.000'den 3D", "ışık iyi 1000'den 3d"),
        ("az", "QIZIL İlıq", "qızıl ilıq"),
        ("ja", "２０２４年に1,000円、二〇年「コーヒー」", "2024年に1000円 二〇年 コーヒー"),
        ("zh", "你好，世界！28.8", "你好 世界 28 8"),
        ("hi", "कीमत १,००,००० रुपये", "कीमत 100000 रुपये"),
        ("ar", "عددهم ١٬٢٣٤٬٥٦٧", "عددهم 1234567"),
        ("da", "Kl. 8 kom de 1.234", "kl 8 kom de 1234"),
        ("ko", "3시 30분", "3시 30분"),
        ("<|fr|>", "Le 1er", "le premier"),
        ("fra", "71", "soixante et onze"),
        ("jw", "Wong 2", "wong 2"),
        # Groups of digits
        (
            "fr",
            "10 000 pas, 10\u00a0000 et 10\u202f000, 234 567,5",
            "dix mille pas dix mille et dix mille deux cent trente quatre mille cinq cent soixante sept virgule cinq",
        ),
        ("fr", "le 10 000e, 2 000 3 000", "le dix millième deux mille trois mille"),
        ("fr", "06 12 34 56 78", "zéro six douze trente quatre cinquante six soixante dix huit"),
        ("ru", "12 345 книг", "двенадцать тысяч триста сорок пять книг"),
        ("en", "the 1,000th; in 2010 200 came", "the one thousandth in two thousand and ten two hundred came"),
        ("en", "10 000 or 10\u202f500", "ten thousand or ten thousand five hundred"),
        ("de", "10'000 und 10.000–20.000", "zehntausend und zehntausend zwanzigtausend"),
        ("da", "10\u00a0000 kr. 1.500", "10000 kr 1500"),
        # Signs that are read
        (
            "en",
            "50%, $5, €3,50, £1, $1.5 million, -5, 3-5",
            "fifty percent five dollars three euros fifty cents one pound "
            "one point five million dollars minus five three five",
        ),
        ("en", "2 < 3 but 5 > 4, <hum> R&D </i> ½ + 1 = 1½", "two < three but five > four r and d ½ + one = one ½"),
        (
            "fr",
            "12,5 %, 3,50 €, −5 °C, 90°",
            "douze virgule cinq pour cent trois euros cinquante centimes moins cinq degrés "
            "celsius quatre vingt dix degrés",
        ),
        ("ru", "1% 2% 5%, 21 €", "один процент два процента пять процентов двадцать один евро"),
        ("cs", "5 $", "pět amerických dolarů"),
        ("hu", "5 €", "öt euró"),
        ("de", "5 Millionen €", "fünf millionen euro"),
        (
            "pt-BR",
            "R$ 1.234,50, -R$1, r$5",
            "mil duzentos e trinta e quatro reais e cinquenta centavos menos um real cinco reais",
        ),
        ("pt", "US$ 5, € 5", "cinco dólares americanos cinco euros"),
        ("en", "US$5, A$1.50, AUR$5", "five dollars one dollar fifty cents aur five dollars"),
        ("en", "R$ and R$ 5", "r $ and five brazilian reals"),
        ("tr", "%50, 10 000 ₺", "% 50 10 000 ₺"),
        ("ja", "５０％", "50 %"),
        # One letter, several code points
        ("ro", "paşi şi ţară", "pași și țară"),
        ("uz", "oʻzbek o'zbek o‘zbek togʻ", "o'zbek o'zbek o'zbek tog'"),
        ("haw", "ʻo Hawaiʻi ‘o", "'o hawai'i 'o"),
        ("ar", "مـــرحبا ﻣﺮﺣﺒﺎ", "مرحبا مرحبا"),
        ("fa", "كتاب يك", "کتاب یک"),
        ("he", 'צה״ל צה"ל ג׳ירפה', "צהל צהל ג'ירפה"),
        ("en", "ＡＢＣ ﬁne", "abc fine"),
        ("nl", "ĳs", "ijs"),
        ("th", "น้ำ", "น้ำ"),
        ("ml", "അവന്\u200d അവൻ", "അവൻ അവൻ"),
        ("fa", "می\u200cخواهم", "می\u200cخواهم"),
        ("ca", "Col·legi, coŀlegi, paraŀlel, PARAL•LEL", "col·legi col·legi paral·lel paral·lel"),
        ("ca", "pa · vi, 5·6, l·", "pa vi cinc sis l"),
        ("es", "pan · vino", "pan vino"),
        # What is not seen is no word, and no letter
        ("en", "I \u2764\ufe0f you", "i you"),
        ("en", "press 1\ufe0f\u20e3 now", "press one now"),
        ("en", "co\u034fop \u0336 5\u0336", "coop five"),
        ("ko", "\u3164 안녕\uffa0", "안녕"),
        ("fa", "سلام \u200c دنیا", "سلام دنیا"),
    ],
)
def test_normalize(language: str, text: str, expected: str) -> None:
    assert normalize(text, language) == expected


@settings(deadline=None)  # the first text of a language reads its data
@given(st.text(max_size=60), st.sampled_from(LANGUAGES))
@example("a\N{SOFT HYPHEN}\N{COMBINING ACUTE ACCENT}", "fr")
@example("İΣ ﬁ Ǆ 1² ٣ ½", "en")
@example("((a)b) ''a'' 'em' 'po'", "it")
@example("İ̦ İ ı 1.000.00 ١٬٠٠٠ 1,00,000", "tr")
@example("1.000 1,00,000,00 〇 Ⅷ ٣d2", "hi")
def test_normalize_is_idempotent_and_leaves_words_only(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once
    left = " '\u200c\u200d" if check_language(language) in SPELLED else " '\u200c\u200d0123456789〇"
    left += "·" if language == "ca" else ""
    assert all(c in left or c in SIGNS or unicodedata.category(c)[0] in "LM" for c in once)
    assert once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


@given(st.integers(0, 10**14) | st.decimals(0, 10**7, places=3), st.sampled_from(sorted(SPELLED)))
def test_numbers_are_spelled_in_letters(number: int | Decimal, language: str) -> None:
    words = normalize(f"x {number} y", language)
    assert words.startswith("x ") and words.endswith(" y") and len(words) > 5
    assert not any(character.isdigit() for character in words)


@pytest.mark.parametrize("language", sorted(SPELLED))
def test_no_two_numbers_are_said_alike(language: str) -> None:
    rng = random.Random(language)
    numbers = [*range(200), *(int(10 ** rng.uniform(2, 12)) for _ in range(300))]
    numbers += [thousands * 1000 + rest for thousands in (1, 2, 21, 100, 101) for rest in (0, 1, 2, 10, 11, 100)]
    numbers = sorted(set(numbers))
    assert len({normalize(str(number), language) for number in numbers}) == len(numbers)
    decimals = [f"{whole},{part}" for whole in (0, 1, 28, 123456) for part in ("5", "05", "8", "25", "101", "1234")]
    assert len({normalize(number, language) for number in decimals}) == len(decimals)


@given(st.integers(0, 10**14), st.sampled_from(sorted(set(LANGUAGES) - set(SPELLED))))
def test_elsewhere_digits_stay(number: int, language: str) -> None:
    assert normalize(f"x {number} y", language) == f"x {number} y"
    assert normalize(f"x {number:,} y", "zh") == normalize(f"x {number:,} y".replace(",", "."), "tr") == f"x {number} y"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("fr", " Bonjour,\tça va\N{NO-BREAK SPACE}? [rires] 12 €.", "Bonjour, ça va ? 12 €."),
        ("en", "It’s (music) <hum> 5.", "It's 5."),
        ("de", "Das Haus", "Das Haus"),
        ("zh", "你好。", "你好。"),
        ("ro", "Mulţumesc", "Mulțumesc"),
        ("en", "it's five", None),
        ("en", "IT'S 5.", None),
    ],
)
def test_written_text_has_case_punctuation_and_digits(language: str, text: str, expected: str | None) -> None:
    assert written_text(text, language) == expected


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from([language for language in LANGUAGES if language != "he"]))
def test_the_words_of_written_text_are_those_of_the_text(text: str, language: str) -> None:
    written = written_text(text, language)
    assert written is None or normalize(written, language) == normalize(text, language)


def test_fold_accents() -> None:
    assert fold_accents("número contraseña") == "numero contrasena"


def test_spanish_is_scored_without_accents() -> None:
    assert scoring_text("¿Cuál es su Contraseña?", "es") == "cual es su contraseña"
    assert scoring_text("Pingüino, AÑO", "spa") == "pinguino año"
    assert scoring_text("L'été, déjà !", "fr") == "l'été déjà"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "你好，iPad 12", "你 好 i p a d 1 2"),
        ("ja-JP", "がんばれ don't", "が ん ば れ d o n t"),
        ("th", "ที่นี่", "ที่ นี่"),
        ("my", "မြန်မာ", "မြ န် မာ"),
        ("ko", "안녕 세계", "안녕 세계"),
        ("zh", "...", ""),
        ("fa", "می\u200cخواهم", "میخواهم"),
    ],
)
def test_languages_without_spaces_are_scored_by_letter(language: str, text: str, expected: str) -> None:
    apart = letters_apart(scoring_text(text, language), language)
    assert apart == expected == letters_apart(apart, language)


@pytest.mark.parametrize("language", sorted(SPELLED))
@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f"])
def test_groups_of_digits_are_one_number(language: str, space: str) -> None:
    assert normalize(f"x 10{space}000 y", language) == normalize("x 10000 y", language)
    assert normalize(f"x 1{space}000{space}500 y", language) == normalize("x 1000500 y", language)


@pytest.mark.parametrize("language", sorted(SPELLED))
@pytest.mark.parametrize(
    "text", ["50%", "50 %", "$5", "5 $", "€3,50", "20 °C", "5 & 6", "½", "2 < 3", "5 > 4", "¥ 7", "-5", "−$5"]
)
def test_a_sign_is_never_dropped(language: str, text: str) -> None:
    bare = "".join(c for c in text if (c.isalnum() and c != "½") or c in " .,")
    assert normalize(text, language) != normalize(bare, language)
    assert not any(c.isdigit() for c in normalize(text, language))
