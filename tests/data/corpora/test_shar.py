from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.shar import SharWriter
from lhotse.utils import fastcopy

from asr_pathways.data.audio import place_in, read_audio, write_flac
from asr_pathways.data.batches import eval_batches, read_cut
from asr_pathways.data.corpora.shar import prepare_shar
from asr_pathways.data.corpus import SPLITS, load_cuts, merge, summarize
from asr_pathways.errors import PathwaysError
from tests.data.conftest import tone

Change = Callable[[Path], object]


def make_shar(out: Path, corpus: Path, form: str = "flac", change: Callable[[Any], Any] = lambda cut: cut) -> Path:
    """A data folder as Lhotse itself writes it, five cuts a shard."""
    for split in SPLITS:
        (out / split).mkdir(parents=True)
        cuts = load_cuts(corpus, split).map(change)
        cuts.to_shar(out / split, fields={"recording": form}, shard_size=5, verbose=False)
    return out


@pytest.fixture
def shar(corpus: Path, tmp_path: Path) -> Path:
    return make_shar(tmp_path / "shar", corpus)


def test_batches_are_those_of_the_files(corpus: Path, shar: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert prepare_shar(data, shar) == {}
    assert summarize(data) == summarize(corpus)
    assert not (data / "audio").exists()
    merge([data, corpus], tmp_path / "both")
    for split in SPLITS:
        for folder in (data, tmp_path / "both"):
            cuts = {cut.id: cut for cut in load_cuts(folder, split)}
            wanted = eval_batches(load_cuts(corpus, split))
            found = eval_batches(CutSet.from_cuts(cuts[cut.id] for cut in load_cuts(corpus, split)))
            for one, other in zip(wanted, found, strict=True):
                assert one.ids == other.ids and one.language == other.language
                assert torch.equal(one.features, other.features)


def test_languages_in_any_form_are_kept(corpus: Path, tmp_path: Path) -> None:
    def tag(cut: MonoCut) -> MonoCut:
        cut.supervisions[0].language = {"en": "eng", "fr": "fr-CA"}[cut.supervisions[0].language]
        return cut

    shar = make_shar(tmp_path / "shar", corpus, "wav", tag)
    prepare_shar(tmp_path / "data", shar, ["fra"])
    assert {row.language for row in summarize(tmp_path / "data")} == {"fr"}
    with pytest.raises(PathwaysError, match=r"shar: nothing of 'it' that can be used: it holds .*fr"):
        prepare_shar(tmp_path / "other", shar, ["fr", "it"])
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus, "dev", ["en"]))
    cuts[0].supervisions[0].text = " "
    cuts[1].supervisions.append(cuts[1].supervisions[0])
    (tmp_path / "shar" / "dev").mkdir(parents=True)
    with SharWriter(tmp_path / "shar" / "dev", {"recording": "flac"}) as writer:
        for cut in cuts:
            writer.write(cut)
        writer.write(MonoCut("silent", 0, 1.0, 0, supervisions=cuts[2].supervisions))
    dropped = prepare_shar(tmp_path / "data", tmp_path / "shar")
    assert dropped == {"en": {"no words": 1, "not one supervision": 1, "no audio": 1}}
    assert [cut.id for cut in load_cuts(tmp_path / "data", "dev")] == [cuts[2].id]


def test_only_what_a_supervision_is_of_is_read(corpus: Path, tmp_path: Path) -> None:
    first, second, _, fourth, *_ = load_cuts(corpus, "train", ["en"])
    whole, part, beyond = (
        fastcopy(cut, id=name) for cut, name in ((first, "whole"), (fourth, "part"), (second, "beyond"))
    )
    part.supervisions = [fastcopy(part.supervisions[0], start=0.2, duration=0.3)]
    beyond.supervisions = [fastcopy(beyond.supervisions[0], start=-1.0, duration=beyond.duration + 2.0)]
    (tmp_path / "shar" / "dev").mkdir(parents=True)
    with SharWriter(tmp_path / "shar" / "dev", {"recording": "wav"}) as writer:
        for cut in (whole, part, beyond):
            writer.write(cut)
    assert prepare_shar(tmp_path / "data", tmp_path / "shar") == {"en": {"its text is of more than the cut": 1}}
    merge([tmp_path / "data"], tmp_path / "merged")
    for data in (tmp_path / "data", tmp_path / "merged"):
        found = {cut.id: cut for cut in load_cuts(data, "dev")}
        assert np.array_equal(read_cut(found["whole"]), read_cut(first))
        assert np.array_equal(read_cut(found["part"]), read_cut(fourth)[3200:8000])


