"""CTC models of the hub as one ONNX graph, and onnxruntime on it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from asr_pathways.bench.onnx_files import write_graph
from asr_pathways.bench.windows import windows
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.export.graphs import session
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.ctc import Ctc

EXAMPLE_SECONDS = 1.0
GRAPH = "model.onnx"


class CtcGraph(nn.Module):
    """Features (1, T, ...) of one utterance -> the best token of each frame (1, T')."""

    def __init__(self, hub: Any) -> None:
        super().__init__()
        self.hub = hub

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.hub(**{self.hub.main_input_name: features}).logits  # no mask: nothing is padded
        return scores.argmax(dim=-1)


@torch.no_grad()
def write_ctc_graph(asr: AsrModel, language: str, folder: Path) -> None:
    """Writes ``model.onnx``, and what transformers needs to read the folder's tokenizer and feature extractor."""
    model = asr.model.eval()
    assert isinstance(model, Ctc)
    example = model.frontend(np.zeros(round(EXAMPLE_SECONDS * SAMPLE_RATE), dtype=np.float32))[None].contiguous()
    model.save_files(str(folder))
    model.specialize(language)
    write_graph(CtcGraph(model.network), (example,), ["features"], ["best"], ({1: Dim.DYNAMIC},), folder / GRAPH)


class OnnxCtc:
    """onnxruntime on the graph; features and text by transformers."""

    def __init__(self, folder: Path, threads: int, language: str) -> None:
        self._folder, self._threads, self._language = folder, threads, language

    def load(self) -> None:
        from asr_pathways.models.hub import load_hub_model

        self._session = session(self._folder / GRAPH, self._threads)
        self._model, self._tokenizer = load_hub_model(str(self._folder), _without_weights)

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        model, texts = self._model, []
        assert isinstance(model, Ctc)
        for part in windows(samples, model.window):
            (best,) = self._session.run(None, {"features": model.frontend(part)[None].numpy()})
            tokens = [token for token, _ in groupby(best[0].tolist()) if token != model.blank]
            texts.append(self._tokenizer.decode(tokens, self._language))
        return " ".join(filter(None, texts))


def _without_weights(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)
