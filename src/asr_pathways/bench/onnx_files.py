"""Graphs of ONNX files: written from modules of torch, and their weights quantised to 8 bits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
    with _no_warnings(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)


def quantize(path: Path, out: Path) -> None:
    """onnxruntime's dynamic quantisation: the matrices of products in 8 bits, a scale for each of their columns."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _no_warnings():
        quantize_dynamic(
            str(path),
            str(out),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
        )


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Neither Python's warnings nor the exporter's and the quantiser's log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", None)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
