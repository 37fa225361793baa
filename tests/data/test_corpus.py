from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from asr_pathways.data.audio import write_flac
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import (
    build_corpus,
    cut_row,
    languages_of,
    load_cuts,
    merge,
    resplit,
    sources_of,
    summarize,
)
from asr_pathways.data.left_out import LeftOut
from asr_pathways.errors import PathwaysError
from tests.data.conftest import SOURCE, make_corpus, tone


def test_load_cuts_reads_what_was_written(corpus: Path) -> None:
    cuts = load_cuts(corpus, "train")
    assert isinstance(cuts, CutSet) and len(cuts) == 24 and languages_of(cuts) == ["en", "fr"]
    cut = load_cuts(corpus, "dev", ["fr"])[0]
    supervision = cut.supervisions[0]
    assert (cut.id, supervision.language, supervision.text) == ("fr-dev-00", "fr", "un deux")
    assert supervision.speaker == "sine"
    assert cut.load_audio().shape == (1, 4800)
    assert np.abs(cut.load_audio()[0] - tone(0.3, 200)).max() < 1e-4


def with_first_row(data: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the first cut of the dev split of a data folder."""
    path = data / "cuts_dev.jsonl.gz"
    first, *others = gzip.decompress(path.read_bytes()).decode().splitlines()
    row = json.loads(first)
    change(row)
    path.write_bytes(gzip.compress("\n".join([json.dumps(row), *others]).encode()))


def test_a_text_is_of_its_supervision(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "data")
    whole = read_cut(load_cuts(data, "dev")[0])
    with_first_row(data, lambda row: row["supervisions"][0].update(start=0.125, duration=0.0625))
    merge([data], tmp_path / "merged")
    resplit(data, tmp_path / "turned", lambda language, text: "dev")
    for folder in (data, tmp_path / "merged", tmp_path / "turned"):
        cut = next(cut for cut in load_cuts(folder, "dev") if cut.id == "en-dev-00")
        assert np.array_equal(read_cut(cut), whole[2000:3000])
        assert cut.supervisions[0].text == "one two"
    assert sum(row.hours for row in summarize(data)) < sum(row.hours for row in summarize(tmp_path / "turned")) + 1e-9
    with_first_row(data, lambda row: row["supervisions"][0].update(start=0.1, duration=0.5))
    with pytest.raises(PathwaysError, match="line 1: cut 'en-dev-00' is only a part of what its text is of"):
        load_cuts(data, "dev")
    left_out = LeftOut(1)
    assert "en-dev-00" not in [cut.id for cut in load_cuts(data, "dev", left_out=left_out)] and len(left_out) == 1


def test_audio_that_lhotse_changes_as_it_reads_it_is_refused(tmp_path: Path) -> None:
    """Read as it is, a recording that is to be faster would end before its text does."""
    data = make_corpus(tmp_path / "data")
    cut = load_cuts(data, "dev")[0]
    resampled, faster = (one.to_dict()["recording"]["transforms"] for one in (cut.resample(8000), cut.perturb_speed(2)))
    with_first_row(data, lambda row: row["recording"].update(transforms=resampled))
    assert np.array_equal(read_cut(load_cuts(data, "dev")[0]), read_cut(cut))
    with_first_row(data, lambda row: row["recording"].update(transforms=faster))
    with pytest.raises(PathwaysError, match=r"line 1: cut 'en-dev-00' is changed as Lhotse reads it \(Speed\)"):
        load_cuts(data, "dev")
    with_first_row(data, lambda row: row["recording"].update(transforms=[{"name": "None of these"}]))
    with pytest.raises(PathwaysError, match="line 1: not a Lhotse cut"):
        load_cuts(data, "dev")


@pytest.mark.parametrize("files", [1, 2])
def test_the_channel_of_a_cut_is_read(tmp_path: Path, files: int) -> None:
    data = make_corpus(tmp_path / "data")
    two = np.stack([tone(0.3, 300), tone(0.3, 900)], axis=1)
    for number, samples in enumerate([two] if files == 1 else two.T):
        soundfile.write(data / f"{number}.wav", samples, 16_000)
    sources = [{"type": "file", "channels": [0, 1], "source": "0.wav"}]
    if files == 2:
        sources = [{"type": "file", "channels": [number], "source": f"{number}.wav"} for number in (0, 1)]
    for channel, pitch in ((0, 300), (1, 900)):

        def change(row: dict[str, Any], channel: int = channel) -> None:
            row["channel"] = row["supervisions"][0]["channel"] = channel
            row["recording"].update(sources=sources, channel_ids=[0, 1])

        with_first_row(data, change)
        merge([data], tmp_path / "merged")
        for folder in (data, tmp_path / "merged"):
            samples = read_cut(load_cuts(folder, "dev")[0])
            assert int(np.abs(np.fft.rfft(samples, 16_000)).argmax()) == pytest.approx(pitch, abs=3)
    with_first_row(data, lambda row: row.update(channel=2))
    with pytest.raises(PathwaysError, match=r"utterance en-dev-00: channel 2 of a recording with \[0, 1\]"):
        read_cut(load_cuts(data, "dev")[0])


def test_a_folder_can_be_moved(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "moved")
    cut = load_cuts(tmp_path / "moved", "test")[0]
    assert Path(cut.recording.sources[0].source).is_relative_to(tmp_path)
    cut.load_audio()


def test_folders_are_deterministic(tmp_path: Path) -> None:
    for name in "ab":
        make_corpus(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4 + 36
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_summarize(corpus: Path) -> None:
    rows = summarize(corpus)
    assert [(row.language, row.split) for row in rows] == [
        (language, split) for language in ("en", "fr") for split in ("train", "dev", "test")
    ]
    assert rows[1].utterances == 3 and rows[1].words == 6
    assert rows[1].hours * 3600 == pytest.approx(1.2)


def test_merge_joins_and_stands_by_itself(tmp_path: Path) -> None:
    one = make_corpus(tmp_path / "one", ("en",), name="first")
    two = make_corpus(tmp_path / "two", ("fr",), name="second")
    merge([one, two], tmp_path / "both")
    shutil.rmtree(one)
    assert languages_of(load_cuts(tmp_path / "both", "train")) == ["en", "fr"]
    load_cuts(tmp_path / "both", "test", ["en"])[0].load_audio()
    assert [source["name"] for source in sources_of(tmp_path / "both")] == ["first", "second"]


def test_utterances_of_one_recording_may_share_its_file(tmp_path: Path) -> None:
    with build_corpus(tmp_path / "data", [SOURCE]) as corpus:
        write_flac(corpus.folder / "audio" / "long.flac", tone(1.0))
        for number in range(2):
            row = cut_row(str(number), "audio/long.flac", 16_000, "en", "word", None, part=(number / 2, 0.5))
            corpus.add_row("train", row)
    resplit(tmp_path / "data", tmp_path / "out", lambda language, text: "test")
    merge([tmp_path / "data"], tmp_path / "merged")
    before, *after = (
        [read_cut(cut) for cut in load_cuts(tmp_path / name, split)]
        for name, split in (("data", "train"), ("out", "test"), ("merged", "train"))
    )
    assert len(before) == 2 and not np.array_equal(*before)
    assert all(np.array_equal(one, other) for found in after for one, other in zip(before, found, strict=True))


def test_resplit_moves_utterances_and_keeps_all_else(corpus: Path, tmp_path: Path) -> None:
    resplit(corpus, tmp_path / "out", lambda language, text: "test" if language == "fr" else "train")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    moved = tmp_path / "moved"
    assert languages_of(load_cuts(moved, "test")) == ["fr"] and languages_of(load_cuts(moved, "train")) == ["en"]
    assert len(load_cuts(moved, "dev")) == 0
    before = {cut.id: cut for split in ("train", "dev", "test") for cut in load_cuts(corpus, split)}
    after = {cut.id: cut for split in ("train", "test") for cut in load_cuts(moved, split)}
    assert before.keys() == after.keys()
    for name, cut in after.items():
        assert cut.supervisions[0].text == before[name].supervisions[0].text
        np.testing.assert_array_equal(cut.load_audio(), before[name].load_audio())
    assert sources_of(moved) == sources_of(corpus)


def test_merge_tells_clashing_ids_apart(tmp_path: Path) -> None:
    one = make_corpus(tmp_path / "one", ("en",))
    merge([one, one, make_corpus(tmp_path / "two", ("en",))], tmp_path / "out")
    cuts = load_cuts(tmp_path / "out", "train")
    identifiers = [cut.id for cut in cuts]
    assert len(set(identifiers)) == len(identifiers) == 36
    assert {"en-train-00", "one-en-train-00", "two-en-train-00"} <= set(identifiers)
    assert len(sources_of(tmp_path / "out")) == 1


def test_ids_that_make_odd_file_names_are_kept(tmp_path: Path) -> None:
    odd = ["../up", "a/b", "a_b", ".hidden", "é", "x" * 300]
    with build_corpus(tmp_path / "out", [SOURCE]) as corpus:
        for identifier in odd:
            corpus.add("train", identifier, "en", "word", tone(0.2))
    cuts = load_cuts(tmp_path / "out", "train")
    assert {cut.id for cut in cuts} == set(odd)
    assert len({cut.recording.sources[0].source for cut in cuts}) == len(odd)
    for cut in cuts:
        assert Path(cut.recording.sources[0].source).parent == tmp_path / "out/audio/en"
        cut.load_audio()


def test_errors_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="same id 'a'"), build_corpus(tmp_path / "out", [SOURCE]) as corpus:
        for _ in range(2):
            corpus.add("train", "a", "en", "word", tone(0.2))
    with pytest.raises(PathwaysError, match="no such data folder"):
        merge([tmp_path / "none"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no such data folder"):
        load_cuts(tmp_path / "none", "train")
    with pytest.raises(PathwaysError, match=r"not a data folder: it has no cuts_train\.jsonl\.gz"):
        load_cuts(tmp_path, "train")
    with pytest.raises(PathwaysError, match="unknown split 'eval': choose among train, dev, test"):
        load_cuts(corpus, "eval")
    with pytest.raises(PathwaysError, match="no 'ru' in split 'dev': it holds en, fr"):
        load_cuts(corpus, "dev", ["ru"])


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"no json\n"),
        gzip.compress(b"[1, 2]\n"),
        gzip.compress(json.dumps({"id": "a", "supervisions": []}).encode()),
        gzip.compress(b'{"id": "a"}\n' * 500)[:40],
        gzip.compress(b"\xff\xfe"),
    ],
    ids=["not gzip", "not JSON", "not an object", "no cut", "truncated", "not UTF-8"],
)
def test_broken_manifests_are_named(corpus: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    (folder / "cuts_dev.jsonl.gz").write_bytes(content)
    for read in (lambda: load_cuts(folder, "dev"), lambda: summarize(folder)):
        with pytest.raises(PathwaysError, match=r"cuts_dev\.jsonl\.gz: (line|broken)") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_lines_that_are_no_utterances_are_left_out_where_they_may_be(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "cuts_train.jsonl.gz"
    shutil.copytree(corpus, path.parent)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[1]["supervisions"][0]["text"] = ""
    rows[2]["id"] = rows[0]["id"]
    rows[3]["recording"]["num_samples"] = 0
    changed = [*map(json.dumps, rows[:4]), lines[4][:40], *lines[5:]]
    path.write_bytes(gzip.compress("\n".join(changed).encode()))
    with pytest.raises(PathwaysError, match=r"line 2: cut '.*' has no language or no text"):
        load_cuts(path.parent, "train")
    left_out = LeftOut(4)
    assert [cut.id for cut in load_cuts(path.parent, "train", left_out=left_out)] == [rows[0]["id"]] + [
        row["id"] for row in rows[5:]
    ]
    assert left_out.reasons == {
        f"{path}: line 2": f"{path}: line 2: cut {rows[1]['id']!r} has no language or no text",
        f"{path}: line 3": f"{path}: line 3: the id {rows[0]['id']!r} is that of an earlier line: ids must be unique",
        f"{path}: line 4": f"{path}: line 4: not a cut with language, text and audio",
        f"{path}: line 5": f"{path}: line 5: not a cut with language, text and audio",
    }
    with pytest.raises(PathwaysError, match=r"giving up \(max_left_out: 3\)"):
        load_cuts(path.parent, "train", left_out=LeftOut(3))


def test_truncated_manifest_is_named(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    path = folder / "cuts_train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PathwaysError, match=r"cuts_train\.jsonl\.gz: broken after line \d+"):
        load_cuts(folder, "train")
