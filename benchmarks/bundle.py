"""The size of a bundle of five languages beside the dense model and beside five sparse ones, and how fast it opens.

python -m benchmarks.bundle MODEL... --json results/bundle.json

Each MODEL is a pruned model folder; before them comes ``base`` (71M random weights, five random masks that overlap).
Seconds are of one thread of the processor, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from asr_pathways.bundle.bundle import Bundle, write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel, ModelCard
from asr_pathways.models.presets import Preset, preset
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.prunable import matching
from asr_pathways.runtime.streaming import StreamingTransducer

LANGUAGES = ("en", "es", "fr", "it", "ru")
TOKENIZER = Path(__file__).parents[1] / "models" / "tiny" / "tokenizer.model"
NOISE = 0.25
"""Standard deviation of the logarithm of what each language multiplies magnitudes by: union density about 0.45."""


def random_model(size: Preset, sparsity: float = 0.7) -> AsrModel:
    """Random weights, and masks of their largest magnitudes times noise of each language."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(TOKENIZER)
    model = Transducer(preset(size, tokenizer.vocab_size))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    config = PathwayConfig(sparsity=sparsity, exclude=matching(model, model.unprunable))
    pathways = Pathways.attach(model, config, LANGUAGES)
    for language in LANGUAGES:
        mask = {}
        for name in pathways.names:
            score = model.get_parameter(name).detach().abs()
            score *= torch.exp(NOISE * torch.randn(score.shape, generator=draw))
            keep = round((1 - sparsity) * score.numel())
            mask[name] = score > score.flatten().kthvalue(score.numel() - keep).values
        pathways.set_mask(language, mask)
    return AsrModel(model.eval(), tokenizer, ModelCard(model=model.config, languages=LANGUAGES), pathways)


def measure(name: str, asr: AsrModel, runs: int = 3) -> dict[str, object]:
    """Bytes, bits and seconds of the bundles of a pruned model."""
    assert asr.pathways is not None
    dense = sum(tensor.numel() for tensor in asr.model.network.state_dict().values())
    figures: dict[str, object] = {"model": name, "weights": dense, "dense_float16_bytes": 2 * dense}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.asrp"
        for dtype in ("float32", "int8", "float16"):
            started = time.process_time()
            sizes = write_bundle(asr, path, dtype)  # type: ignore[arg-type]
            figures[f"{dtype}_bytes"] = sizes.total
        figures["write_seconds"] = round(time.process_time() - started, 2)
        separate = sum(Bundle.open(path).extract(one, Path(folder) / "one.asrp").total for one in asr.languages)
        seconds = {
            "open_seconds": lambda: Bundle.open(path),
            "one_language_masks_seconds": lambda: Bundle.open(path).mask(asr.languages[0]),
            "all_masks_seconds": lambda: _all_masks(path),
            "one_language_weights_seconds": lambda: Bundle.open(path).weights(asr.languages[0]),
            "model_seconds": lambda: Bundle.open(path).model(),
            "first_language_streams_seconds": lambda: StreamingTransducer(path).load(asr.languages[0]),
        }
        timed = {what: _median(call, runs) for what, call in seconds.items()}
    return {
        **figures,
        "languages": len(asr.languages),
        "prunable": sizes.weights,
        "union_density": round(sizes.union_density, 4),
        "separate_float16_bytes": separate,
        "ratio_to_dense": round(sizes.total / (2 * dense), 3),
        "ratio_to_separate": round(sizes.total / separate, 3),
        "mask_bits": round(sizes.mask_bits, 4),
        **timed,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }


def _all_masks(path: Path) -> None:
    bundle = Bundle.open(path)
    for language in bundle.languages:
        bundle.mask(language)


def _median(call: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return round(statistics.median(times), 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--size", default="base", choices=("micro", "tiny", "small", "base"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(f"{options.size}, random", random_model(options.size), options.runs)]
    results += [measure(str(path), load_model(path), options.runs) for path in options.models]
    command = " ".join(["python -m benchmarks.bundle", *map(str, options.models)])
    text = json.dumps({"command": command, "results": results}, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
