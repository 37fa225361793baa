"""Products with pruned weights beside dense ones, and beside what the machine could do at best; one thread.

python -m benchmarks.kernels
python -m benchmarks.kernels --shapes 512x2048 --rows 1,16 --sparsities 0.7 --granularities unstructured,5:16 --json

"in cache" multiplies by one matrix again and again, "24 layers" by as many matrices in turn, as a model does. Products
in all formats (see `asr_pathways.runtime.layers`) take turns, and the best time of each counts: the machine may have
other work. The best that could be (the roofline model of Williams, Waterman and Patterson, 2009) is the longer of two
times: reading the packed weights at the rate at which as many bytes can be read in order, and multiplying the nonzeros
at the rate of multiply-adds in registers (twice that of float32 in bfloat16, four times in int8); both rates are
measured here, which needs g++. ONNX Runtime's dense product is measured too where it is installed (with onnx).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn.functional import linear

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import parse_granularity
from asr_pathways.runtime.kernels import available, variants
from asr_pathways.runtime.layers import Floats, Format, formats
from benchmarks.roofline import OUT_OF_CACHE, multiply_add_rate, read_rate

SHAPES = ("512x2048", "2048x512", "512x512", "1536x512")
ROWS = (1, 4, 8, 16, 32)
SPARSITIES = (0.5, 0.7, 0.8)
GRANULARITIES = ("unstructured", "block:4x1")
RATES = {"float32": 1, "bfloat16": 2, "int8": 4}


def measure(
    shapes: Sequence[str] = SHAPES,
    rows: Sequence[int] = ROWS,
    sparsities: Sequence[float] = SPARSITIES,
    layers: int = 24,
    rounds: int = 15,
    granularities: Sequence[str] = GRANULARITIES,
) -> Iterator[dict[str, object]]:
    """One result for each shape (out x in of the weight), number of activation rows, sparsity, granularity, format."""
    if not available():
        raise PathwaysError("the sparse kernels were not built: install a C++ compiler, then this package again")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shape, sparsity in product(shapes, sparsities):
            out, inputs = map(int, shape.split("x"))
            dense = [torch.randn(out, inputs) for _ in range(layers)]
            packed = [
                Packed(granularity, one, [prune(weight, sparsity, granularity) for weight in dense])
                for granularity in granularities
                for one in formats("auto", granularity=granularity)
            ]
            for n in rows:
                yield from compare(dense, packed, n, sparsity, rounds)
    finally:
        torch.set_num_threads(threads)


def prune(weight: Tensor, sparsity: float, granularity: str) -> Floats:
    """The weight with random units of it dropped."""
    grain = parse_granularity(granularity)
    scores = torch.rand(grain.units(weight.shape))
    kept = grain.choose(scores, round((1 - sparsity) * len(scores)))
    return (weight * grain.expand(kept, weight.shape)).numpy()


class Packed:
    """The layers of a model in one format."""

    def __init__(self, granularity: str, one: Format, weights: list[Floats]) -> None:
        self.granularity, self.format, self.shape = granularity, one, weights[0].shape
        self.nonzeros = int(np.count_nonzero(weights[0]))
        made = [one.store(weight, granularity) for weight in weights]
        self._compiled, self.sizes = [compiled for compiled, _ in made], [size for _, size in made]

    def layers(self, rows: int) -> list[Any]:
        """As the runtime has them for products of so many rows."""
        return [self.format.layer(compiled, None, rows) for compiled in self._compiled]


def compare(
    dense: list[Tensor], packed: list[Packed], n: int, sparsity: float, rounds: int
) -> Iterator[dict[str, object]]:
    """Times all kinds at one shape and sparsity, in turn."""
    layers, x = len(dense), torch.randn(n, dense[0].shape[1])
    once = [
        torch_product(dense[:1], x),
        onnx_product(dense[0], x),
        *(our_product(kind.layers(n)[:1], x) for kind in packed),
    ]
    cycle = [torch_product(dense, x), *(our_product(kind.layers(n), x) for kind in packed)]
    torch_hot, onnx_hot, *hot = best(once, 20 * rounds)
    torch_cold, *cold = best(cycle, rounds)
    peak = multiply_add_rate()
    memory = read_rate(OUT_OF_CACHE)
    for kind, hot_seconds, cold_seconds in zip(packed, hot, cold, strict=True):
        size, whole = kind.sizes[0], sum(kind.sizes)
        multiplying = n * kind.nonzeros / (RATES[kind.format.item] * peak)
        hot_bound = max(multiplying, size / read_rate(size))
        cold_bound = max(multiplying, size / (memory if whole >= OUT_OF_CACHE // 8 else read_rate(whole)))
        yield {
            "shape": "x".join(map(str, kind.shape)),
            "rows": n,
            "sparsity": sparsity,
            "granularity": kind.granularity,
            "format": kind.format.name,
            "packed_kib": size // 1024,
            "in_cache_us": round(1e6 * hot_seconds, 1),
            "in_cache_over_torch": round(torch_hot / hot_seconds, 2),
            "in_cache_over_onnxruntime": None if onnx_hot is None else round(onnx_hot / hot_seconds, 2),
            "in_cache_times_roofline": round(hot_seconds / hot_bound, 2),
            "layers": layers,
            "layers_us": round(1e6 * cold_seconds / layers, 1),
            "layers_over_torch": round(torch_cold / cold_seconds, 2),
            "layers_times_roofline": round(cold_seconds / layers / cold_bound, 2),
            "gflops_peak": round(2e-9 * peak),
            "memory_gb_a_second": round(1e-9 * memory, 1),
            "kernels": variants()[0],
        }


def torch_product(weights: list[Tensor], x: Tensor) -> Callable[[], object]:
    return lambda: [None for weight in weights if linear(x, weight) is None]  # results are freed at once


def our_product(layers: list[Any], x: Tensor) -> Callable[[], object]:
    return lambda: [None for layer in layers if layer.multiply(x.numpy(), (1, "")) is None]


def onnx_product(weight: Tensor, x: Tensor) -> Callable[[], object] | None:
    """ONNX Runtime's product on one thread, weights prepacked; None without onnx and onnxruntime."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x.shape))],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [x.shape[0], weight.shape[0]])],
        [onnx.numpy_helper.from_array(weight.T.contiguous().numpy(), "w")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"x": x.numpy()}
    return lambda: session.run(None, inputs)


