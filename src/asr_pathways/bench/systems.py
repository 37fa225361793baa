"""The systems that are timed: the package's recogniser with sparse and with torch's dense layers, other runtimes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from asr_pathways.bench.timing import System, Tokens
from asr_pathways.data.audio import Samples
from asr_pathways.runtime.layers import Precision
from asr_pathways.runtime.streaming import StreamingTransducer


class OnBundle:
    """The streaming recogniser on a bundle."""

    def __init__(self, bundle: Path, threads: int, precision: Precision | None) -> None:
        self.disk = bundle.stat().st_size
        self.recognizer = StreamingTransducer(bundle, threads=threads, precision=precision)
        self.language = self.recognizer.languages[0]
        self.recognizer.load(self.language)

    def stream(self) -> Callable[[Samples], Tokens]:
        stream = self.recognizer.stream(self.language)

        def accept(samples: Samples) -> Tokens:
            stream.accept(samples)
            return stream.partial().tokens

        return accept


class TorchInt8(OnBundle):
    """Dense layers of 8 bits by torch's dynamic quantisation."""

    def __init__(self, bundle: Path, threads: int) -> None:
        super().__init__(bundle, threads, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, but still in use on CPUs
            quantize: Any = torch.ao.quantization.quantize_dynamic
            model = self.recognizer.pathways.get(self.language).model
            quantize(model, {nn.Linear, nn.LSTM}, dtype=torch.qint8, inplace=True)


Kind = Literal[
    "sparse float32",
    "sparse auto",
    "torch float32",
    "torch int8",
    "onnxruntime float32",
    "onnxruntime int8",
    "sherpa-onnx float32",
]
SPARSE: tuple[Kind, ...] = ("sparse float32", "sparse auto")
DENSE: tuple[Kind, ...] = ("torch float32", "torch int8")
EXPORTED: tuple[Kind, ...] = ("onnxruntime float32", "onnxruntime int8", "sherpa-onnx float32")
"""Those that run an exported folder instead of a bundle."""


def open_system(kind: Kind, place: Path, threads: int) -> System:
    """A system by its name, on a bundle or an exported folder."""
    if kind in EXPORTED:
        from asr_pathways.bench.onnx_systems import OnnxRuntime, SherpaOnnx

        if kind == "sherpa-onnx float32":
            return SherpaOnnx(place, threads)
        return OnnxRuntime(place, threads, kind == "onnxruntime int8")
    if kind == "torch int8":
        return TorchInt8(place, threads)
    precisions: dict[Kind, Precision] = {"sparse float32": "float32", "sparse auto": "auto"}
    return OnBundle(place, threads, precisions.get(kind))
