from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch

from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.export.onnx import Exported, export_onnx, open_graphs
from asr_pathways.export.onnx_modules import build_modules
from asr_pathways.model_folder.model import AsrModel, HubCard
from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from tests.conftest import PIECES, make_model
from tests.pruned import pruned

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

LAYOUTS = {
    "no caches": {"front_end": "stack", "left_context": 0, "right_context": 0, "conv_kernel": 0},
    "short segments": {"front_end": "conv", "segment": 1, "left_context": 6, "right_context": 2, "conv_kernel": 1},
}


def test_a_language_is_a_folder(exported_five: list[Exported]) -> None:
    folder = exported_five[0].folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "decoder.onnx",
        "encoder.onnx",
        "joiner.onnx",
        "tokens.txt",
    ]
    encoder, decoder, joiner = open_graphs(folder)
    assert [one.name for one in encoder.get_inputs()] == [
        "audio_signal",
        "length",
        "cache_last_channel",
        "cache_last_time",
        "cache_last_channel_len",
    ]
    assert [one.shape for one in decoder.get_inputs()] == [["batch", 1], ["batch"], [1, "batch", 16], [1, "batch", 16]]
    assert joiner.get_outputs()[0].shape == ["batch", 1, 1, PIECES + 1]
    config = json.loads((folder / "config.json").read_text())
    assert (config["languages"], config["blank"]) == (["fr"], PIECES)
    about = encoder.get_modelmeta().custom_metadata_map
    assert (about["vocab_size"], about["window_size"], about["chunk_shift"]) == (str(PIECES), "20", "16")
    tokens = (folder / "tokens.txt").read_text().splitlines()
    assert (len(tokens), tokens[-1]) == (PIECES + 1, f"<blk> {PIECES}")


def test_several_languages_are_a_folder_each(exported_five: list[Exported]) -> None:
    assert [(one.languages, one.folder.name) for one in exported_five] == [(("fr",), "fr"), (("en",), "en")]
    assert sorted(exported_five[0].folder.parent.iterdir()) == sorted(one.folder for one in exported_five)
    assert max(one.difference for one in exported_five) < 1e-4
    graphs = [(one.folder / "encoder.onnx").read_bytes() for one in exported_five]
    assert graphs[0] != graphs[1]


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(tokenizer: Tokenizer, tmp_path: Path, layout: str) -> None:
    encoder = EmformerConfig.model_validate({"dim": 16, "ffn_dim": 32, "heads": 2, "layers": 2, **LAYOUTS[layout]})
    asr = make_model(tokenizer, encoder=encoder, predictor_layers=2)
    exclude = matching(asr.model, (*asr.model.unprunable, "encoder.layers.0"))
    config = PathwayConfig(sparsity=0.5, exclude=exclude)
    asr.pathways = Pathways.attach(asr.model, config, asr.languages)
    asr.pathways.set_mask("fr", {name: ~mask for name, mask in asr.pathways.mask("en").items()})
    (exported,) = export_onnx(asr, tmp_path / "out", ["fr"])
    assert (exported.languages, exported.folder) == (("fr",), tmp_path / "out")
    assert exported.difference < 1e-4


def test_a_dense_model_is_one_for_all_its_languages(tokenizer: Tokenizer, tmp_path: Path) -> None:
    dense = make_model(tokenizer)
    (exported,) = export_onnx(dense, tmp_path / "dense")
    assert (exported.languages, exported.folder) == (dense.languages, tmp_path / "dense")
    assert exported.difference < 1e-4


def test_a_language_that_was_added_has_its_word_pieces(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = pruned(tokenizer, ("en", "fr"))
    assert asr.pathways is not None
    asr.pathways.add("ru")
    new = Tokenizer.train(["да нет", "нет да", "один два да"], 12)
    asr.tokenizer = TokenizerFamily(tokenizer, {"ru": ExtendedTokenizer(tokenizer, new)})
    asr.card = asr.card.model_copy(update={"added": ("ru",)})
    asr.pathways.set_language_tensors("ru", asr.model.grown(new.vocab_size))
    assert export_onnx(asr, tmp_path / "ru", ["ru"])[0].difference < 1e-4
    tokens = (tmp_path / "ru" / "tokens.txt").read_text().splitlines()
    assert len(tokens) == PIECES + 12 + 1
    assert tokens[-1] == f"<blk> {PIECES + 12}"
    assert len(build_modules(asr, ["en"]).symbols) == PIECES + 1


def test_an_export_that_differs_is_not_written(
    five: AsrModel, exported_five: list[Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    english = exported_five[1].folder
    monkeypatch.setattr(
        "asr_pathways.export.onnx.write_graphs", lambda _, out: copytree(english, out, dirs_exist_ok=True)
    )
    with pytest.raises(PathwaysError, match=r"differ from the model's by \S+: nothing written"):
        export_onnx(five, tmp_path / "fr", ["fr"])
    assert list(tmp_path.iterdir()) == []


def test_of_several_languages_all_are_written_or_none(
    five: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differences = iter([1e-6, float("inf")])
    monkeypatch.setattr("asr_pathways.export.onnx.write_graphs", lambda modules, folder: None)
    monkeypatch.setattr("asr_pathways.export.onnx.largest_difference", lambda asr, modules, folder: next(differences))
    with pytest.raises(PathwaysError, match="by inf: nothing written"):
        export_onnx(five, tmp_path / "some", ["fr", "it"])
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
    assert export_onnx(asr, tmp_path / "out", ["fr"])[0].difference < 1e-4
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
