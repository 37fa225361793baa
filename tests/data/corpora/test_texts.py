from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_pathways.data.corpora.texts import (
    ALPHABETS,
    MAX_WORDS,
    read_texts,
    sentences,
    texts,
    texts_in,
    write_texts,
)
from asr_pathways.data.corpus import build_corpus
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError

LEVELS = [f"hall{letter}" for letter in "abcdefghijklmnopqrst"]
HELP = """<html><p class="x">Menu outside.</p><div id="DisplayArea"><h1>Title</h1>
<p class="a">Click the <b>red</b> button &#97;nd wait. Then press it again!</p><p class="b">Click the button.
Choose <i>Edit</i> now, please.</p><p class="c">Use MsgBox here. Press F12. Run a.b now.</p></div></html>"""
FORTUNES = """A friend is a present you give yourself.
\t\t-- Robert Louis Stevenson
%
if (x == y) return;
%
Ieri l'altro, e' vero: un po' perche' non c'era piu' nessuno.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for language, folder in (("en", "en-US"), ("it", "it")):
        page = root / f"usr/share/libreoffice/help/{folder}/text/swriter/a.html"
        page.parent.mkdir(parents=True)
        page.write_text(HELP)
        fortunes = root / "usr/share/games/fortunes" / ("" if language == "en" else language) / "quotes"
        fortunes.parent.mkdir(parents=True, exist_ok=True)
        fortunes.write_text(FORTUNES)
        fortunes.with_suffix(".dat").write_bytes(b"\0\1")
        for level in LEVELS:
            script = root / f"usr/share/games/fillets-ng/script/{level}/dialogs_{language}.lua"
            script.parent.mkdir(parents=True, exist_ok=True)
            said = "" if language == "en" else f'dialogStr("Detto in {level}.")'
            script.write_text(f'dialogId("a", "f", "Said in {level}, my friend.")\n{said}\n')
    return root


def test_sentences_split_and_filter() -> None:
    text = 'Who is there? "It is I," he said; and then: nothing at all... Bücher sind gut. End.'
    assert list(sentences(text, "en")) == ["who is there", "it is i he said", "and then", "nothing at all"]
    assert list(sentences("Мы здесь. We are here. Это ё.", "ru")) == ["мы здесь", "это е"]
    long = ", ".join(["one two three four five"] * 4)
    assert list(sentences(long, "en")) == ["one two three four five"] * 4


def test_texts_come_from_all_sources_and_are_clean(tree: Path) -> None:
    lines = texts(tree, "en")
    assert {"a friend is a present you give yourself", "click the red button and wait", "click the button"} <= set(
        lines
    )
    assert not {"menu outside", "use msgbox here", "if x y return", "robert louis stevenson"} & set(lines)
    assert "seventeen" in lines and "button" in lines and len(lines) == len(set(lines)) > 500
    in_training = {f"said in {level} my friend" for level in LEVELS if split_of(level) == "train"}
    assert {line for line in lines if line.startswith("said in")} == in_training
    assert 0 < len(in_training) < len(LEVELS)
    allowed = set(ALPHABETS["en"] + " ")
    assert all(allowed.issuperset(line) and len(line.split()) <= MAX_WORDS for line in lines if line.isascii())


def test_italian_accents_come_back_and_elisions_stay(tree: Path) -> None:
    lines = texts(tree, "it")
    assert "un po' perché non c'era più nessuno" in lines and "ieri l'altro è vero" in lines


def test_write_and_read(tree: Path, tmp_path: Path) -> None:
    counts = write_texts(tmp_path / "a", ["en", "it"], tree, exclude={"click the button"})
    write_texts(tmp_path / "b", ["en", "it"], tree, exclude={"click the button"})
    for name in ("en.txt", "it.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    lines = read_texts(tmp_path / "a")
    assert {language: len(found) for language, found in lines.items()} == counts
    assert "click the button" not in lines["en"] and read_texts(tmp_path / "a", ["it"]) == {"it": lines["it"]}
    assert write_texts(tmp_path / "c", ["en"], tree, limit=3)["en"] < counts["en"]


def test_texts_of_the_user_in_any_language(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("Um 8 Uhr!\n", encoding="utf-8")
    (tmp_path / "ja.txt").write_text("8時です。\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no language\n")
    assert read_texts(tmp_path) == {"de": ["um acht uhr"], "ja": ["8時です"]}


def test_bad_input(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no Debian texts in 'de': choose among en, es, fr, it, ru, cs, nl"):
        write_texts(tmp_path, ["de"], tree)
    with pytest.raises(PathwaysError, match="no dialogues in 'fr'"):
        write_texts(tmp_path, ["fr"], tree)
    with pytest.raises(PathwaysError, match="no text files named after a language"):
        read_texts(tmp_path)
    with pytest.raises(PathwaysError, match=r"fr\.txt: cannot read"):
        read_texts(tmp_path, ["fr"])
    with pytest.raises(PathwaysError, match="unknown language 'xx'"):
        read_texts(tmp_path, ["xx"])
    (tmp_path / "fr.txt").write_text("\n ... \n")
    with pytest.raises(PathwaysError, match=r"fr\.txt: no text in it"):
        read_texts(tmp_path)
    (tmp_path / "fr.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PathwaysError, match=r"fr\.txt: not UTF-8"):
        read_texts(tmp_path)


def test_texts_of_data_are_left_out_however_they_are_written(tree: Path, tmp_path: Path) -> None:
    line = texts(tree, "en")[0]
    with build_corpus(tmp_path / "data", []) as corpus:
        corpus.add("test", "a", "en", f"“{line.upper()}!”", np.zeros(1600, np.int16))
    write_texts(tmp_path / "texts", ["en"], tree, texts_in(tmp_path / "data"))
    assert line not in read_texts(tmp_path / "texts", ["en"])["en"]
