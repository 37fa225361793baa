"""Layers that a model is left without."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.files import write_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.training import layers
from tests.models.hub.conftest import hub_folder
from tests.training.helpers import on_loss, same
from tests.training.test_prune import interrupt, run

__all__ = ["hub_folder"]
Maker = Callable[[str], Path]


def test_the_layers_that_do_least_are_left_out(
    hub_folder: Maker,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asr, losses, plain = load_model(hub_folder("whisper")), [], layers._loss
    save_model(tmp_path / "dense", asr)
    write_json(tmp_path / "dense" / "generation_config.json", {"alignment_heads": [[0, 0], [1, 1]]})
    before = {part: [one.fc1.weight.detach() for one in asr.model.layers(part)] for part in asr.model.stacks}

    def loss(model: SpeechModel, batches: Sequence[Batch]) -> float:
        losses.append(plain(model, batches))
        return losses[-1]

    monkeypatch.setattr(layers, "_loss", loss)
    options = {"languages": ["fr"], "pathways": {"granularity": "neurons"}, "sparsity": 0.5, "soft_targets": 1.0}
    run(tmp_path / "dense", speech, tmp_path / "run", steps=2, drop_layers={"encoder": 1, "decoder": 1}, **options)
    lines = capsys.readouterr().err
    left = {"encoder": int(losses[0] < losses[1]), "decoder": int(losses[2] < losses[3])}  # of two
    assert len(set(losses)) == len(losses) == 4
    for part, index in left.items():
        assert f"Left out layer {2 - index} of the {part}: loss " in lines
    pruned = load_model(tmp_path / "run")
    config = pruned.model.hub.config
    assert (config.encoder_layers, config.decoder_layers) == (1, 1)
    assert pruned.pathways.names[:2] == ("model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc2.weight")
    for part, index in left.items():  # after two steps of training
        weight = pruned.model.layers(part)[0].fc1.weight
        assert (weight - before[part][index]).norm() < 0.5 * (weight - before[part][1 - index]).norm()
    heads = json.loads((tmp_path / "run" / "generation_config.json").read_text())["alignment_heads"]
    assert heads == [[0, left["decoder"]]]


def test_a_decoder_without_a_layer_is_that_of_its_files(hub_folder: Maker, tmp_path: Path) -> None:
    """Search keeps keys and values by the numbers of layers."""
    asr = load_model(hub_folder("whisper"))
    with torch.no_grad():
        for name, weight in asr.model.network.named_parameters():  # else it writes one token whatever it is given
            if weight.dim() == 2:
                weight *= 30.0 if "embed_positions" in name else 8.0
    asr.model.drop_layer("decoder", 0)
    asr.model.drop_layer("encoder", 1)
    save_model(tmp_path / "smaller", asr)
    again = load_model(tmp_path / "smaller")
    features = torch.randn(1, 60, 80, generator=torch.Generator().manual_seed(0))
    tokens = [one.model.eval().decode(features, torch.tensor([60]), "fr")[0] for one in (asr, again)]
    assert tokens[0] == tokens[1] and len(tokens[0]) > 3


def test_a_run_goes_on_with_the_layers_that_it_chose(
    dense_model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 4, "drop_layers": {"encoder": 1}}
    run(dense_model, speech, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(9, interrupt))  # 4 of layers and 2 of masks are before training
        with pytest.raises(PathwaysError, match="interrupted at step "):
            run(dense_model, speech, tmp_path / "parts", **options)
    run(dense_model, speech, tmp_path / "parts", resume=True, **options)
    whole, parts = (load_model(tmp_path / name) for name in ("whole", "parts"))
    assert len(parts.model.layers("encoder")) == parts.card.model.encoder.layers == 1
    assert same(whole.model.state_dict(), parts.model.state_dict())
