from __future__ import annotations

import json
import re
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_pathways.data.audio import read_audio
from asr_pathways.data.batches import Batch, DataConfig, TrainBatches, eval_batches, joined
from asr_pathways.data.corpus import build_corpus, load_cuts
from asr_pathways.data.features import Fbank
from asr_pathways.data.left_out import LeftOut
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from tests.data.conftest import WORDS, make_corpus, tone

CONFIG = DataConfig(max_seconds=4.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for texts in WORDS.values() for text in texts] * 5, 24)


def same(one: Batch, other: Batch) -> bool:
    return (
        one.language == other.language
        and one.ids == other.ids
        and torch.equal(one.features, other.features)
        and torch.equal(one.targets, other.targets)
    )


@pytest.mark.parametrize("steps", [0, 1, 7, 25])
def test_resume_gives_the_same_batches_bit_for_bit(corpus: Path, tokenizer: Tokenizer, steps: int) -> None:
    cuts = load_cuts(corpus, "train")
    batches = TrainBatches(cuts, tokenizer, CONFIG)
    running = iter(batches)
    for _ in islice(running, steps):
        pass
    state = json.loads(json.dumps(batches.state_dict()))
    expected = list(islice(running, 12))
    for changes in ({}, {"prefetch": 0}, {"cache_gigabytes": 0.0}, {"workers": 3}, {"prefetch": 1}):
        resumed = TrainBatches(cuts, tokenizer, CONFIG.model_copy(update=changes))
        resumed.load_state_dict(state)
        assert all(same(*pair) for pair in zip(islice(resumed, 12), expected, strict=True))


def test_targets_are_as_written_where_the_tokenizer_writes_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    written = {"0": "two one", "1": "One, two", "2": None}
    with build_corpus(tmp_path / "data", [{"name": "sines"}]) as corpus:
        for name, text in written.items():
            corpus.add("dev", name, "en", "one two", tone(0.3), written=text)
    for asked, expected in ((True, "two one"), (False, "one two")):
        (batch,) = eval_batches(load_cuts(tmp_path / "data", "dev"), tokenizer, written=asked)
        assert batch.texts == ["one two"] * 3  # which are scored
        targets = [row[:size].tolist() for row, size in zip(batch.targets, batch.target_lengths, strict=True)]
        assert targets == [tokenizer.encode(text, "en") for text in (expected, "one two", "one two")]


def test_train_batches_are_homogeneous_padded_and_augmented(corpus: Path, tokenizer: Tokenizer) -> None:
    batches = TrainBatches(load_cuts(corpus, "train"), tokenizer, CONFIG)
    plain = TrainBatches(load_cuts(corpus, "train"), tokenizer, DataConfig(max_seconds=4.0, spec_augment=None))
    masked = 0
    languages = set()
    for batch, clean in islice(zip(batches, plain, strict=True), 20):
        languages.add(batch.language)
        assert batch.ids == clean.ids and all(name.startswith(batch.language) for name in batch.ids)
        size, frames, bins = batch.features.shape
        assert bins == 80 and len(batch) == size == len(batch.texts)
        assert frames == batch.feature_lengths.max() and batch.targets.shape[1] == batch.target_lengths.max()
        for index in range(size):
            assert not batch.features[index, batch.feature_lengths[index] :].any()
            ids = batch.targets[index, : batch.target_lengths[index]].tolist()
            assert tokenizer.decode(ids) == batch.texts[index]
        masked += not torch.equal(batch.features, clean.features)
    assert masked > 10
    assert languages == {"en", "fr"}


def test_speed_perturbation_changes_length(corpus: Path, tokenizer: Tokenizer) -> None:
    cuts = [cut for cut in load_cuts(corpus, "train", ["en"]) if cut.id == "en-train-07"]
    lengths = {}
    for speed in (0.8, 1.0, 1.25):
        config = DataConfig(speed_factors=(speed,), spec_augment=None)
        lengths[speed] = int(next(iter(TrainBatches(cuts, tokenizer, config))).feature_lengths[0])
    assert lengths == {0.8: 125, 1.0: 100, 1.25: 80}


