from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.export.graphs import build_graphs
from asr_pathways.export.onnx import TOLERANCE, export_onnx, open_graphs
from asr_pathways.model_folder.model import AsrModel, HubCard
from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from tests.conftest import PIECES, make_model
from tests.pruned import FIVE, pruned

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

LAYOUTS = {
    "no caches": {"front_end": "stack", "left_context": 0, "right_context": 0, "conv_kernel": 0},
    "short segments": {"front_end": "conv", "segment": 1, "left_context": 6, "right_context": 2, "conv_kernel": 1},
}


def test_one_language(five: AsrModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in five.model.state_dict().items()}
    exported = export_onnx(five, tmp_path / "fr", ["fra"])
    assert exported.languages == ("fr",)
    assert exported.difference < 1e-4
    assert sorted(path.name for path in (tmp_path / "fr").iterdir()) == [
        "config.json",
        "decoder.onnx",
        "encoder.onnx",
        "joiner.onnx",
        "tokens.txt",
    ]
    encoder, decoder, joiner = open_graphs(tmp_path / "fr")
    assert [one.name for one in encoder.get_inputs()] == [
        "audio_signal",
        "length",
        "cache_last_channel",
        "cache_last_time",
        "cache_last_channel_len",
    ]
    assert [one.shape for one in decoder.get_inputs()] == [["batch", 1], ["batch"], [1, "batch", 16], [1, "batch", 16]]
    assert joiner.get_outputs()[0].shape == ["batch", 1, 1, PIECES + 1]
    config = json.loads((tmp_path / "fr" / "config.json").read_text())
    assert (config["languages"], config["selects_language"], config["blank"]) == (["fr"], False, PIECES)
    assert all(torch.equal(value, before[name]) for name, value in five.model.state_dict().items())


def test_all_languages_share_the_weights(five: AsrModel, tmp_path: Path) -> None:
    exported = export_onnx(five, tmp_path / "all")
    assert exported.languages == FIVE
    assert exported.difference < 1e-4
    encoder, decoder, _ = open_graphs(tmp_path / "all")
    assert encoder.get_inputs()[5].name == "prompt_index"
    about = encoder.get_modelmeta().custom_metadata_map
    assert json.loads(about["prompt_dictionary"]) == {"en": 0, "es": 1, "fr": 2, "it": 3, "ru": 4}
    assert (about["vocab_size"], about["window_size"], about["chunk_shift"]) == (str(PIECES), "20", "16")
    assert decoder.get_inputs()[2].shape == [1, "batch", 5 * 16]
    tokens = (tmp_path / "all" / "tokens.txt").read_text().splitlines()
    assert (len(tokens), tokens[-1]) == (PIECES + 1, f"<blk> {PIECES}")


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(tokenizer: Tokenizer, tmp_path: Path, layout: str) -> None:
    encoder = EmformerConfig.model_validate({"dim": 16, "ffn_dim": 32, "heads": 2, "layers": 2, **LAYOUTS[layout]})
    options = {
        "encoder": encoder,
        "predictor_layers": 2,
        "language_embedding": ("fr", "en"),
    }  # in another order than the languages
    asr = make_model(tokenizer, **options)
    exclude = matching(asr.model, (*asr.model.unprunable, "encoder.layers.0"))
    config = PathwayConfig(sparsity=0.5, exclude=exclude)
    asr.pathways = Pathways.attach(asr.model, config, asr.languages)
    asr.pathways.set_mask("fr", {name: ~mask for name, mask in asr.pathways.mask("en").items()})
    assert export_onnx(asr, tmp_path / "out").difference < 1e-4


def test_a_dense_model_and_pathways_that_are_all_the_same_have_no_choice(tokenizer: Tokenizer, tmp_path: Path) -> None:
    dense = make_model(tokenizer)
    assert export_onnx(dense, tmp_path / "dense").difference < 1e-4
    dense.pathways = Pathways.attach(
        dense.model, PathwayConfig(sparsity=0.5, exclude=dense.model.unprunable), dense.languages
    )
    assert not build_graphs(dense, None).encoder.selects


def test_predictors_with_the_same_mask_are_one(tokenizer: Tokenizer) -> None:
    asr = pruned(tokenizer)
    assert build_graphs(asr, None).predictor.count == 5
    assert asr.pathways is not None
    mask = asr.pathways.mask("en")
    for language in FIVE:
        same = {name: mask[name] for name in mask if name.startswith("predictor.")}
        asr.pathways.set_mask(language, {**asr.pathways.mask(language), **same})
    graphs = build_graphs(asr, None)
    assert (graphs.predictor.count, graphs.encoder.selects) == (1, True)


