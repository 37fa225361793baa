"""No target reaches a loss that the model has no score of, or that its frames are too few for: torch does not check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.data.corpus import build_corpus
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.ctc import Ctc
from asr_pathways.training.config import TrainRecipe
from asr_pathways.training.loop import LEFT_OUT, TrainingLoop
from asr_pathways.training.prune import prune
from asr_pathways.training.train import train
from tests.conftest import spoken
from tests.models.hub.test_hub import RECIPE, batches_of, recipe
from tests.models.hub.tiny import MAKERS, WORD_SETS
from tests.training.helpers import dev_batches

Maker = Callable[[str], Path]
OURS = "transducer"
KINDS = pytest.mark.parametrize("kind", [*MAKERS, OURS])


def loaded(kind: str, hub_folder: Maker, dense_model: Path) -> AsrModel:
    return load_model(dense_model if kind == OURS else hub_folder(kind))


@KINDS
def test_a_target_that_the_model_has_no_score_of_is_named(
    kind: str, hub_folder: Maker, dense_model: Path, speech: Path
) -> None:
    asr = loaded(kind, hub_folder, dense_model)
    for language in ("en", "fr"):
        batch = batches_of(asr, speech, language)[0]
        count = asr.model.symbols(language)
        wrong = [(count, "and the model has tokens 0 to"), (-1, "and the model has tokens 0 to")]
        wrong += [] if asr.model.blank is None else [(asr.model.blank, "which is the model's blank")]
        for target, reason in wrong:
            with pytest.raises(
                PathwaysError, match=f"^utterance {batch.ids[0]}: its text has token {target}, {reason}"
            ):
                asr.model.loss(with_target(batch, target))
        last = count - 1 if count - 1 != asr.model.blank else count - 2
        assert torch.isfinite(asr.model.loss(with_target(batch, last)))


def with_target(batch: Batch, target: int) -> Batch:
    targets = batch.targets.clone()
    targets[0, 0] = target
    return replace(batch, targets=targets)


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("command", ["train", "prune"])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_the_first_step(
    kind: str, command: str, hub_folder: Maker, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub_folder(kind), folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    size = load_model(folder).model.symbols("en")
    nested = kind == "mms"  # a vocabulary a language, which adding leaves as they are
    if nested:
        vocabulary = read_json(folder / "vocab.json")
        for code in WORD_SETS:
            vocabulary[code]["e"] = size + 9
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
    else:
        tokenizer.add_tokens([f"<filler {number}>" for number in range(size)] + ["three", "THREE"])
        tokenizer.save_pretrained(folder)
    monkeypatch.setattr(TrainingLoop, "_step", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(
        PathwaysError, match=r"^utterance en-train-\d: its text has token \d+, and the model has tokens 0"
    ):
        if command == "train":
            train(TrainRecipe.model_validate(RECIPE), speech, tmp_path / "run", init=folder)
        else:
            prune(folder, speech, tmp_path / "run", method="dynamic", sparsity=0.5, recipe=recipe())
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "wav2vec2_bert", "mms", "parakeet_ctc"])
def test_what_ctc_has_too_few_frames_for_is_named_and_what_just_fits_is_learned(kind: str, hub_folder: Maker) -> None:
    asr = load_model(hub_folder(kind))
    model = asr.model
    assert isinstance(model, Ctc)
    a, b = asr.tokenizer.encode("en", "en")[-2:]
    frames = model._frames_for(5)
    assert model.output_lengths(torch.tensor([frames - 1, frames])).tolist() == [4, 5]
    assert model.length_error(frames, [a, b, a, b, a]) is None
    assert model.length_error(frames, [a, a, b, b]) == (
        "a text of 4 tokens needs 6 frames of the model, and its audio has 5"
    )
    width = () if model.hub.main_input_name == "input_values" else model.frontend(torch.randn(16_000).numpy()).shape[1:]
    features, lengths = torch.randn((1, frames, *width)), torch.tensor([frames])
    batch = Batch("en", ["one"], ["x"], features, lengths, torch.tensor([[a, b, a, b, a]]), torch.tensor([5]))
    assert 0 < model.loss(batch).item() < float("inf")
    with pytest.raises(PathwaysError, match="utterance one: a text of 5 tokens needs 9 frames of the model"):
        model.loss(replace(batch, targets=torch.tensor([[a, a, a, a, a]])))


def test_training_leaves_out_what_ctc_has_too_few_frames_for(hub_folder: Maker, tmp_path: Path) -> None:
    """14 frames of the model in 0.3 s: 13 different letters would do."""
    with build_corpus(tmp_path / "data", [{"name": "sines", "licence": "none"}]) as corpus:
        for split in ("train", "dev", "test"):
            corpus.add(split, f"{split}-0", "en", "one two", spoken(["one", "two"], "en", 0))
            corpus.add(split, f"{split}-1", "en", "three three th", spoken(["one", "two"], "en", 1))
    out = tmp_path / "run"
    train(TrainRecipe.model_validate(RECIPE), tmp_path / "data", out, init=hub_folder("hubert"))
    reasons = read_json(out / LEFT_OUT)
    reason = "utterance train-1: a text of 14 tokens needs 16 frames of the model, and its audio has 14"
    assert reasons == {"train-1": reason}
    dev = dev_batches(tmp_path / "data", load_model(out), 0)  # decoding needs no such frames
    assert {utterance for batch in dev for utterance in batch.ids} == {"dev-0", "dev-1"}
