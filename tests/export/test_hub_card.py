"""The card of a dense copy is one that the hub's library reads, with all that it can know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from asr_pathways.bundle.layout import Score
from asr_pathways.bundle.load import load_model
from asr_pathways.export.dense_copy import write_dense_copy
from asr_pathways.pruning import PathwayConfig, Pathways
from tests.models.hub.conftest import hub_folder

__all__ = ["hub_folder"]


def test_the_hub_reads_it(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    asr = load_model(hub_folder("whisper"))
    asr.card = asr.card.model_copy(update={"base": "someone/model", "attribution": ("Read by nobody",)})
    asr.pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.5), ["en", "fr"])
    write_dense_copy(
        asr, tmp_path / "french", ["fr"], {"fr": Score(wer=0.123, words=1500), "en": Score(wer=1, words=9)}
    )
    card = ModelCard.load(tmp_path / "french" / "README.md")
    assert card.data.base_model == "someone/model" and card.data.language == "fr"
    assert card.data.library_name == "transformers"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("wer", 12.3)
    assert result.dataset_name == "own recordings, 1,500 words"
    assert "The French pathway of [someone/model]" in card.text and "50.0% of the weights" in card.text
    assert "- Read by nobody" in card.text
    again = load_model(tmp_path / "french")
    assert again.card.languages == ("fr",) and all(torch.isfinite(value).all() for value in again.model.parameters())


def test_what_is_not_known_is_left_out(hub_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    asr = load_model(hub_folder("wav2vec2"))
    asr.pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.5), ["en"])
    write_dense_copy(asr, tmp_path / "english", None)
    card = ModelCard.load(tmp_path / "english" / "README.md")
    assert card.data.base_model is None and card.data.eval_results is None
    assert "WER" not in card.text and "Sources" not in card.text
