"""A vocabulary is written in the way that it has, and what it cannot write is named before anything is learned."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from asr_pathways.bundle.load import load_model
from asr_pathways.cli.main import app
from asr_pathways.data.corpus import build_corpus
from asr_pathways.data.normalize import normalize
from asr_pathways.data.tokenizer import lost_words
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json
from asr_pathways.models.hub.codec import HubTokenizer
from tests.conftest import spoken
from tests.models.hub.test_hub import RECIPE
from tests.models.hub.tiny import hubert, parakeet_ctc, whisper

MARKS = "\u0302\u0301\u0309\u0323"  # circumflex, acute, hook, dot below


def codec(folder: Path, letters: str, delimiter: str = "|") -> HubTokenizer:
    pieces = {piece: index for index, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", delimiter, *letters])}
    (folder / "vocab.json").write_text(json.dumps(pieces))
    made = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", word_delimiter_token=delimiter
    )
    return HubTokenizer(made, group_tokens=False)


@pytest.mark.parametrize(
    ("language", "letters", "text"),
    [
        ("vi", "tếbấạ", "tế bấ tạ"),
        ("vi", "tebaMARKS", "tế bấ tạ"),
        ("vi", "têbâaMARKS", "tế bấ tạ"),
        ("vi", "TÊBÂAMARKS", "tế bấ tạ"),
        ("vi", "TẾBẤẠ", "tế bấ tạ"),
        ("de", "STRAE\N{LATIN CAPITAL LETTER SHARP S}Ü", "straße rüstet"),
        ("de", "STRAEßÜ", "straße rüstet"),
        ("de", "straeßü", "straße rüstet"),
        ("de", "STRAEßU\u0308", "straße rüstet"),
        ("tr", "IİKSŞ", "ışık iski"),
        ("az", "IİKSŞ", "ışık iski"),
        ("tr", "ıikş\u0327s", "ışık iski"),
        ("en", "AMI", "i am"),
        ("el", "ΣΟΑΎ", "σας ούς"),
        ("ko", "\u1112\u1161\u11ab", "한 하"),
        ("fr", "lau’", "l'au"),
        ("uk", "ДАʼ", "д'а"),
        ("en", "don‘t", "don't"),
        ("en", "don't’", "don't"),
    ],
)
@pytest.mark.parametrize("delimiter", ["|", " "])
def test_texts_come_back_by_any_way_of_writing_them(
    tmp_path: Path, language: str, letters: str, text: str, delimiter: str
) -> None:
    made = codec(tmp_path, letters.replace("MARKS", MARKS), delimiter)
    text = normalize(text, language)
    assert text == unicodedata.normalize("NFC", text)
    ids = made.encode(text, language)
    assert 3 not in ids
    assert made.decode(ids, language) == text
    assert made.unknown([text], language) == []
    assert lost_words(made, [text], language, "here") is None


def places(made: HubTokenizer, text: str, language: str) -> list[tuple[str, str]]:
    """Words, each with the pieces of its tokens."""
    ids = made.encode(text, language)
    pieces = made.tokenizer.convert_ids_to_tokens(ids)
    return [(word, " ".join(pieces[place] for place in found)) for word, found in made.words(ids, language)]


def test_words_have_the_places_of_their_tokens(tmp_path: Path) -> None:
    assert places(codec(tmp_path, "TẾBA"), "tế ba", "vi") == [("tế", "T Ế"), ("ba", "B A")]
    assert places(codec(tmp_path, "teba\u0302\u0301"), "tế ba", "vi") == [("tế", "t e \u0302 \u0301"), ("ba", "b a")]
    jamo = codec(tmp_path, "\u1112\u1161\u11ab")
    assert places(jamo, "한 하", "ko") == [("한", "\u1112 \u1161 \u11ab"), ("하", "\u1112 \u1161")]
    assert places(codec(tmp_path, "你好吗"), "你好 吗", "zh") == [("你", "你"), ("好", "好"), ("吗", "吗")]
    assert codec(tmp_path, "ab").words([], "en") == []
    silent = codec(tmp_path, "ab")
    assert silent.words([4, 4, 5, 4, 4, 6, 4], "en") == [("a", [2]), ("b", [5])]


@pytest.mark.parametrize("kind", [parakeet_ctc, whisper])
def test_pieces_of_words_cover_them(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    """Spaces that are parts of pieces, and pieces that are parts of letters."""
    made = load_model(kind(tmp_path)).tokenizer
    assert isinstance(made, HubTokenizer)
    text = "three one" if kind is parakeet_ctc else "où naïve"
    ids = made.encode(text, "fr")
    words = made.words(ids, "fr")
    assert [word for word, _ in words] == text.split()
    assert [made.decode([ids[place] for place in found], "fr") for _, found in words] == text.split()


def test_in_languages_without_spaces_letters_are_counted_and_joiners_are_not(tmp_path: Path) -> None:
    made = codec(tmp_path, "你好吗在می")
    line = lost_words(made, ["你好吗在" * 5 + "他"], "zh", "data")
    assert line is not None and "the characters 他, in 4.8% of the words" in line
    text = "می\N{ZERO WIDTH NON-JOINER}م"
    assert lost_words(made, [text], "fa", "data") is None
    assert made.encode(text, "fa") == made.encode("میم", "fa")


def test_a_case_that_is_lost_is_named(tmp_path: Path) -> None:
    """Upper-case German without ß writes two S, which is nearer than none."""
    made = codec(tmp_path, "STRAEU")
    assert made.decode(made.encode("straße", "de"), "de") == "strasse"
    assert made.unknown(["straße über"], "de") == ["b", "ß", "ü"]


def test_lost_words_are_counted_and_too_many_refused(tmp_path: Path) -> None:
    made = codec(tmp_path, "abc")
    texts = 9 * ["abc a b c"] + ["abd c e f"]
    assert lost_words(made, texts, "en", "data, train") == (
        "data, train: en: the model's vocabulary cannot write the characters d e f, in 7.5% of the words: "
        "they can never be right"
    )
    with pytest.raises(PathwaysError, match="cannot write the characters d e f, in 7"):
        lost_words(made, texts[-1:], "en", "data, train")
    with pytest.raises(PathwaysError, match=r"and 4 more, in 1e.02% of the words: it is of another language"):
        lost_words(made, ["".join(map(chr, range(1072, 1096)))], "ru", "data")

    class Joining(HubTokenizer):
        """Loses the spaces between words."""

        def decode(self, ids: Sequence[int], language: str) -> str:
            return super().decode(ids, language).replace(" ", "")

    with pytest.raises(PathwaysError, match="cannot write words such as 'abc', in 67% of the words: it is"):
        lost_words(Joining(made.tokenizer, group_tokens=False), ["abc b", "c"], "en", "data")


def made_of(folder: Path, words: str) -> Path:
    with build_corpus(folder, [{"name": "sines", "licence": "none"}]) as corpus:
        for split in ("train", "dev", "test"):
            for number, word in enumerate(words.split()):
                corpus.add(split, f"{split}-{number}", "en", word, spoken(["one", "two"], "en", number))
    return folder


@pytest.mark.parametrize("command", ["train", "prune", "evaluate"])
def test_commands_name_the_letters_first_and_refuse_beyond_a_limit(command: str, tmp_path: Path) -> None:
    model, config = hubert(tmp_path / "model"), tmp_path / "recipe.yaml"
    config.write_text(json.dumps(RECIPE))
    few, many = made_of(tmp_path / "few", "one two three four five öne"), made_of(tmp_path / "many", "öne ünd two")
    for data, status in ((few, 0), (many, 1)):
        out = tmp_path / f"{data.name}-out"
        words = {
            "train": ["train", "--init", model, "--config", config, "--out", out],
            "prune": ["prune", model, "--method", "omp", "--sparsity", 0.5, "--config", config, "--out", out],
            "evaluate": ["evaluate", model],
        }[command]
        result = CliRunner().invoke(app, [*map(str, words), "--data", str(data)])
        assert result.exit_code == status, result.output
        said = str(result.exception) if status else result.output
        split = "test" if command == "evaluate" else "train"
        letters, share = ("ö", "17") if data == few else ("ö ü", "67")
        line = f"{data}, {split}: en: the model's vocabulary cannot write the characters {letters}, in {share}% of the"
        assert line in said.replace("\n", " ") or line.replace(" ", "") in "".join(said.split())
        assert not status or not (out / "config.json").exists()


@pytest.mark.parametrize(("letters", "free"), [("abc", False), ("ABC", False), ("aAbB", True), ("abc.?", True)])
def test_what_is_cased_or_punctuated_is_normalised_to_be_scored(tmp_path: Path, letters: str, free: bool) -> None:
    assert codec(tmp_path, letters).free_text() is free


def test_a_cased_model_is_scored_without_cases(tmp_path: Path) -> None:
    """As Whisper is: its output is free text."""
    folder = hubert(tmp_path / "model")
    assert not load_model(folder).model.free_text
    vocabulary = read_json(folder / "vocab.json")
    vocabulary["O"] = vocabulary.pop("</s>")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    asr = load_model(folder)
    assert asr.model.free_text
    assert asr.tokenizer.decode(asr.tokenizer.encode("one", "en"), "en") == "one"


@pytest.mark.parametrize("blank", [-1, 99])
def test_a_blank_that_the_model_has_no_score_of_is_one_line(tmp_path: Path, blank: int) -> None:
    folder = hubert(tmp_path / "model")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": blank}))
    with pytest.raises(PathwaysError, match=f"model: its blank is token {blank}, and it has tokens 0 to"):
        load_model(folder)
