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

from asr_pathways.data.corpora.shar import prepare_shar
from asr_pathways.data.corpus import build_corpus, cut_row, load_cuts
from asr_pathways.data.identity import BLOCK, GONE, Identity, _checksum


def of(data: Path) -> Identity:
    return Identity.of(load_cuts(data, "train"))


def changed(data: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = data / "cuts_train.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    change(rows[0])
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def other_text(row: dict[str, Any]) -> None:
    row["supervisions"][0]["text"] = "two"


def other_place(row: dict[str, Any]) -> None:
    row["start"] = 0.1
    row["duration"] -= 0.2
    row["supervisions"][0]["duration"] = row["duration"]


def test_a_moved_or_copied_folder_is_the_same(speech: Path, tmp_path: Path) -> None:
    shutil.copytree(speech, tmp_path / "copy", copy_function=shutil.copyfile)
    assert of(tmp_path / "copy").difference(of(speech).sums) is None


@pytest.mark.parametrize("change", [other_text, other_place])
def test_another_text_or_place_is_noticed(speech: Path, tmp_path: Path, change: Callable[..., None]) -> None:
    shutil.copytree(speech, tmp_path / "data")
    changed(tmp_path / "data", change)
    now, before = of(tmp_path / "data"), of(speech).sums
    assert str(now.difference(before)).startswith("utterance en-train-0 is not what it was: other audio, text")
    assert now.difference(before, ["en-train-0"]) is None


def test_other_audio_of_the_same_length_is_noticed_and_missing_audio_is_not(speech: Path, tmp_path: Path) -> None:
    shutil.copytree(speech, tmp_path / "data")
    for number in (3, 5):
        path = tmp_path / "data" / "audio" / "fr" / f"fr-train-{number}.flac"
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1], rate)
    now, before = of(tmp_path / "data"), of(speech).sums
    assert str(now.difference(before)).startswith("utterance fr-train-3 and 1 others are not what they were")
    for number in (3, 5):
        (tmp_path / "data" / "audio" / "fr" / f"fr-train-{number}.flac").unlink()
    gone = of(tmp_path / "data")
    assert gone.difference(before) is None
    assert of(speech).difference(gone.sums) is None
    assert (gone.sums == GONE).sum() == 2


def test_other_audio_in_an_archive_is_noticed(speech: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards" / "train"
    shards.mkdir(parents=True)
    load_cuts(speech, "train").to_shar(shards, fields={"recording": "wav"}, shard_size=None, verbose=False)
    prepare_shar(tmp_path / "data", tmp_path / "shards")
    before = of(tmp_path / "data")
    assert (before.sums != GONE).all()
    cut = list(load_cuts(tmp_path / "data", "train"))[-2]
    archive, place = cut.recording.sources[0].source.split("#")
    start, size = map(int, place.split("+"))
    with Path(archive).open("r+b") as stream:
        stream.seek(start + size - 4)
        stream.write(b"\1\2\3\4")
    assert str(of(tmp_path / "data").difference(before.sums)).startswith(f"utterance {cut.id} is not what it was")
    Path(archive).unlink()
    assert (of(tmp_path / "data").sums == GONE).all()


def test_another_channel_is_noticed(tmp_path: Path) -> None:
    def one(channel: int | None) -> Identity:
        with build_corpus(tmp_path / "data", []) as corpus:
            soundfile.write(corpus.folder / "a.wav", np.zeros((16_000, 2), dtype=np.int16), 16_000)
            row = cut_row("a", "a.wav", 16_000, "en", "one", None, channel=channel, channels=2)
            corpus.add_row("train", row)
        return of(tmp_path / "data")

    averaged, first, second = one(None), one(0), one(1)
    assert len({identity.sums.item() for identity in (averaged, first, second)}) == 3


def test_utterances_more_or_fewer_are_counted(speech: Path) -> None:
    everything = of(speech)
    assert everything.difference(everything.sums[:-1]) == "20 utterances and not 19, so others"


def test_targets_count_where_they_are_known(speech: Path) -> None:
    cuts = load_cuts(speech, "train")
    plain, other = Identity.of(cuts, {"en-train-0": [1, 2]}), Identity.of(cuts, {"en-train-0": [1, 3]})
    assert "en-train-0" in str(other.difference(plain.sums))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_large_files_count_by_their_start_middle_and_end(tmp_path: Path, place: int) -> None:
    path = tmp_path / "large.wav"
    data = np.zeros(20 * BLOCK, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    before = _checksum(str(path))
    data[(0, 10 * BLOCK, 20 * BLOCK - 1)[place]] = 1
    path.write_bytes(data.tobytes())
    assert _checksum(str(path)) != before
