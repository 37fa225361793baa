from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from asr_pathways.data.corpora.dialogues import prepare_dialogues, read_dialogues
from asr_pathways.data.corpus import SPLITS, load_cuts
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone

ROOT = "usr/share/games/fillets-ng"
SCRIPT = """
-- a comment
dialogId("{level}-m-one", "font_small", "What is this?")
dialogStr("Co je to?")

dialogId("{level}-v-two", "font_big",
    "A \\"ship\\".")
dialogStr(
    "Lod\\N, \\"stará\\" loď.")

dialogId("{level}-v-mute", "font_big", "Nothing.")
dialogStr("...")
dialogId("{level}-v-silent", "font_big", "No sound.")
dialogStr("Bez zvuku.")
dialogId("{level}-v-untranslated", "font_big", "Untranslated.")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(12):
        level = f"level{number}"
        script = tmp_path / "tree" / ROOT / "script" / level
        sound = tmp_path / "tree" / ROOT / "sound" / level / "cs"
        script.mkdir(parents=True)
        sound.mkdir(parents=True)
        (script / "dialogs_cs.lua").write_text(SCRIPT.format(level=level), encoding="utf-8")
        (script / "dialogs_en.lua").write_text(SCRIPT.format(level=level).replace("dialogStr", "--"))
        for name in ("m-one", "v-two", "v-mute"):
            soundfile.write(sound / f"{level}-{name}.ogg", tone(1.0, rate=22_050), 22_050)
    return tmp_path / "tree"


def test_read_dialogues(tree: Path) -> None:
    lines = [line for line in read_dialogues(tree, "cs") if line.level == "level0"]
    assert [line.text for line in lines] == ["Co je to?", 'LodN, "stará" loď.', "...", "Bez zvuku."]
    assert lines[1].identifier == "level0-v-two"
    english = [line.text for line in read_dialogues(tree, "en") if line.level == "level0"]
    assert english == ["What is this?", 'A "ship".', "Nothing.", "No sound.", "Untranslated."]


def test_prepare_dialogues_keeps_levels_together(tree: Path, tmp_path: Path) -> None:
    dropped = prepare_dialogues(tmp_path / "out", tree, ["cs"])
    assert dropped == {"cs": {"no words": 12, "no sound file": 12}}
    total = 0
    for split in SPLITS:
        for cut in load_cuts(tmp_path / "out", split):
            assert split_of(cut.id.split("-")[1]) == split and cut.supervisions[0].language == "cs"
            assert cut.duration == pytest.approx(1.0, abs=0.01)
            total += 1
    assert total == 24


def test_unreadable_sound_is_left_out(tree: Path, tmp_path: Path) -> None:
    path = tree / ROOT / "sound/level3/cs/level3-m-one.ogg"
    path.write_bytes(b"")
    assert prepare_dialogues(tmp_path / "out", tree, ["cs"])["cs"]["no audio in its file"] == 1


def test_bad_input(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no dialogues in 'en': choose among cs, nl"):
        prepare_dialogues(tmp_path / "out", tree, ["en"])
    with pytest.raises(PathwaysError, match="no dialogues in 'nl'"):
        prepare_dialogues(tmp_path / "out", tree, ["nl"])
    for path in (tree / ROOT / "sound").rglob("*.ogg"):
        path.unlink()
    with pytest.raises(PathwaysError, match="no 'cs' dialogues with text and sound"):
        prepare_dialogues(tmp_path / "out", tree, ["cs"])
    assert not (tmp_path / "out").exists()