def test_windows_of_a_recording_are_left_out_where_their_text_goes_on(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "shar" / "dev").mkdir(parents=True)
    (cut,) = load_cuts(corpus, "train", ["en"]).subset(first=12).subset(last=1)
    with SharWriter(tmp_path / "shar" / "dev", {"recording": "flac"}) as writer:
        for window in CutSet.from_cuts([cut]).cut_into_windows(0.5):
            writer.write(window)
        writer.write(cut)
    assert prepare_shar(tmp_path / "data", tmp_path / "shar") == {"en": {"its text is of more than the cut": 3}}


def test_the_channel_of_a_cut_is_read(tmp_path: Path) -> None:
    left, right = tone(1.0, 300), tone(1.0, 900)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000)
    recording = Recording.from_file(tmp_path / "a.wav")
    (tmp_path / "shar" / "dev").mkdir(parents=True)
    with SharWriter(tmp_path / "shar" / "dev", {"recording": "wav"}) as writer:
        for channel in (0, 1):
            spoken = SupervisionSegment(f"s{channel}", recording.id, 0.0, 1.0, channel, "one", "en")
            writer.write(MonoCut(f"c{channel}", 0, 1.0, channel, [spoken], recording=recording))
    assert prepare_shar(tmp_path / "data", tmp_path / "shar") == {}
    found = [read_cut(cut) for cut in load_cuts(tmp_path / "data", "dev")]
    assert [int(np.abs(np.fft.rfft(samples)).argmax()) for samples in found] == [300, 900]


def test_audio_that_is_shorter_than_its_cut_is_left_out(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus, "dev", ["en"]))
    (tmp_path / "shar" / "dev").mkdir(parents=True)
    with SharWriter(tmp_path / "shar" / "dev", {"recording": "wav"}) as writer:
        for cut in cuts:
            writer.write(cut)
    manifest = tmp_path / "shar/dev/cuts.000000.jsonl.gz"
    with gzip.open(manifest, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rows[0]["duration"] = rows[0]["supervisions"][0]["duration"] = 3.0
    with gzip.open(manifest, "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    assert prepare_shar(tmp_path / "data", tmp_path / "shar") == {"en": {"audio cut short": 1}}


def test_a_place_in_an_archive_reads_like_a_file(tmp_path: Path) -> None:
    write_flac(tmp_path / "a.flac", tone(1.0))
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"before" + data + b"after")
    place = Path(place_in(tmp_path / "a.tar", 6, len(data)))
    whole = read_audio(tmp_path / "a.flac")
    assert (read_audio(place) == whole).all() and (read_audio(place, 0.25, 0.5) == whole[4000:12000]).all()
    for bad, message in (
        (place_in(tmp_path / "b.tar", 6, 9), r"b\.tar: no such audio file"),
        (place_in(tmp_path / "a.tar", 7, 30), r"a\.tar#7\+30: not readable as audio"),
        (place_in(tmp_path / "a.tar", 99, len(data)), r"a\.tar#99\+\d+: the archive ends before it"),
    ):
        with pytest.raises(PathwaysError, match=message):
            read_audio(Path(bad))
    place.write_bytes(data)  # a file may have such a name
    assert (read_audio(place) == whole).all()


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def _after_audio(path: Path) -> None:
    with tarfile.open(path) as archive:
        archive.next()
        second = archive.next()
        assert second is not None
    path.write_bytes(path.read_bytes()[: second.offset])


def _without_language(cuts: Path) -> None:
    with gzip.open(cuts, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    del rows[1]["supervisions"][0]["language"]
    with gzip.open(cuts, "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("recording.000001.tar", Path.unlink, "cuts.000001.jsonl.gz: there is no recording.000001.tar beside it"),
        ("recording.000001.tar", _halved, "cuts.000001.jsonl.gz, or recording.000001.tar beside it, is broken: "),
        ("recording.000001.tar", _after_audio, "recording.000001.tar: ends after the audio of 'en-train-05.flac'"),
        ("cuts.000001.jsonl.gz", lambda path: path.write_bytes(b"{}"), "is broken: "),
        ("cuts.000001.jsonl.gz", _without_language, "cuts.000001.jsonl.gz: cut 'en-train-06' has no language"),
        (
            "recording.000001.tar",
            lambda path: path.write_bytes(path.with_name("recording.000000.tar").read_bytes()),
            "cuts.000001.jsonl.gz: cut 'en-train-05' where recording.000001.tar has 'en-train-00': not of one shard",
        ),
    ],
)
def test_broken_shards_are_named(shar: Path, tmp_path: Path, name: str, change: Change, message: str) -> None:
    change(shar / "train" / name)
    with pytest.raises(PathwaysError) as caught:
        prepare_shar(tmp_path / "data", shar)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match=r"no shards in it: expected such as train/cuts\.000000\.jsonl\.gz"):
        prepare_shar(tmp_path / "data", tmp_path)
    with pytest.raises(PathwaysError, match="nowhere: no such folder"):
        prepare_shar(tmp_path / "data", tmp_path / "nowhere")
