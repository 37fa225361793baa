"""What is timed: this package's recogniser with sparse and with torch's dense layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from asr_pathways.data.audio import Samples
from asr_pathways.runtime.pathway_models import WeightType
from asr_pathways.runtime.streaming import Recognizer


class Streaming:
    """The streaming recogniser on a bundle."""

    def __init__(self, bundle: Path, threads: int, dtype: WeightType) -> None:
        self.disk = bundle.stat().st_size
        self.recognizer = Recognizer(bundle, threads=threads, dtype=dtype)
        self.language = self.recognizer.languages[0]
        self.recognizer.load(self.language)

    def stream(self) -> Callable[[Samples], str]:
        stream = self.recognizer.stream(self.language)

        def accept(samples: Samples) -> str:
            stream.accept(samples)
            return stream.partial().text

        return accept


class TorchInt8(Streaming):
    """Dense layers of 8 bits by torch's dynamic quantisation."""

    def __init__(self, bundle: Path, threads: int) -> None:
        super().__init__(bundle, threads, "dense")
        model = self.recognizer.models.get(self.language).model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and what people still use on CPUs
            quantize: Any = torch.ao.quantization.quantize_dynamic
            quantize(model, {nn.Linear, nn.LSTM}, dtype=torch.qint8, inplace=True)


Kind = Literal["sparse float32", "sparse int8", "torch float32", "torch int8"]


def open_system(kind: Kind, bundle: Path, threads: int) -> Streaming:
    """A system by its name."""
    if kind == "torch int8":
        return TorchInt8(bundle, threads)
    dtypes: dict[str, WeightType] = {"sparse float32": "float32", "sparse int8": "int8", "torch float32": "dense"}
    return Streaming(bundle, threads, dtypes[kind])
