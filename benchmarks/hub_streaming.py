"""Seconds of compute a chunk of a streaming FastConformer transducer of 600M weights, random and 70% zeros.

python -m benchmarks.hub_streaming --json results/hub_streaming.json

The network is `Nemotron3_5AsrForRNNT` of its default size, without features and texts: an encoder of 24 layers whose
left context is full, and for each chunk a joiner over all its frames, and the prediction network and the joiner again
for each of `TOKENS` tokens a second. It runs on one thread, whose CPU time is taken: that of other programs on the same
core does not count. Systems take turns, a chunk each, so that a disturbance of caches and memory meets all of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from asr_pathways.bench.run import machine
from asr_pathways.files import atomic_folder, read_json, write_json
from asr_pathways.runtime.compiled_conformer import CompiledProducts, CompiledState
from asr_pathways.runtime.fast_conformer import LayerState, Network, Products, TorchProducts
from asr_pathways.runtime.layers import Format, Layers
from benchmarks.hub_streaming_onnx import OnnxRuntime, write_graphs

TOKENS = 4.0
"""A second of speech."""

FRAME = 0.08
"""Seconds of a frame of the encoder."""

MELS = 128
"""Features of a frame."""

PROMPT = 8
"""Of some language."""


def random_network(layers: int, sparsity: float, encoder: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Transformers' network, its linear and convolution layers random, and random zeros where pruning makes them.

    ``encoder`` and the other options are of their configs, whose defaults are the sizes of the published models.
    """
    from transformers import Nemotron3_5AsrConfig, Nemotron3_5AsrForRNNT, NemotronAsrStreamingEncoderConfig

    with torch.device("meta"):
        sizes = {"num_hidden_layers": layers, "num_mel_bins": MELS, **(encoder or {})}
        config = Nemotron3_5AsrConfig(encoder_config=NemotronAsrStreamingEncoderConfig(**sizes), **options)
        hub = Nemotron3_5AsrForRNNT(config).eval()
    hub.to_empty(device="cpu")
    torch.manual_seed(0)
    dense = ("joint", "encoder_projector", "decoder.decoder_projector", "prompt_projector", "decoder.embedding")
    with torch.no_grad():
        for name, weight in hub.named_parameters():
            if weight.dim() < 2 or "bias" in name:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            weight.uniform_(-1.0, 1.0).mul_((3.0 / weight[0].numel()) ** 0.5)
            if not name.startswith(dense):
                weight.mul_(torch.rand_like(weight) >= sparsity).mul_((1 - sparsity) ** -0.5)
    positions = hub.encoder.encode_positions
    positions.inv_freq = positions.compute_default_relative_positional_parameters(hub.encoder.config)
    return hub


class OneFormat(Layers):
    """Layers in one format, but for exact ones."""

    def __init__(self, form: Format) -> None:
        super().__init__()
        self._form = form

    def linear(
        self, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, rows: int, exact: bool = False
    ) -> tuple[Any, int]:
        """As of `Layers`."""
        one = Format("float32", "dense") if exact else self._form
        compiled, nbytes = one.store(np.ascontiguousarray(weight), self.granularity)
        return one.layer(compiled, bias, rows), nbytes


def fill(state: LayerState | CompiledState, left: int) -> None:
    """A left context of as many frames as there may be."""
    if isinstance(state, CompiledState):
        state.window.normal_()
        state.start, state.end = 0, left
    else:
        shape = state.keys.shape[0], left, state.keys.shape[2]
        state.keys, state.values = (torch.randn(shape).to(state.keys.dtype) for _ in range(2))


class Step:
    """A system: this package's step over products of some kind."""

    def __init__(self, hub: Any, lookahead: int, products: Products) -> None:
        self.network = Network(hub, lookahead, products, PROMPT)
        self._dtype, self.predicted = hub.dtype, self.network.predict(self.network.blank)
        self.state = self.network.encoder.initial_state()
        frames = self.network.encoder.features_wanted(self.state)
        self.network.encode(torch.zeros(frames, hub.encoder.config.num_mel_bins, dtype=hub.dtype), self.state)
        for layer in self.state.layers:
            fill(layer, self.network.encoder.left)

    def encode(self, features: Tensor) -> Tensor:
        """Of the next chunk."""
        return self.network.encode(features.to(self._dtype), self.state)


