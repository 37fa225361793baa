"""CTC models against transformers' own loss, and MMS against its own switching of adapters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCTC, Wav2Vec2ForCTC

from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.language_id import embed
from asr_pathways.models.hub.base import HubModel
from asr_pathways.models.hub.ctc import Ctc, Mms, mms_codes
from asr_pathways.models.speech_model import within_lengths
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.models.hub import tiny
from tests.models.hub.test_hub import PADDED, batches_of
from tests.training.helpers import one, rms_of_inputs

Maker = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wav2vec2_bert", "parakeet_ctc"])
def test_loss_is_that_of_transformers(kind: str, hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder(kind))
    batch = batches_of(asr, speech, "en")[-1]
    hub = AutoModelForCTC.from_pretrained(hub_folder(kind)).eval()
    hub.config.ctc_loss_reduction, hub.config.ctc_zero_infinity = "sum", True
    inputs = {hub.main_input_name: batch.features}
    if kind != "wav2vec2":
        inputs["attention_mask"] = within_lengths(batch.feature_lengths, batch.features.shape[1]).long()
    padding = ~within_lengths(batch.target_lengths, batch.targets.shape[1])
    labels = batch.targets.masked_fill(padding, hub.config.pad_token_id if kind == "parakeet_ctc" else -100)
    if kind == "wav2vec2":  # transformers takes the lengths from the mask, which this model must not see
        inputs = {hub.main_input_name: batch.features[-1:]}
        labels = labels[-1:]
        expected = hub(**inputs, labels=labels).loss.item() / labels.shape[1]
        assert batch.feature_lengths[-1] == batch.features.shape[1]
        assert asr.model.loss(one(batch, len(batch) - 1)).item() == pytest.approx(expected, rel=1e-5)
        return
    expected = hub(**inputs, labels=labels).loss.item() / int(batch.target_lengths.sum())
    assert asr.model.loss(batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of transformers' own
def test_the_attention_of_wavlm_calls_its_linear_layers_and_is_that_of_transformers(
    speech: Path, tmp_path: Path
) -> None:
    """There no hook of them is called: in every language they were pruned by magnitude, and not refitted."""
    asr = load_model(tiny.wave(tmp_path / "model", "WavLM"))
    batch = batches_of(asr, speech, "en")[-1]
    assert len(set(batch.feature_lengths.tolist())) > 1
    mask = within_lengths(batch.feature_lengths, batch.features.shape[1]).long()
    hub = AutoModelForCTC.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        expected = hub(batch.features, attention_mask=mask).logits
        found, lengths = asr.model.logits(batch.features, batch.feature_lengths, "en")
    valid = within_lengths(lengths, found.shape[1])
    torch.testing.assert_close(found[valid], expected[valid], rtol=1e-4, atol=1e-5)
    config = PathwayConfig(sparsity=0.5, exclude=("lm_head",))
    assert rms_of_inputs(asr, [batch]).keys() == set(Pathways.attach(hub, config, ["en"]).names)


UNEVEN = {
    "group norm": ("Wav2Vec2", {"feat_extract_norm": "group"}),
    "group norm and mask": ("Hubert", {"feat_extract_norm": "group", "mask": True}),
    "adapter": ("Wav2Vec2", {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 16}),
    "conformer": ("Wav2Vec2Conformer", {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 3}),
    "stacked positions": ("Data2VecAudio", {"conv_kernel": (10, 3, 3, 3, 3, 2, 2)}),
    "squeezed": ("SEW", {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, *6 * [2]), "squeeze_factor": 2}),
}
"""Models whose convolutions or means take padding in, or whose encodings are of other frames than their scores."""


@pytest.mark.parametrize("how", UNEVEN)
def test_what_is_found_does_not_depend_on_the_batch(how: str, tmp_path: Path) -> None:
    kind, options = UNEVEN[how]
    model = load_model(tiny.wave(tmp_path / "model", kind, **options)).model
    generator = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(count, generator=generator) for count in (16_000, 6000, 16_000)]
    features, lengths = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([16_000, 6000, 16_000])
    together, embedded = model.decode(features, lengths, "en"), embed(model, features, lengths, "en")
    for row, wave in enumerate(waves):
        alone = wave[None], torch.tensor([len(wave)])
        assert together[row] == model.decode(*alone, "en")[0]
        torch.testing.assert_close(embedded[row], embed(model, *alone, "en")[0], rtol=1e-3, atol=1e-3)
    assert any(together)


def test_an_adapter_that_leaves_out_frames_comes_after_the_encodings(speech: Path, tmp_path: Path) -> None:
    """As in most Wav2Vec2-BERT models with a CTC output layer, whose scores are of every second frame."""
    options = {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": tiny.WIDTH["hidden_size"]}
    asr = load_model(tiny.wav2vec2_bert(tmp_path / "model", **options))
    batch = batches_of(asr, speech, "fr")[-1]
    texts = {"targets": batch.targets[:, :4], "target_lengths": batch.target_lengths.clamp(max=4)}
    even = batch.feature_lengths // 2 * 2  # the adapter's last frame of others has padding in it
    batch = replace(batch, feature_lengths=even, features=batch.features[:, : int(even.max())], **texts)
    assert len(set(even.tolist())) > 1
    _, lengths = asr.model.encodings(batch.features, batch.feature_lengths, "fr")
    assert lengths.tolist() == even.tolist()
    assert asr.model.prediction_lengths(batch).tolist() == [count // 2 for count in even.tolist()]
    together = rms_of_inputs(asr, [batch])
    apart = rms_of_inputs(asr, [one(batch, row) for row in range(len(batch))])
    differ = [n for n, rms in together.items() if not torch.allclose(rms, apart[n], rtol=1e-3, atol=1e-5)]
    assert [n for n in differ if not re.search(rf"{PADDED}|adapter\..*_conv\.", n)] == []


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "mms", "parakeet_ctc", "parakeet_rnnt"])
def test_texts_come_back(kind: str, hub_folder: Maker) -> None:
    codec = load_model(hub_folder(kind)).tokenizer
    for text, language in (("three one", "en"), ("quatre deux", "fr"), ("three", "en")):
        ids = codec.encode(text, language)
        assert codec.decode(ids, language) == text


def test_search_drops_repetitions_and_blanks(hub_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(hub_folder("hubert")).model
    assert isinstance(model, Ctc)
    best = torch.tensor([[0, 5, 5, 0, 5, 6, 6], [7, 7, 0, 0, 9, 9, 9]])
    scores = torch.nn.functional.one_hot(best, 20).float()
    monkeypatch.setattr(model, "logits", lambda *_: (scores, torch.tensor([7, 4])))
    assert model.decode(torch.zeros(2, 1), torch.tensor([1, 1]), "en") == [[5, 5, 6], [7]]
    first, second = model.aligned(torch.zeros(2, 1), torch.tensor([1, 1]), "en")
    assert first.spans == [(1, 3), (4, 5), (5, 7)] and second.spans == [(0, 2)]
    scores[0, 2] *= 3
    probabilities = scores[0].softmax(-1).amax(-1).tolist()
    (path, _) = model.aligned(torch.zeros(2, 1), torch.tensor([1, 1]), "en")
    assert path.probabilities == pytest.approx([sum(probabilities[1:3]) / 2, probabilities[4], probabilities[5]])


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2_bert", "parakeet_ctc", "parakeet_tdt"])
def test_frames_have_the_seconds_of_their_stride(hub_folder: Maker, kind: str) -> None:
    model = load_model(hub_folder(kind)).model
    assert isinstance(model, HubModel)
    seconds = {"wav2vec2": 0.02, "wav2vec2_bert": 0.02, "parakeet_ctc": 0.02, "parakeet_tdt": 0.04}[kind]
    assert model.frame_seconds == pytest.approx(seconds)


def test_mms_uses_the_adapter_of_the_language(hub_folder: Maker, speech: Path) -> None:
    asr = load_model(hub_folder("mms"))
    model = asr.model
    assert isinstance(model, Mms) and model.languages == ("en", "fr")
    for language, code in (("fr", "fra"), ("en", "eng"), ("fr", "fra")):
        batch = batches_of(asr, speech, language)[0]
        found, _ = model.logits(batch.features, batch.feature_lengths, language)
        theirs = Wav2Vec2ForCTC.from_pretrained(hub_folder("mms"), target_lang=code, ignore_mismatched_sizes=True)
        mask = within_lengths(batch.feature_lengths, batch.features.shape[1]).long()
        expected = theirs.eval()(input_values=batch.features, attention_mask=mask).logits
        torch.testing.assert_close(found, expected)


def test_mms_trains_and_keeps_its_adapters(hub_folder: Maker, speech: Path, tmp_path: Path) -> None:
    asr = load_model(hub_folder("mms"))
    asr.model.load_languages(["fr"])
    batch = batches_of(asr, speech, "fr")[0]
    head = asr.model.get_submodule("heads.fra")
    asr.model.loss(batch).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.5)
    save_model(tmp_path, asr)
    assert not (tmp_path / "adapter.eng.safetensors").exists()
    again = load_model(tmp_path)
    torch.testing.assert_close(again.model.loss(batch), asr.model.loss(batch))


def test_a_missing_or_foreign_adapter_is_one_line(hub_folder: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "mms"
    shutil.copytree(hub_folder("mms"), folder)
    (folder / "adapter.fra.safetensors").unlink()
    model = load_model(folder).model
    with pytest.raises(PathwaysError, match=r"no adapter\.fra\.safetensors: put the adapter"):
        model.load_languages(["fr"])
    (folder / "adapter.fra.safetensors").write_bytes(b"broken")
    with pytest.raises(PathwaysError, match=r"adapter\.fra\.safetensors: cannot read"):
        model.load_languages(["fr"])
    with pytest.raises(PathwaysError, match="unknown language 'de': this model knows en fr"):
        model.load_languages(["de"])


def test_the_second_script_of_a_language_keeps_its_own_code() -> None:
    names = ["fra", "uzb-script_cyrillic", "uzb-script_latin"]
    codes = mms_codes(SimpleNamespace(vocab={name: {} for name in names}))
    assert codes == {"fr": "fra", "uz": "uzb-script_cyrillic", "uzb-script_latin": "uzb-script_latin"}
