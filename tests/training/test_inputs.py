"""What a run reads of its data folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import build_corpus, cut_row, load_cuts, sources_of
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.training.inputs import Inputs, choose_masks, feature_statistics, tokenizer_texts
from asr_pathways.training.run import Run, launch
from tests.conftest import make_model, tiny_config
from tests.models.hub.tiny import whisper
from tests.training.helpers import dev_batches, loop_config, one, rms_of_inputs


def unaugmented(inputs: Inputs, asr: AsrModel) -> Iterator[Batch]:
    """The train split without augmentation."""
    return eval_batches(inputs.cuts, asr.tokenizer, frontend=asr.model.frontend)


def test_word_pieces_are_trained_on_a_spread_of_texts(speech: Path) -> None:
    cuts = list(load_cuts(speech, "train"))
    texts = [cut.supervisions[0].text for cut in cuts]
    assert tokenizer_texts(cuts) == tokenizer_texts(cuts, 10) == texts
    assert tokenizer_texts(cuts, 5) == texts[::2]
    assert tokenizer_texts(cuts, 3) == [text for start in (0, 10) for text in texts[start : start + 10 : 4]]


def test_statistics_are_of_the_frames_without_padding(speech: Path, tokenizer: Tokenizer) -> None:
    asr = make_model(tokenizer)
    batches = dev_batches(speech, asr, 0)
    assert [(batch.language, len(batch)) for batch in batches] == [("en", 2), ("fr", 2)]
    frames = torch.cat([f[:n] for b in batches for f, n in zip(b.features, b.feature_lengths.tolist(), strict=True)])
    mean, deviation = feature_statistics(load_cuts(speech, "dev"), asr.card.features)
    torch.testing.assert_close(mean, frames.mean(dim=0))
    torch.testing.assert_close(deviation, frames.std(dim=0))


def test_dev_utterances_are_the_first_of_each_language(speech: Path, tokenizer: Tokenizer) -> None:
    batches = dev_batches(speech, make_model(tokenizer), 1)
    assert [batch.ids for batch in batches] == [["en-dev-0"], ["fr-dev-0"]]
    assert [batch.ids for batch in dev_batches(speech, make_model(tokenizer, ("fr",)), 1)] == [["fr-dev-0"]]


def test_models_of_free_text_learn_case_and_punctuation(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    """Where the manifest has them: others, and utterances whose written text is not known, have normalised texts."""
    written = {"en-train-0": "Two, 2."}
    with build_corpus(tmp_path / "data", sources_of(speech)) as corpus:
        for split in ("train", "dev"):
            for cut in load_cuts(speech, split, ["en"]):
                spoken, audio = cut.supervisions[0], cut.recording.sources[0].source
                row = cut_row(cut.id, audio, cut.num_samples, "en", spoken.text, None, written=written.get(cut.id))
                corpus.add_row(split, row)
    texts = {cut.id: cut.supervisions[0].text for cut in load_cuts(tmp_path / "data", "train")}
    for asr, expected in (
        (load_model(whisper(tmp_path / "whisper")), texts | written),
        (make_model(tokenizer, ("en",)), texts),
    ):
        config = loop_config(2)
        run = Run(tmp_path / "run", config, launch(config))
        targets = Inputs(run, tmp_path / "data", ["en"]).of(asr).batches.targets()["en"]
        assert targets == {name: tuple(asr.tokenizer.encode(text, "en")) for name, text in expected.items()}


@pytest.mark.parametrize("front_end", ["stack", "conv"])
def test_padding_is_not_in_the_statistics_of_inputs(speech: Path, tokenizer: Tokenizer, front_end: str) -> None:
    """One batch against one utterance at a time: the same, but for an LSTM between others, whose last state it is."""
    encoder = tiny_config().encoder.model_copy(update={"front_end": front_end})
    asr = make_model(tokenizer, encoder=encoder)
    cuts = load_cuts(speech, "train", ["fr"])
    (batch,) = list(eval_batches(cuts, asr.tokenizer, frontend=asr.model.frontend))
    assert len(set(batch.feature_lengths.tolist())) > 1 and len(set(batch.target_lengths.tolist())) > 1
    together = rms_of_inputs(asr, [batch])
    apart = rms_of_inputs(asr, [one(batch, row) for row in range(len(batch))])
    assert len(together) > 10
    for name, rms in together.items():
        if not re.search(r"lstm.weight_(hh_l0|ih_l1)", name):
            torch.testing.assert_close(rms, apart[name], rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_calibration_batches_are_plain_and_of_one_language(speech: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = loop_config(1)
    assert config.data.spec_augment is not None and len(config.data.speed_factors) > 1
    asr = make_model(tokenizer)
    inputs = Inputs(Run(tmp_path, config, launch(config)), speech)
    assert inputs.languages == ("en", "fr") and inputs.attribution == ("Sines by nobody",)
    plain = {
        identifier: features[:length]
        for batch in unaugmented(inputs, asr)
        for identifier, features, length in zip(batch.ids, batch.features, batch.feature_lengths, strict=True)
    }
    drawn = inputs.calibration(asr, "fr")
    seen = set()
    for _ in range(20):
        batch = next(drawn)
        assert batch.language == "fr"
        for identifier, features, length in zip(batch.ids, batch.features, batch.feature_lengths, strict=True):
            torch.testing.assert_close(features[:length], plain[identifier], rtol=1e-3, atol=0.02)  # kept as float16
            seen.add(identifier)
    assert len(seen) == 10
    inputs.select(["en"])
    assert inputs.languages == ("en",)


def test_masks_by_fisher_are_of_the_batches_of_calibration(speech: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Against the square of gradients of single frames, padding left out; no gradient is left in the model."""
    config, name = loop_config(0, data={"max_seconds": 5.0, "prefetch": 0}), "encoder.front_end.projection"
    asr = make_model(tokenizer)
    pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.5, score="fisher", include=(name,)), ["fr"])
    inputs = Inputs(Run(tmp_path, config, launch(config)), speech)
    choose_masks(replace(asr, pathways=pathways), inputs, ["fr"], 2)
    assert all(parameter.grad is None for parameter in asr.model.parameters())

    layer, total, sizes = asr.model.network.get_submodule(name), torch.zeros(()), set()
    kept: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, inputs, output: kept.extend((inputs[0], output)))
    for batch in islice(inputs.calibration(asr, "fr"), 2):
        kept.clear()
        gradient = torch.autograd.grad(asr.model.loss(batch), kept[1])[0]
        x = kept[0].detach()
        with torch.no_grad():
            lengths = asr.model.encodings(batch.features, batch.feature_lengths, "fr")[1].tolist()
        for row, size in enumerate(lengths):
            total = total + torch.einsum("ti,tj->ij", gradient[row, :size].square(), x[row, :size].square())
        sizes |= set(lengths)
    assert len(sizes) > 1
    scores = layer.weight.detach().abs() * total.sqrt()
    mask = pathways.mask("fr")[f"{name}.weight"]
    assert mask.sum() == mask.numel() // 2 and scores[mask].min() >= scores[~mask].max() * (1 - 1e-4)
