"""Other runtimes on the exported graphs: onnxruntime, float32 and of 8 bits, and sherpa-onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_pathways.bench.timing import Tokens
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.features import FbankStream, FeatureConfig
from asr_pathways.export.graphs import without_warnings
from asr_pathways.export.onnx import FILES, open_graphs
from asr_pathways.models.transducer import MAX_SYMBOLS_PER_FRAME
from asr_pathways.runtime.streaming import FRAME


class OnnxRuntime:
    """Greedy search over the three graphs of a folder; ``int8``: quantised by onnxruntime's dynamic quantisation."""

    def __init__(self, folder: Path, threads: int, int8: bool = False) -> None:
        files = [_quantized(folder / name) if int8 else folder / name for name in FILES]
        self.disk = sum(path.stat().st_size for path in files)
        self._encoder, self._decoder, self._joiner = open_graphs(folder, threads, ".int8.onnx" if int8 else ".onnx")
        metadata = self._encoder.get_modelmeta().custom_metadata_map
        self._window, self._shift = int(metadata["window_size"]), int(metadata["chunk_shift"])
        self._blank = int(metadata["vocab_size"])

    def stream(self) -> Callable[[Samples], Tokens]:
        names = [one.name for one in self._encoder.get_inputs()]
        feed = {one.name: _zeros(one) for one in self._encoder.get_inputs()}
        feed["length"][:] = self._window
        fbank = FbankStream(FeatureConfig(bins=feed["audio_signal"].shape[1]))
        waiting = torch.zeros(0, feed["audio_signal"].shape[1])
        state = [_zeros(one) for one in self._decoder.get_inputs()[2:]]
        prediction, state = self._predict(self._blank, state)
        tokens: list[tuple[int, float]] = []
        past = 0

        def accept(samples: Samples) -> Tokens:
            nonlocal waiting, prediction, state, past
            waiting = torch.cat((waiting, fbank.accept(samples)))
            while len(waiting) >= self._window:
                feed["audio_signal"] = _columns(waiting[: self._window])
                waiting = waiting[self._shift :]
                encodings, _, *caches = self._encoder.run(None, feed)
                feed.update(zip(names[2:5], caches, strict=True))
                for frame in range(encodings.shape[2]):
                    for _ in range(MAX_SYMBOLS_PER_FRAME):
                        scores = self._run(self._joiner, encodings[:, :, frame : frame + 1], prediction)[0]
                        symbol = int(scores.argmax())
                        if symbol == self._blank:
                            break
                        tokens.append((symbol, FRAME * (past + frame)))
                        prediction, state = self._predict(symbol, state)
                past += encodings.shape[2]
            return tokens

        return accept

    def _predict(self, symbol: int, state: list[Any]) -> tuple[Any, list[Any]]:
        targets, length = np.array([[symbol]], dtype=np.int32), np.array([1], dtype=np.int32)
        out, _, *after = self._run(self._decoder, targets, length, *state)
        return out, after

    def _run(self, session: Any, *inputs: Any) -> list[Any]:
        named = {one.name: value for one, value in zip(session.get_inputs(), inputs, strict=True)}
        outputs: list[Any] = session.run(None, named)
        return outputs


class SherpaOnnx:
    """sherpa-onnx on a folder that was exported for it."""

    def __init__(self, folder: Path, threads: int) -> None:
        import sherpa_onnx

        files = {name: folder / f"{name}.onnx" for name in ("encoder", "decoder", "joiner")}
        self.disk = sum(path.stat().st_size for path in files.values())
        self._recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(folder / "tokens.txt"), num_threads=threads, **{name: str(path) for name, path in files.items()}
        )

    def stream(self) -> Callable[[Samples], Tokens]:
        stream = self._recognizer.create_stream()

        def accept(samples: Samples) -> Tokens:
            stream.accept_waveform(SAMPLE_RATE, samples)
            while self._recognizer.is_ready(stream):
                self._recognizer.decode_stream(stream)
            return list(zip(self._recognizer.tokens(stream), self._recognizer.timestamps(stream), strict=True))

        return accept


def _columns(features: Tensor) -> Any:
    """(T, F) -> (1, F, T)."""
    return np.ascontiguousarray(features.numpy().T[None])


def _zeros(one: Any) -> Any:
    return np.zeros([1 if isinstance(size, str) else size for size in one.shape], _type(one))


def _type(one: Any) -> Any:
    return {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(one.type, np.float32)


def _quantized(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_suffix(".int8.onnx")
    with without_warnings():
        quantize_dynamic(str(path), str(out), weight_type=QuantType.QInt8)
    return out
