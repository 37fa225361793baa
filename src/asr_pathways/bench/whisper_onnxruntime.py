"""onnxruntime on the graphs of `asr_pathways.bench.whisper_onnx`: greedy search without torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asr_pathways.bench.windows import windows
from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.runtime.whisper.features import LogMel, pad


class OnnxWhisper:
    """Greedy search; the caches stay in onnxruntime from step to step."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads

    def load(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(str(self._folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )
        self._value: Callable[[Any], Any] = onnxruntime.OrtValue.ortvalue_from_numpy
        self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        self._search = json.loads((self._folder / "search.json").read_text(encoding="utf-8"))
        self._mel = LogMel(self._search["bins"])
        self._cross = [one.name for one in self._encoder.get_outputs()]
        self._outputs = [one.name for one in self._decoder.get_outputs()]
        self._past = [name.replace("new_", "past_") for name in self._outputs[1:]]
        empty = self._value(np.zeros((1, self._search["heads"], 0, self._search["channels"]), dtype=np.float32))
        self._empty = dict.fromkeys(self._past, empty)
        always = self._search["suppressed"]
        self._first_bias = self._bias([*always, *self._search["suppressed_first"]])
        self._later_bias = self._bias(always)

    def transcribe(self, samples: Samples, first_token: Callable[[], None]) -> str:
        texts = []
        for part in windows(samples, self._search["window"]):
            tokens = self.tokens(part, first_token)
            texts.append(" ".join(self._tokenizer.decode(tokens, skip_special_tokens=True).split()))
        return " ".join(filter(None, texts))

    def tokens(self, samples: Samples, first_token: Callable[[], None]) -> list[int]:
        """Those of samples (N,) no longer than a window, without prompt and end."""
        search = self._search
        features = self._mel(samples)
        count, stride = len(features), search["stride"]
        padded = pad(features, (count + 1) // stride * stride if search["short_windows"] else search["frames"])
        feed = {"features": self._value(np.ascontiguousarray(padded.T)[None])}
        cross = self._encoder.run_with_ort_values(self._cross, feed)
        prompt = search["prompt"]
        limit = search["tokens_at_least"] + int(search["tokens_per_second"] * count * self._mel.hop / SAMPLE_RATE)
        limit = min(limit, search["longest_text"] - len(prompt))
        mask = np.triu(np.full((len(prompt), len(prompt)), -np.inf, dtype=np.float32), 1)
        feed = {**dict(zip(self._cross, cross, strict=True)), **self._empty, "bias": self._first_bias}
        found: list[int] = []
        given = prompt
        while True:
            feed["tokens"], feed["mask"] = self._value(np.array([given])), self._value(mask)
            best, *caches = self._decoder.run_with_ort_values(self._outputs, feed)
            token = int(best.numpy()[0])
            if not found:
                first_token()
            if token == search["end"]:
                return found
            found.append(token)
            if len(found) == limit:
                return found
            feed.update(zip(self._past, caches, strict=True))
            feed["bias"] = self._later_bias
            given, mask = [token], np.zeros((1, len(prompt) + len(found)), dtype=np.float32)

    def _bias(self, suppressed: list[int]) -> Any:
        bias = np.zeros(self._search["vocabulary"], dtype=np.float32)
        bias[suppressed] = -np.inf
        return self._value(bias)