def best(calls: Sequence[Callable[[], object] | None], rounds: int) -> list[Any]:
    """Shortest seconds of each call, all called in turn; None for none."""
    shortest = [None if call is None else float("inf") for call in calls]
    for _ in range(rounds):
        for place, call in enumerate(calls):
            if call is not None:
                started = time.perf_counter()
                call()
                shortest[place] = min(shortest[place] or 0, time.perf_counter() - started)
    return shortest


def line(result: dict[str, Any]) -> str:
    onnx_ratio = result["in_cache_over_onnxruntime"]
    return (
        f"{result['shape']:>9} n={result['rows']:<2} {result['sparsity']:.0%} {result['granularity']:<12} "
        f"{result['format']:<15} in cache {result['in_cache_us']:7.1f} us, {result['in_cache_over_torch']:5.2f}x torch"
        + (f", {onnx_ratio:5.2f}x onnxruntime" if onnx_ratio else "")
        + f", {result['in_cache_times_roofline']:4.2f} of roofline | {result['layers']} layers "
        f"{result['layers_us']:7.1f} us, {result['layers_over_torch']:5.2f}x torch, "
        f"{result['layers_times_roofline']:4.2f} of roofline"
    )


def run(
    shapes: Annotated[str, typer.Option(help="out x in, separated by commas")] = ",".join(SHAPES),
    rows: Annotated[str, typer.Option(help="rows of activations")] = ",".join(map(str, ROWS)),
    sparsities: str = ",".join(map(str, SPARSITIES)),
    layers: int = 24,
    rounds: int = 15,
    granularities: str = ",".join(GRANULARITIES),
    as_json: Annotated[bool, typer.Option("--json", help="one object a line")] = False,
) -> None:
    """Prints a line for each combination."""
    numbers = [*map(int, rows.split(","))], [*map(float, sparsities.split(","))]
    for result in measure(shapes.split(","), *numbers, layers, rounds, granularities.split(",")):
        typer.echo(json.dumps(result) if as_json else line(result))


if __name__ == "__main__":
    typer.run(run)