def test_a_language_that_was_added_is_exported_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = pruned(tokenizer, ("en", "fr"))
    assert asr.pathways is not None
    asr.pathways.add("ru")
    new = Tokenizer.train(["да нет", "нет да", "один два да"], 12)
    asr.tokenizer = TokenizerFamily(tokenizer, {"ru": ExtendedTokenizer(tokenizer, new)})
    asr.card = asr.card.model_copy(update={"added": ("ru",)})
    asr.pathways.set_language_tensors("ru", asr.model.grown(new.vocab_size))
    with pytest.raises(PathwaysError, match=r"ru was added and has tensors of its own: export it alone"):
        export_onnx(asr, tmp_path / "all")
    assert export_onnx(asr, tmp_path / "ru", ["ru"]).difference < 1e-4
    tokens = (tmp_path / "ru" / "tokens.txt").read_text().splitlines()
    assert len(tokens) == PIECES + 12 + 1
    assert tokens[-1] == f"<blk> {PIECES + 12}"
    assert build_graphs(asr, ["en", "fr"]).encoder.selects


def test_an_export_that_differs_is_not_written(five: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(asr: AsrModel, languages: object) -> object:
        graphs = build_graphs(asr, ["fr"])
        graphs.joiner.joiner.output.bias += 2 * TOLERANCE
        return graphs

    monkeypatch.setattr("asr_pathways.export.onnx.build_graphs", wrong)
    with pytest.raises(PathwaysError, match=r"differ from the model's by 0\.002: nothing written"):
        export_onnx(five, tmp_path / "fr")
    assert list(tmp_path.iterdir()) == []


class Other(torch.nn.Module):
    """Not a transducer of ours."""


def hub(five: AsrModel) -> AsrModel:
    return AsrModel(Other(), five.tokenizer, HubCard())  # type: ignore[arg-type]


def nameless(five: AsrModel) -> AsrModel:
    return AsrModel(five.model, five.tokenizer, five.card.model_copy(update={"languages": ()}))


def full(five: AsrModel) -> AsrModel:
    return five


@pytest.mark.parametrize(
    ("asr", "languages", "words"),
    [
        (
            hub,
            None,
            "only the transducers of this package are exported to ONNX; for a model from elsewhere",
        ),
        (nameless, None, "name them, such as --languages fr"),
        (full, ["cs"], "unknown language 'cs': this model knows en es fr it ru"),
    ],
)
def test_what_cannot_be_exported(
    five: AsrModel,
    tmp_path: Path,
    asr: Callable[[AsrModel], AsrModel],
    languages: list[str] | None,
    words: str,
) -> None:
    with pytest.raises(PathwaysError, match=words):
        export_onnx(asr(five), tmp_path / "out", languages)
    assert not (tmp_path / "out").exists()


def test_masks_of_the_joiner_cannot_be_chosen(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = make_model(tokenizer)
    asr.pathways = Pathways.attach(asr.model, PathwayConfig(sparsity=0.5), asr.languages)
    mask = {name: ~mask for name, mask in asr.pathways.mask("en").items()}
    asr.pathways.set_mask("fr", mask)
    with pytest.raises(PathwaysError, match=r"masks of joiner\.encoding\.weight cannot be chosen in a graph"):
        export_onnx(asr, tmp_path / "out")


def test_a_model_in_training_is_exported_as_it_is(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = make_model(tokenizer)
    model = asr.model
    config = PathwayConfig(sparsity=0.5, score="activation", adapt_every=1, exclude=model.unprunable)
    asr.pathways = Pathways.attach(model, config, asr.languages)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    model.train()
    for language in asr.languages:
        with asr.use(language):
            model.encodings(torch.randn(2, 90, 80), torch.tensor([90, 80]))[0].sum().backward()
        optimizer.step()
        asr.pathways.step(optimizer)
    assert any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert export_onnx(asr, tmp_path / "out").difference < 1e-4
    assert model.training
    assert any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with asr.use("en"):
        model.encodings(torch.randn(2, 90, 80), torch.tensor([90, 80]))[0].sum().backward()
    optimizer.step()
    asr.pathways.step(optimizer)


def test_a_folder_with_files_in_it_is_left_alone(five: AsrModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(PathwaysError, match="has files in it"):
        export_onnx(five, tmp_path, ["fr"])
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_missing_packages_are_named(five: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.export.onnx.find_spec", lambda name: None)
    with pytest.raises(PathwaysError, match=r"exports need the package onnx: pip install 'asr-pathways\[export\]'"):
        export_onnx(five, tmp_path / "out")


def test_the_command_line_does_not_import_onnx() -> None:
    import subprocess

    code = (
        "import sys, asr_pathways.cli.main, asr_pathways.export.sherpa; "
        "print([n for n in sys.modules if n.split('.')[0] in ('onnx', 'onnxruntime', 'onnxscript', 'sherpa_onnx')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
