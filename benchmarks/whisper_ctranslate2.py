"""Where CTranslate2's int8 spends the time of a Whisper, and what fewer neurons and layers gain in it.

    python -m benchmarks.whisper_ctranslate2 openai/whisper-base --json results/whisper_ctranslate2.json

Times depend on sizes alone. Of a model's layers the first ones are kept, and of their neurons too. All texts have the
same number of tokens. One thread; the sizes take turns. The shares are differences between sizes: two layers fewer,
three quarters of the neurons fewer; what no layer takes is the rest, of the encoder its convolutions, of the decoder
the output layer. With few rounds they are noisy where a part takes most.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from asr_pathways.bench.rivals import missing_packages, versions
from asr_pathways.bench.run import machine
from asr_pathways.errors import PathwaysError
from asr_pathways.files import write_json

WINDOWS = {"4 s": 400, "30 s": 3000}
"""Frames of features."""

TOKENS, START, END = 24, 50258, 50257


class Size(NamedTuple):
    """Encoder and decoder layers that are left out, and the share of neurons that is."""

    encoder: int = 0
    decoder: int = 0
    neurons: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.encoder} encoder layers"] * bool(self.encoder)
        parts += [f"{self.decoder} decoder layers"] * bool(self.decoder)
        parts += [f"{100 * self.neurons:.0f}% of neurons"] * bool(self.neurons)
        return f"without {', '.join(parts)}" if parts else "all"


SIZES = (
    *(Size(), Size(neurons=0.5), Size(neurons=0.75), Size(encoder=2), Size(decoder=2)),
    *(Size(2, 0, 0.5), Size(0, 3, 0.5), Size(2, 3, 0.5)),
)


def smaller(hub: Any, size: Size) -> Any:
    """A copy of transformers' network with the first layers and neurons of that size."""
    from torch import nn

    made = copy.deepcopy(hub)
    for part, fewer in (("encoder", size.encoder), ("decoder", size.decoder)):
        module, config = getattr(made.model, part), made.config
        layers = list(module.layers)[: len(module.layers) - fewer]
        kept = round(getattr(config, f"{part}_ffn_dim") * (1 - size.neurons))
        for layer in layers:
            inwards, outwards = layer.fc1, layer.fc2
            layer.fc1 = nn.Linear(inwards.in_features, kept)
            layer.fc2 = nn.Linear(kept, outwards.out_features)
            layer.fc1.weight.data, layer.fc1.bias.data = inwards.weight.data[:kept], inwards.bias.data[:kept]
            layer.fc2.weight.data, layer.fc2.bias.data = outwards.weight.data[:, :kept], outwards.bias.data
        module.layers = nn.ModuleList(layers)
        setattr(config, f"{part}_layers", len(layers))
        setattr(config, f"{part}_ffn_dim", kept)
    return made


def converted(model: str, folder: Path) -> dict[Size, Any]:
    """The models of all sizes in CTranslate2's int8."""
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.models import Whisper
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    hub, tokenizer = WhisperForConditionalGeneration.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    found = {}
    for number, size in enumerate(SIZES):
        place = folder / str(number)
        smaller(hub, size).save_pretrained(place / "hub")
        tokenizer.save_pretrained(place / "hub")
        TransformersConverter(str(place / "hub")).convert(str(place / "int8"), quantization="int8")
        found[size] = Whisper(str(place / "int8"), device="cpu", compute_type="int8", intra_threads=1)
    return found


def measure(models: dict[Size, Any], mels: int, rounds: int) -> dict[str, Any]:
    """{window: {size: {part: seconds}}}: medians."""
    from ctranslate2 import StorageView

    random, spent = np.random.default_rng(0), dict[tuple[str, Size], list[tuple[float, float]]]()
    inputs = {name: random.standard_normal((1, mels, frames), dtype=np.float32) for name, frames in WINDOWS.items()}
    for _ in range(rounds + 1):
        for name, features in inputs.items():
            for size, model in models.items():
                start = time.perf_counter()
                encoded = model.encode(StorageView.from_array(features))
                middle = time.perf_counter()
                most = 2 * TOKENS  # half of it counts
                (one,) = model.generate(encoded, [[START]], beam_size=1, max_length=most, suppress_tokens=[END])
                if len(one.sequences_ids[0]) != TOKENS:
                    raise PathwaysError(f"CTranslate2 wrote {len(one.sequences_ids[0])} tokens, not {TOKENS}")
                spent.setdefault((name, size), []).append((middle - start, time.perf_counter() - middle))
    found: dict[str, Any] = {name: {} for name in inputs}
    for (name, size), times in spent.items():
        encoder, decoder = (statistics.median(part) for part in zip(*times[1:], strict=True))
        found[name][str(size)] = {"encoder": round(encoder, 4), "decoder": round(decoder, 4)}
    return found


def shares(found: dict[str, Any], layers: dict[str, int]) -> dict[str, Any]:
    """{part: {what: share of its time}} of the whole model, from the times of a window."""
    whole, result = found[str(Size())], {}
    for part in ("encoder", "decoder"):
        fewer = found[str(Size(**{part: 2}))]
        layer = (whole[part] - fewer[part]) / 2
        neurons = (whole[part] - found[str(Size(neurons=0.75))][part]) / 0.75
        taken = {"feed-forward": neurons, "attention": layers[part] * layer - neurons, "rest": whole[part]}
        taken["rest"] -= layers[part] * layer
        result[part] = {what: round(seconds / whole[part], 3) for what, seconds in taken.items()}
    return result


def main(
    model: Annotated[str, typer.Argument(help="A Whisper in a Hugging Face folder, or its name on the hub.")],
    rounds: int = 5,
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Prints seconds of encoder and decoder by window and size, and the shares of their parts."""
    if missing_packages("faster-whisper"):
        raise PathwaysError("CTranslate2 is not installed: pip install faster-whisper")
    with tempfile.TemporaryDirectory(prefix="asr-pathways-bench-") as folder:
        models = converted(model, Path(folder))
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(model)
        seconds = measure(models, config.num_mel_bins, rounds)
    layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    found = {
        "machine": machine(),
        "versions": versions(["faster-whisper"]),
        "tokens": TOKENS,
        "rounds": rounds,
        "seconds": seconds,
        "shares": {name: shares(one, layers) for name, one in seconds.items()},
    }
    typer.echo(found)
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    typer.run(main)
