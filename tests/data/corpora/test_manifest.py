from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_pathways.data.corpora.manifest import BadRow, prepare_manifest
from asr_pathways.data.corpus import SPLITS, WRITTEN, languages_of, load_cuts, merge
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wavs").mkdir()
    for index in range(30):
        soundfile.write(tmp_path / f"wavs/{index}.wav", np.stack([tone(1.0, rate=8000)] * 2, axis=1), 8000)
    return tmp_path


def row(index: int, **changes: Any) -> dict[str, Any]:
    values = {"audio_filepath": f"wavs/{index}.wav", "text": f"Number {index}!", "lang": "en"} | changes
    return {name: value for name, value in values.items() if value is not None}


def write(path: Path, rows: list[Mapping[str, Any] | str]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def all_cuts(out: Path) -> dict[str, tuple[str, Any]]:
    return {cut.id: (split, cut) for split in SPLITS for cut in load_cuts(out, split)}


def test_json_lines(folder: Path, tmp_path: Path) -> None:
    rows = [row(i) for i in range(30)]
    rows[3] = row(3, offset=0.25, duration=0.5, lang="fr", text="Deux mots", speaker="anna")
    assert prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", ["", *rows])) == []
    cuts = all_cuts(tmp_path / "out")
    assert len(cuts) == 30 and {split for split, _ in cuts.values()} >= {"train"}
    _, cut = cuts["000005-3"]
    assert cut.load_audio().shape == (1, 8000) and cut.sampling_rate == 16_000
    supervision = cut.supervisions[0]
    assert (supervision.language, supervision.text, supervision.speaker) == ("fr", "deux mots", "anna")
    assert cuts["000002-0"][1].supervisions[0].text == "number zero"


def test_text_is_kept_as_it_is_written(folder: Path, tmp_path: Path) -> None:
    texts = ["Number 12!", "NUMBER 12!", "number twelve"]
    rows = [row(i, text=text) for i, text in enumerate(texts)]
    prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", list(rows)))
    merge([tmp_path / "out"], tmp_path / "merged")
    for place in ("out", "merged"):
        cuts = [cut for _, cut in all_cuts(tmp_path / place).values()]
        assert {cut.supervisions[0].text for cut in cuts} == {"number twelve"}
        assert {cut.id: cut.supervisions[0].custom for cut in cuts} == {
            "000001-0": {WRITTEN: "Number 12!"},
            "000002-1": None,
            "000003-2": None,
        }


def test_a_language_has_one_code(folder: Path, tmp_path: Path) -> None:
    codes = ["fr", "fra", "fr-FR", "<|fr|>", "ja", "sr", "sr"]
    texts = [*["Un"] * 4, "1月", "Један", "Jedan"]
    rows = [row(i, lang=code, text=text) for i, (code, text) in enumerate(zip(codes, texts, strict=True))]
    assert prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", list(rows))) == []
    cuts = [cut for _, cut in all_cuts(tmp_path / "out").values()]
    assert languages_of(cuts) == ["fr", "ja", "sr"]
    assert {cut.supervisions[0].text for cut in cuts} == {"un", "1月", "један", "jedan"}


def test_tsv_with_splits(folder: Path, tmp_path: Path) -> None:
    lines = ["lang\ttext\taudio_filepath\tduration\tsplit"]
    lines += [f'en\tsay "{i}"\twavs/{i}.wav\t{"0.5" if i else ""}\t{SPLITS[i % 3]}' for i in range(6)]
    assert prepare_manifest(tmp_path / "out", write(folder / "m.tsv", list(lines))) == []
    cuts = all_cuts(tmp_path / "out")
    assert sorted(split for split, _ in cuts.values()) == sorted(SPLITS * 2)
    assert cuts["000002-0"][1].duration == 1.0 and cuts["000003-1"][1].duration == 0.5
    assert languages_of(cut for _, cut in cuts.values()) == ["en"]


def test_the_split_follows_the_path_not_the_order(folder: Path, tmp_path: Path) -> None:
    rows = [row(i) for i in range(30)]
    prepare_manifest(tmp_path / "a", write(folder / "m.jsonl", list(rows)))
    prepare_manifest(tmp_path / "b", write(folder / "m.jsonl", list(reversed(rows))))
    places = [{cut.id.split("-")[1]: split for split, cut in all_cuts(tmp_path / name).values()} for name in "ab"]
    assert places[0] == places[1] and len(places[0]) == 30


def test_a_recording_is_in_one_split_however_its_path_is_written(folder: Path, tmp_path: Path) -> None:
    forms = ["wavs/{}.wav", "./wavs/{}.wav", "wavs//{}.wav", "wavs/../wavs/{}.wav"]
    rows = [row(i, audio_filepath=form.format(i)) for i in range(6) for form in forms]
    prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", list(rows)))
    places: dict[str, set[str]] = {}
    for identifier, (split, _) in all_cuts(tmp_path / "out").items():
        places.setdefault(identifier.split("-")[1], set()).add(split)
    assert len(places) == 6 and all(len(splits) == 1 for splits in places.values())


BAD = [
    ("{not json", "not a JSON object"),
    ("[1]", "not a JSON object"),
    ("[" * 100_000, "not a JSON object"),
    (json.dumps(row(1))[:-1] + ', "duration": ' + "9" * 5000 + "}", "not a JSON object"),
    (row(1, duration=10**400), "'duration' is not a number"),
    (row(1, offset=True), "'offset' cannot be nan s"),
    (row(1, text=None), "no 'text'"),
    (row(1, text=5), "'text' is not text"),
    (row(1, audio_filepath=None), "no 'audio_filepath'"),
    (row(1, text="(...)"), "no words in its text"),
    (row(1, text="\u4f60\u597d"), "its text is not in Latin letters, as 'en' is: \u4f60\u597d"),
    (row(1, text="number", lang="ru"), "its text is not in Cyrillic letters, as 'ru' is: number"),
    (row(1, text="number", lang="ja"), "not in Hiragana or Katakana or CJK letters, as 'ja' is: number"),
    (row(1, lang="xx"), "unknown language 'xx'"),
    (row(1, audio_filepath="none.wav"), "no such audio file"),
    (row(1, audio_filepath="m.jsonl"), "not readable as audio"),
    (row(1, duration=-1), "'duration' cannot be -1 s"),
    (row(1, duration="long"), "'duration' is not a number"),
    (row(1, duration=float("nan")), "'duration' cannot be nan s"),
    (row(1, offset=[1]), "'offset' is not a number"),
    (row(1, offset=2.0), "beyond its end"),
    (row(1, duration=3.0), "1.00 s of audio where the row states 3 s"),
    (row(1, duration=0.1), "cannot be spoken in it"),
    (row(1, start=0.2, end=0.7), "'start' is not read: 'offset' and 'duration' in seconds say what part"),
    (row(1, end_time=0.7), "'end_time' is not read"),
    (row(1, split="eval"), "unknown split 'eval'"),
    (row(1, channel=2), "no channel 2: it has 2, counted from 0"),
    (row(1, channel=-1), "'channel' is not the number of one, counted from 0: -1"),
    (row(1, channel="left"), "'channel' is not the number of one, counted from 0: 'left'"),
    (row(1, channel=True), "'channel' is not the number of one, counted from 0: True"),
    (row(1, audio_filepath="cut.wav"), "truncated audio: "),
    (row(1, audio_filepath="unscaled.wav"), "where full scale is 1"),
    (row(1, audio_filepath="faint.wav"), "nothing of it would be left in 16 bits"),
    (row(1, audio_filepath="a.raw"), "no header says its rate and format"),
    (row(1, audio_filepath="a.m4a"), "MP4 or M4A is not read: convert it"),
    (row(1, audio_filepath="silent.wav"), "no audio in it"),
    (row(1, audio_filepath="nan.wav"), "not finite"),
    (row(1, audio_filepath="long.wav"), "longer than 40 s"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_bad_rows_are_reported_by_line(folder: Path, tmp_path: Path, bad: Any, reason: str) -> None:
    soundfile.write(folder / "silent.wav", np.zeros(0, np.float32), 8000)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan, np.float32), 8000, subtype="FLOAT")
    soundfile.write(folder / "long.wav", np.zeros(41 * 8000, np.float32), 8000)
    (folder / "cut.wav").write_bytes((folder / "wavs/0.wav").read_bytes()[:9000])
    soundfile.write(folder / "unscaled.wav", tone(1.0) * 32768, 16_000, subtype="FLOAT")
    soundfile.write(folder / "faint.wav", tone(1.0) / 2**31, 16_000, subtype="FLOAT")
    (folder / "a.raw").write_bytes(bytes(9000))
    (folder / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    path = write(folder / "m.jsonl", [*(row(i) for i in range(3)), bad])
    result = prepare_manifest(tmp_path / "out", path, max_bad=0.25)
    assert [found.line for found in result] == [4] and reason in result[0].reason
    assert isinstance(result[0], BadRow) and len(all_cuts(tmp_path / "out")) == 3
    with pytest.raises(PathwaysError, match=r"m\.jsonl: more than 1\.0% of its 4 rows are bad: line 4: ") as caught:
        prepare_manifest(tmp_path / "strict", path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "strict").exists() and not list(tmp_path.glob(".strict*"))


def test_a_few_bad_rows_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    bad = [row(1, text=""), row(1, lang="french"), row(1, audio_filepath="no.wav"), row(1, split="trian")]
    with pytest.raises(PathwaysError) as caught:
        prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", [row(0), *bad]))
    for part in ("line 2: no words", "line 3: unknown language", "line 4: ", "and 1 more: mend them, or leave"):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_channel_is_an_utterance_of_its_own(folder: Path, tmp_path: Path) -> None:
    left, right = tone(1.0, 300), tone(1.0, 900)
    soundfile.write(folder / "two.wav", np.stack([left, right], axis=1), 16_000)
    rows = [row(1, audio_filepath="two.wav", channel=0), row(1, audio_filepath="two.wav", channel="1")]
    assert prepare_manifest(tmp_path / "out", write(folder / "m.jsonl", list(rows))) == []
    found = [cut.load_audio()[0] for _, (_, cut) in sorted(all_cuts(tmp_path / "out").items())]
    assert [int(np.abs(np.fft.rfft(samples)).argmax()) for samples in found] == [300, 900]


def test_manifests_that_are_none(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PathwaysError, match="cannot read manifest"):
        prepare_manifest(out, folder / "none.jsonl")
    with pytest.raises(PathwaysError, match="no rows in it"):
        prepare_manifest(out, write(folder / "m.jsonl", ["", " "]))
    with pytest.raises(PathwaysError, match="not UTF-8 text"):
        prepare_manifest(out, folder / "wavs/0.wav")
    with pytest.raises(PathwaysError, match="its header has no column text, lang"):
        prepare_manifest(out, write(folder / "m.tsv", ["audio_filepath\tx", "a\tb"]))
    with pytest.raises(PathwaysError, match="no rows in it"):
        prepare_manifest(out, write(folder / "m.tsv", ["audio_filepath\ttext\tlang"]))
    with pytest.raises(PathwaysError, match="its header has more than one column text"):
        prepare_manifest(out, write(folder / "m.tsv", ["audio_filepath\ttext\tlang\ttext", "a\tb\tc\td"]))
    with pytest.raises(PathwaysError, match=r"bad: line 2: .*: 200000 letters in 1\.00 s"):
        prepare_manifest(
            out, write(folder / "m.tsv", ["audio_filepath\ttext\tlang", f"wavs/0.wav\t{'a' * 200_000}\ten"])
        )
    with pytest.raises(PathwaysError, match="bad: line 1: not a JSON object"):
        prepare_manifest(out, write(folder / "m.jsonl", ["x"]), max_bad=1.0)
    assert not out.exists()


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["audio_filepath", "text", "lang", "offset", "duration", "split", "speaker"]), JSON
    ),
    st.sampled_from([["lang"], ["lang", "text"], ["lang", "text", "audio_filepath"]]),
)
def test_no_row_does_worse_than_being_bad(values: dict[str, Any], good: list[str]) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        soundfile.write(folder / "a.wav", tone(0.3), 16_000)
        fine = {"audio_filepath": "a.wav", "text": "one", "lang": "en"}
        rows = [fine, values | {name: fine[name] for name in good}]
        bad = prepare_manifest(folder / "out", write(folder / "m.jsonl", list(rows)), max_bad=1.0)
        assert len(all_cuts(folder / "out")) + len(bad) == 2
        assert all("\n" not in found.reason for found in bad)


def test_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write(folder / "m.jsonl", [row(0)])

    def full(path: Path, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PathwaysError, match="out: cannot write: No space left on device"):
        prepare_manifest(tmp_path / "out", manifest)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