class Transformers:
    """A system: transformers' own step of the encoder, and this package's search."""

    def __init__(self, hub: Any, lookahead: int, step: Step) -> None:
        from transformers import DynamicCache

        self.network, self.predicted = step.network, step.predicted
        config = hub.encoder.config
        self._hub, self._lookahead = hub, lookahead
        self._cache, self._convolutions = DynamicCache(config=config), None
        self.encode(torch.zeros(1 + config.subsampling_factor * lookahead, config.num_mel_bins))
        shape = 1, config.num_attention_heads, config.sliding_window - 2 - lookahead
        for layer in range(config.num_hidden_layers):
            one = torch.randn(*shape, config.hidden_size // config.num_attention_heads).to(hub.dtype)
            self._cache.update(one, one, layer)

    def encode(self, features: Tensor) -> Tensor:
        """Of the next chunk."""
        found = self._hub.get_audio_features(
            input_features=features[None].to(self._hub.dtype),
            past_key_values=self._cache,
            padding_cache=self._convolutions,
            num_lookahead_tokens=self._lookahead,
            prompt_ids=torch.tensor([PROMPT]),
            use_cache=True,
            output_attention_mask=False,
        )
        self._convolutions = found.padding_cache
        encodings: Tensor = found.pooler_output[0]
        return encodings


def systems(hub: Any, half: Any, lookahead: int, plans: dict[str, Any], onnx: Path | None) -> Iterator[tuple[str, Any]]:
    """The systems by their names; ``plans`` gets the formats that were chosen, ``onnx`` graphs if there are none."""
    for network, dtype in ((hub, "float32"), (half, "bfloat16")):
        step = Step(network, lookahead, TorchProducts())
        if onnx is not None and dtype == "float32":
            if not onnx.exists():
                features = torch.randn(hub.encoder.config.subsampling_factor * (lookahead + 1), MELS)
                with atomic_folder(onnx) as folder:
                    write_graphs(step.network, features, copy.deepcopy(step.state), folder)
            for precision in ("float32", "int8"):
                yield f"this step, onnxruntime {precision}", OnnxRuntime(onnx / precision, step.network, step.state)
        yield f"transformers, torch {dtype}", Transformers(network, lookahead, step)
        yield f"this step, torch {dtype}", step
    yield "this step, dense int8", Step(hub, lookahead, CompiledProducts(OneFormat(Format("int8", "dense"))))
    for precision in ("float32", "auto"):
        layers = Layers(precision, "unstructured")  # type: ignore[arg-type]
        yield f"this step, sparse {precision}", Step(hub, lookahead, CompiledProducts(layers))
        plans[precision] = {
            " ".join(map(str, product)): timings[0].format.name for product, timings in layers.plan.items()
        }


def _chunk(system: Any, features: Tensor) -> tuple[float, float]:
    """Seconds that a chunk takes, and those that each of its tokens takes beside: the first, which is the dearest."""
    start, network = time.thread_time(), system.network
    encodings = system.encode(features)
    token = int(network.join(encodings, system.predicted).float()[0].argmax())
    encoded = time.thread_time()
    system.predicted = network.predict(token, system.predicted)
    network.join(encodings, system.predicted).float().argmax(dim=-1)
    return encoded - start, time.thread_time() - encoded


@torch.inference_mode()
def measure(lookahead: int, hub: Any, half: Any, rounds: int, onnx: Path | None = None) -> dict[str, Any]:
    """Milliseconds a chunk with its tokens, and the real-time factor, of each system."""
    plans: dict[str, Any] = {}
    made = dict(systems(hub, half, lookahead, plans, onnx))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    config, length = hub.encoder.config, FRAME * (lookahead + 1)
    for _ in range(rounds + 1):
        features = torch.randn(config.subsampling_factor * (lookahead + 1), config.num_mel_bins)
        for name, system in made.items():
            seconds[name].append(_chunk(system, features))
    parts = {name: [median(part) for part in zip(*spent[1:], strict=True)] for name, spent in seconds.items()}
    best = {name: chunk + TOKENS * length * token for name, (chunk, token) in parts.items()}
    return {
        "milliseconds": {name: round(1000 * one, 2) for name, one in best.items()},
        "of_which_tokens": {name: round(1000 * TOKENS * length * token, 2) for name, (_, token) in parts.items()},
        "rtf": {name: round(one / length, 4) for name, one in best.items()},
        "formats": plans,
    }


def main(
    layers: Annotated[int, typer.Option(help="Of the encoder.")] = 24,
    sparsity: Annotated[float, typer.Option(help="Share of zeros.")] = 0.7,
    lookahead: Annotated[list[int] | None, typer.Option(help="Frames; several.")] = None,
    rounds: int = 9,
    onnx: Annotated[Path | None, typer.Option(help="Where graphs for onnxruntime are made, once.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Prints the figures of each length of chunks; in the file, those of other lengths stay."""
    torch.set_num_threads(1)
    hub = random_network(layers, sparsity)
    half = copy.deepcopy(hub).bfloat16()
    weights = sum(one.numel() for one in hub.parameters())
    about = {
        "machine": machine(),
        "weights": weights,
        "layers": layers,
        "sparsity": sparsity,
        "tokens_a_second": TOKENS,
        "rounds": rounds,
    }
    chunks: dict[str, Any] = read_json(json)["chunks"] if json is not None and json.exists() else {}
    for frames in lookahead or [0, 1, 6, 13]:
        figures = measure(frames, hub, half, rounds, onnx and onnx / f"{layers}-layers-{frames}")
        typer.echo(figures)
        chunks[f"{1000 * FRAME * (frames + 1):.0f} ms"] = figures
        if json is not None:
            write_json(json, {**about, "chunks": chunks})


if __name__ == "__main__":
    typer.run(main)