def test_eval_batches_cover_everything_once_in_order(corpus: Path, tokenizer: Tokenizer) -> None:
    cuts = load_cuts(corpus, "train")
    batches = list(eval_batches(cuts, tokenizer, max_seconds=3.0))
    ids = [name for batch in batches for name in batch.ids]
    assert sorted(ids) == sorted(cut.id for cut in cuts) and len(batches) > 4
    assert [batch.language for batch in batches] == sorted(batch.language for batch in batches)
    for batch in batches:
        assert batch.features.shape[0] * batch.features.shape[1] <= 300
        assert batch.feature_lengths.tolist() == sorted(batch.feature_lengths.tolist())
    cut = next(cut for cut in cuts if cut.id == batches[0].ids[0])
    expected = Fbank()(read_audio(Path(cut.recording.sources[0].source)))
    assert torch.equal(batches[0].features[0, : len(expected)], expected)


def test_eval_batches_without_tokenizer(corpus: Path) -> None:
    batch = next(eval_batches(load_cuts(corpus, "dev")))
    assert batch.targets.shape == (3, 0) and batch.target_lengths.tolist() == [0, 0, 0]
    assert batch.to("cpu").ids == batch.ids and batch.seconds == pytest.approx(0.3 + 0.4 + 0.5)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_what_is_broken_is_left_out_of_training_and_named(tmp_path: Path, tokenizer: Tokenizer, prefetch: int) -> None:
    folder = make_corpus(tmp_path / "data", ("en",))
    whole = {
        identifier
        for batch in islice(TrainBatches(load_cuts(folder, "train"), tokenizer, DataConfig(max_seconds=2)), 60)
        for identifier in batch.ids
    }
    (folder / "audio/en/en-train-03.flac").write_bytes(b"fLaC garbage")
    (folder / "audio/en/en-train-05.flac").unlink()
    left_out = LeftOut(2)
    config = DataConfig(prefetch=prefetch, max_seconds=2)
    batches = TrainBatches(load_cuts(folder, "train"), tokenizer, config, left_out=left_out)
    drawn = {identifier for batch in islice(batches, 60) for identifier in batch.ids}
    assert whole - drawn == {"en-train-03", "en-train-05"} == left_out.reasons.keys()
    assert re.fullmatch(r"utterance en-train-03: .*en-train-03\.flac: not readable.*", left_out.reasons["en-train-03"])
    assert len(left_out.new_reasons()) == 2 and left_out.new_reasons() == []
    few = TrainBatches(load_cuts(folder, "train"), tokenizer, config.model_copy(update={"max_left_out": 1}))
    with pytest.raises(
        PathwaysError, match=r"utterance en-.*: 2 utterances cannot be used, giving up \(max_left_out: 1"
    ):
        for _ in islice(few, 60):
            pass


