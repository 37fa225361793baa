from __future__ import annotations

import json
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

from asr_pathways.data.audio import read_audio
from asr_pathways.data.batches import Batch, DataConfig, eval_batches, train_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.features import Fbank
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from tests.data.conftest import WORDS, make_corpus

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
    batches = train_batches(cuts, tokenizer, CONFIG)
    running = iter(batches)
    for _ in islice(running, steps):
        pass
    state = json.loads(json.dumps(batches.state_dict()))
    expected = list(islice(running, 12))
    for changes in ({}, {"prefetch": 0}, {"cache_gigabytes": 0.0}):
        resumed = train_batches(cuts, tokenizer, CONFIG.model_copy(update=changes))
        resumed.load_state_dict(state)
        assert all(same(*pair) for pair in zip(islice(resumed, 12), expected, strict=True))


def test_train_batches_are_homogeneous_padded_and_augmented(corpus: Path, tokenizer: Tokenizer) -> None:
    batches = train_batches(load_cuts(corpus, "train"), tokenizer, CONFIG)
    plain = train_batches(load_cuts(corpus, "train"), tokenizer, DataConfig(max_seconds=4.0, spec_augment=None))
    masked = 0
    for batch, clean in islice(zip(batches, plain, strict=True), 20):
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
    assert batches.weights.keys() == {"en", "fr"}


def test_speed_perturbation_changes_length(corpus: Path, tokenizer: Tokenizer) -> None:
    cuts = [cut for cut in load_cuts(corpus, "train", ["en"]) if cut.id == "en-train-07"]
    lengths = {}
    for speed in (0.8, 1.0, 1.25):
        config = DataConfig(speed_factors=(speed,), spec_augment=None)
        lengths[speed] = int(next(iter(train_batches(cuts, tokenizer, config))).feature_lengths[0])
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
def test_broken_audio_names_utterance_and_file(tmp_path: Path, tokenizer: Tokenizer, prefetch: int) -> None:
    folder = make_corpus(tmp_path / "data", ("en",))
    (folder / "audio/en/en-train-03.flac").write_bytes(b"fLaC garbage")
    batches = train_batches(load_cuts(folder, "train"), tokenizer, DataConfig(prefetch=prefetch))
    with pytest.raises(PathwaysError, match=r"utterance en-train-03: .*en-train-03\.flac: not readable"):
        for _ in islice(batches, 20):
            pass
    with pytest.raises(PathwaysError, match="utterance en-train-03"):
        list(eval_batches(load_cuts(folder, "train"), tokenizer))


def test_leaving_the_loop_ends_the_thread(corpus: Path, tokenizer: Tokenizer) -> None:
    running = iter(train_batches(load_cuts(corpus, "train"), tokenizer, CONFIG))
    next(running)
    assert any(thread.name == "batches" for thread in threading.enumerate())
    running.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "batches" for thread in threading.enumerate())


def test_no_cuts_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(PathwaysError, match="no utterances"):
        train_batches([], tokenizer, CONFIG)
