"""Graphs of ONNX: from modules of torch, and run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def graph(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: tuple[Any, ...],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """One graph, not yet written.

    Args:
        module: put into evaluation mode.
        example: its arguments.
        inputs, outputs: names.
        shapes: which dimensions of the arguments are free, as ``dynamic_shapes`` of `torch.onnx.export`.
        opset: version of ONNX's operators.
    """
    with without_warnings(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program


def session(path: Path, threads: int) -> Any:
    """onnxruntime on a graph, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def without_warnings() -> Iterator[None]:
    """Neither Python's warnings nor the log of the exporter and of onnxruntime's quantiser."""
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