def test_where_a_whole_batch_is_broken_the_next_utterance_stands_in(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_corpus(tmp_path / "data", ("en",))
    files = sorted((folder / "audio/en").glob("en-train-*.flac"))
    for path in files[1:]:
        path.write_bytes(b"")
    config = DataConfig(max_seconds=0.5, prefetch=0)
    assert {tuple(b.ids) for b in islice(TrainBatches(load_cuts(folder, "train"), tokenizer, config), 20)} == {
        ("en-train-00",)
    }
    files[0].unlink()
    with pytest.raises(PathwaysError, match=r"none of the \d+ utterances of en can be used: utterance en-train-"):
        next(iter(TrainBatches(load_cuts(folder, "train"), tokenizer, config)))


def test_evaluation_leaves_out_only_what_it_may(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_corpus(tmp_path / "data", ("en", "fr"))
    (folder / "audio/en/en-train-03.flac").write_bytes(b"fLaC garbage")
    with pytest.raises(PathwaysError, match=r"utterance en-train-03: .*en-train-03\.flac: not readable"):
        list(eval_batches(load_cuts(folder, "train"), tokenizer))
    left_out = LeftOut(9)
    found = {
        one for batch in eval_batches(load_cuts(folder, "train"), tokenizer, left_out=left_out) for one in batch.ids
    }
    assert "en-train-03" not in found and len(found) == len(load_cuts(folder, "train")) - 1
    assert list(left_out.reasons) == ["en-train-03"]
    for path in (folder / "audio/en").glob("*"):
        path.unlink()
    with pytest.raises(
        PathwaysError, match=r"none of the \d+ utterances of en can be used: utterance en-train-\d+: .*no such"
    ):
        list(eval_batches(load_cuts(folder, "train"), tokenizer, left_out=LeftOut(99)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration": 2.5}, r"utterance en-train-01: .*\.flac: 0.\d\d s of audio where 2.50 s should be"),
        ({"text": "a" * 99}, r"utterance en-train-01: 99 letters in 0.\d\d s: the text cannot be spoken in it"),
    ],
)
def test_a_row_that_does_not_fit_its_audio_is_left_out(
    corpus: Path, tokenizer: Tokenizer, change: dict[str, Any], reason: str
) -> None:
    (cut,) = [cut for cut in load_cuts(corpus, "train") if cut.id == "en-train-01"]
    cut.duration = change.get("duration", cut.duration)
    cut.supervisions[0].text = change.get("text", cut.supervisions[0].text)
    others = [cut for cut in load_cuts(corpus, "train") if cut.id == "en-train-02"]
    batches = TrainBatches([cut, *others], tokenizer, DataConfig(max_seconds=9, prefetch=0, speed_factors=(1.0,)))
    assert next(iter(batches)).ids == ["en-train-02"]
    (found,) = batches.left_out.reasons.values()
    assert re.fullmatch(reason, found)


def test_leaving_the_loop_ends_the_thread(corpus: Path, tokenizer: Tokenizer) -> None:
    running = iter(TrainBatches(load_cuts(corpus, "train"), tokenizer, CONFIG))
    next(running)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    running.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_a_usual_batch_is_as_large_as_the_mean(corpus: Path, tokenizer: Tokenizer) -> None:
    config = DataConfig(max_seconds=2, prefetch=0, spec_augment=None, speed_factors=(1.0,))
    batches = TrainBatches(load_cuts(corpus, "train"), tokenizer, config)
    before = batches.state_dict()
    usual = batches.usual()
    assert batches.state_dict() == before

    def size(batch: Batch) -> float:
        return len(batch) * int(batch.feature_lengths.max())

    sizes = [size(batch) for batch in islice(batches, 64)]
    mean = sum(sizes) / len(sizes)
    assert abs(size(usual) - mean) == pytest.approx(min(abs(one - mean) for one in sizes), abs=len(usual))


def test_no_cuts_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(PathwaysError, match="no utterances"):
        TrainBatches([], tokenizer, CONFIG)


def test_joined_rows_hold_the_same_speech_in_order(corpus: Path, tokenizer: Tokenizer) -> None:
    batch = max(eval_batches(load_cuts(corpus, "train"), tokenizer), key=len)
    frames, tokens = int(batch.feature_lengths.max()) * 2, int(batch.target_lengths.max()) * 3
    fewer = joined(batch, lambda f, t: "too long" if f > frames or len(t) > tokens else None)
    assert 1 < len(fewer) < len(batch) and fewer.language == batch.language
    assert int(fewer.feature_lengths.max()) <= frames and int(fewer.target_lengths.max()) <= tokens
    assert "+".join(fewer.ids) == "+".join(batch.ids) and " ".join(fewer.texts) == " ".join(batch.texts)
    for name in ("feature", "target"):
        rows = [
            torch.cat([row[:length] for row, length in zip(values, lengths.tolist(), strict=True)])
            for one in (batch, fewer)
            for values, lengths in [(getattr(one, f"{name}s"), getattr(one, f"{name}_lengths"))]
        ]
        assert torch.equal(*rows)
    assert same(joined(batch, lambda f, t: "never fits"), batch)
    apart = joined(batch, lambda f, t: None, alone=2)
    assert apart.ids == [*batch.ids[:2], "+".join(batch.ids[2:])]
    assert joined(batch, lambda f, t: None).ids == ["+".join(batch.ids)]
