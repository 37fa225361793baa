"""The step of `benchmarks.hub_streaming` as graphs of ONNX, with all caches as inputs, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_pathways.bench.onnx_files import quantize, write_graph
from asr_pathways.runtime.fast_conformer import EncoderState, LayerState, Network, Predicted

ENCODER, PREDICTOR, JOINER = "encoder", "predictor", "joiner"


class EncoderGraph(nn.Module):
    """Features (T, F) and the caches of the state -> encodings (n, D) and the caches after them."""

    def __init__(self, network: Network, state: EncoderState) -> None:
        super().__init__()
        self._network, self._stages, self._layers = network, len(state.stages), len(state.layers)

    def forward(self, features: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        layers = [LayerState(*caches[self._stages + 3 * n :][:3]) for n in range(self._layers)]
        state = EncoderState(list(caches[: self._stages]), layers)
        return self._network.encode(features, state), *flat(state)


class PredictorGraph(nn.Module):
    """A token (1,), hidden (layers, D) and cell (layers, D) -> what the joiner needs (1, D), and both after it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def forward(self, token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = Predicted(hidden, hidden.split(1), cell.split(1))
        after = self._network.predict(token[0], before)  # type: ignore[arg-type]  # indexes the embedding
        return after.output, torch.cat(list(after.hidden)), torch.cat(list(after.cell))


class JoinerGraph(nn.Module):
    """Encodings (n, D) and what was predicted (1, D) -> scores (n, V)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def forward(self, encodings: Tensor, predicted: Tensor) -> Tensor:
        return self._network.join(encodings, Predicted(predicted, (), ()))


def flat(state: EncoderState) -> list[Tensor]:
    """The caches of a state whose layers are of torch, all of which are there."""
    stages = [one for one in state.stages if one is not None]
    return stages + [one for layer in state.layers for one in (layer.keys, layer.values, layer.frames)]


def write_graphs(network: Network, features: Tensor, state: EncoderState, out: Path) -> None:
    """Writes the three graphs of a network of torch into ``out/float32``, and quantised ones into ``out/int8``.

    Args:
        network: of float32.
        features: of a chunk.
        state: whose context is full.
        out: a folder.
    """
    for name in ("float32", "int8"):
        (out / name).mkdir(parents=True, exist_ok=True)
    caches = flat(state)
    predicted = network.predict(network.blank)
    hidden, cell = torch.cat(list(predicted.hidden)), torch.cat(list(predicted.cell))
    encodings = network.encode(features, state)
    for name, graph, example in (
        (ENCODER, EncoderGraph(network, state), (features, *caches)),
        (PREDICTOR, PredictorGraph(network), (torch.tensor([0]), hidden, cell)),
        (JOINER, JoinerGraph(network), (encodings, predicted.output)),
    ):
        made = graph(*example)
        count = len(made) if isinstance(made, tuple) else 1
        inputs, outputs = (
            [f"{kind}_{n}" for n in range(many)] for kind, many in (("in", len(example)), ("out", count))
        )
        shapes: tuple[Any, ...] = (None,) * len(example)
        if name == ENCODER:
            shapes = (None, (None,) * len(caches))
        path = out / "float32" / f"{name}.onnx"
        write_graph(graph, example, inputs, outputs, shapes, path)
        quantize(path, out / "int8" / f"{name}.onnx")


class OnnxNetwork:
    """The graphs behind the methods of `Network` that the search calls."""

    def __init__(self, folder: Path, network: Network) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.blank = network.blank
        self.encoder, self.predictor, self.joiner = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in (ENCODER, PREDICTOR, JOINER)
        )

    def predict(self, token: int, before: Predicted) -> Predicted:
        """As of `Network`."""
        hidden, cell = (np.concatenate([one.numpy() for one in part]) for part in (before.hidden, before.cell))
        found = self.predictor.run(None, {"in_0": np.array([token]), "in_1": hidden, "in_2": cell})
        output, *states = map(torch.from_numpy, found)
        return Predicted(output, *(list(one[:, None]) for one in states))

    def join(self, encodings: Tensor, predicted: Predicted) -> Tensor:
        """As of `Network`."""
        (scores,) = self.joiner.run(None, {"in_0": encodings.numpy(), "in_1": predicted.output.numpy()})
        return torch.from_numpy(scores)


class OnnxRuntime:
    """A system as those of `benchmarks.hub_streaming`.

    Args:
        folder: of graphs.
        network: of torch, and the state with which the graphs were written.
    """

    def __init__(self, folder: Path, network: Network, state: EncoderState) -> None:
        self.network = OnnxNetwork(folder, network)
        self.predicted = network.predict(network.blank)
        self._caches = [one.contiguous().numpy() for one in flat(state)]

    def encode(self, features: Tensor) -> Tensor:
        """Of the next chunk."""
        inputs = {f"in_{n}": value for n, value in enumerate((features.numpy(), *self._caches))}
        encodings, *self._caches = self.network.encoder.run(None, inputs)
        return torch.from_numpy(encodings)
