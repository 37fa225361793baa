from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from G722 import G722

from asr_pathways.data.audio import to_int16
from asr_pathways.data.corpora.prompts import decode_g722, prepare_prompts
from asr_pathways.data.corpus import SPLITS, languages_of, load_cuts, sources_of, summarize
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone

NUMBERS = ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"]


def make_tree(root: Path, language: str, lines: list[str], sounds: dict[str, float], bom: bool = False) -> Path:
    """A tree as `dpkg-deb -x` leaves it: transcripts, and a G.722 tone of so many seconds per prompt."""
    folder = root / f"usr/share/doc/asterisk-core-sounds-{language}"
    folder.mkdir(parents=True)
    text = "".join(f"{line}\n" for line in ["; Core sounds", "", *lines])
    (folder / f"core-sounds-{language}.txt.gz").write_bytes(gzip.compress(text.encode("utf-8-sig" if bom else "utf-8")))
    for name, seconds in sounds.items():
        path = root / f"usr/share/asterisk/sounds/{language}_XX_f_Voice/{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(G722(16_000, 64_000).encode(to_int16(tone(seconds)))))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    lines = [f"digits/{i}{j}: {NUMBERS[i]} {NUMBERS[j]}" for i in range(10) for j in range(6)]
    lines += [f"again/{i}: {NUMBERS[i]} {NUMBERS[i]}." for i in range(6)]
    lines += [
        "beep: [tono simple]",
        "silence/1: silencio",
        "conf-getpin: conf-getpin: Ingrese el numero [clave] de su grabacion, 2.",
        "conf-getpin: otra vez",
        "long: demasiado",
        "short: un texto que nadie puede decir en tan poco tiempo",
        "absent: no hay sonido",
    ]
    sounds = {line.split(":")[0]: 1.0 for line in lines if not line.startswith("absent")}
    return make_tree(
        tmp_path / "tree",
        "es",
        lines,
        sounds | {"conf-getpin": 2.0, "long": 21.0, "short": 0.5, "unwritten": 1.0},
        bom=True,
    )


def test_prepare_prompts(tree: Path, tmp_path: Path) -> None:
    dropped = prepare_prompts(tmp_path / "out", tree, ["es"])
    assert dropped == {
        "es": {
            "no words": 2,
            "a second text for the same name": 1,
            "longer than 20 s": 1,
            "text too long for the sound": 1,
            "no sound file": 1,
        }
    }
    cuts = {cut.id: (split, cut) for split in SPLITS for cut in load_cuts(tmp_path / "out", split)}
    assert len(cuts) == 67 and languages_of(cut for _, cut in cuts.values()) == ["es"]
    _, cut = cuts["es-conf-getpin"]
    assert cut.supervisions[0].text == "ingrese el número de su grabación dos"
    assert cut.supervisions[0].speaker == "es_XX_f_Voice"
    spectrum = np.abs(np.fft.rfft(cut.load_audio()[0][:16_000]))
    assert cut.duration == pytest.approx(2.0, abs=0.01) and abs(int(spectrum.argmax()) - 440) <= 1
    assert {row.split for row in summarize(tmp_path / "out")} == set(SPLITS)
    assert sources_of(tmp_path / "out")[0]["licence"] == "CC-BY-SA-3.0"


def test_no_text_is_in_two_splits(tree: Path, tmp_path: Path) -> None:
    prepare_prompts(tmp_path / "out", tree, ["es"])
    splits: dict[str, set[str]] = {}
    for split in SPLITS:
        for cut in load_cuts(tmp_path / "out", split):
            splits.setdefault(cut.supervisions[0].text, set()).add(split)
    assert len(splits) == 61 and all(len(found) == 1 for found in splits.values())


def test_prompts_are_deterministic(tree: Path, tmp_path: Path) -> None:
    for name in "ab":
        prepare_prompts(tmp_path / name, tree, ["es"])
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_italian_letters_lost_to_question_marks_come_back(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", "it", ["a: La chiamata sar? pi? lunga?"], {"a": 2.0})
    prepare_prompts(tmp_path / "out", tree, ["it"])
    texts = [cut.supervisions[0].text for split in SPLITS for cut in load_cuts(tmp_path / "out", split)]
    assert texts == ["la chiamata sarà più lunga"]


def test_decode_g722_gives_two_samples_a_byte() -> None:
    samples = to_int16(tone(0.5))
    decoded = decode_g722(bytes(G722(16_000, 64_000).encode(samples)))
    assert decoded.dtype == np.int16 and len(decoded) == len(samples)
    assert len(decode_g722(b"")) == 0


def test_bad_input(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PathwaysError, match="no prompts in 'xx': choose among en, es"):
        prepare_prompts(out, tree, ["xx"])
    with pytest.raises(PathwaysError, match="no such folder"):
        prepare_prompts(out, tmp_path / "none", ["es"])
    with pytest.raises(PathwaysError, match=r"no sounds in usr/share/asterisk/sounds/fr_\*"):
        prepare_prompts(out, tree, ["es", "fr"])
    transcript = tree / "usr/share/doc/asterisk-core-sounds-es/core-sounds-es.txt.gz"
    transcript.write_bytes(transcript.read_bytes()[:30])
    with pytest.raises(PathwaysError, match="cannot read the transcripts"):
        prepare_prompts(out, tree, ["es"])
    transcript.write_bytes(gzip.compress(b"nothing: here\n"))
    with pytest.raises(PathwaysError, match="no 'es' prompts with text and sound"):
        prepare_prompts(out, tree, ["es"])
    assert not out.exists() and not list(tmp_path.glob(".out*"))
