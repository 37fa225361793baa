"""Graphs of ONNX files: written from modules of torch, and their weights quantised to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from asr_pathways.export.graphs import graph, without_warnings

OPSET = 20
"""The first with GELU as one operator."""


def write_graph(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: tuple[Any, ...],
    path: Path,
) -> None:
    """Writes one graph; its weights, which may be larger than ONNX's 2 GB, go into a file beside it."""
    graph(module, example, inputs, outputs, shapes, OPSET).save(str(path), external_data=True)


def quantize(path: Path, out: Path) -> None:
    """onnxruntime's dynamic quantisation: the matrices of products in 8 bits, a scale for each of their columns."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with without_warnings():
        quantize_dynamic(
            str(path),
            str(out),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
        )
