"""``export --format sherpa``: a folder for each language that stock sherpa-onnx runs.

The graphs are those of `asr_pathways.export.onnx`: sherpa-onnx takes them for a streaming transducer of NeMo's
kind. The folder's card says how to run them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from asr_pathways.export.onnx import Exported, export_folders
from asr_pathways.export.onnx_modules import OnnxModules
from asr_pathways.formats import language_name
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import STRIDE

SHERPA_ONNX = "1.13.5"
"""The oldest version that runs an export: its greedy search feeds each symbol to the predictor once."""


def export_sherpa(asr: AsrModel, out: Path, languages: Sequence[str] | None = None) -> list[Exported]:
    """Writes the graphs, ``tokens.txt``, ``config.json`` and a card, ``README.md``, of each pathway.

    Arguments, results and errors are those of `asr_pathways.export.onnx.export_onnx`.
    """
    return export_folders(asr, out, languages, partial(_write_card, attribution=asr.card.attribution))


def _write_card(modules: OnnxModules, folder: Path, attribution: Sequence[str]) -> None:
    text = "\n".join(_card(modules, attribution)) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _card(modules: OnnxModules, attribution: Sequence[str]) -> Iterator[str]:
    latency = 10 * modules.encoder.window
    yield "# A sparse streaming speech recogniser for sherpa-onnx"
    yield ""
    yield f"Languages: {', '.join(f'{language_name(code)} ({code})' for code in modules.languages)}."
    yield f"Latency of the encoder: {latency} ms. Made by asr-pathways; runs in sherpa-onnx {SHERPA_ONNX} or newer."
    yield ""
    yield "```python"
    yield from _script(modules)
    yield "```"
    yield ""
    yield "There is no language to choose: the option `language` of streams has no effect."
    yield ""
    yield "sherpa-onnx decodes whole chunks only and does not signal the end to the model. NaN samples mark it: nothing"
    yield "after them is recognised. The 200 mirrored samples before them fill the window of the last frame. Silence"
    yield "works as well, but is input like any other, and may change the last words."
    yield "A stream whose end was marked is over: make a new one. Audio should come at 16 kHz."
    yield ""
    yield "## Sources and licence"
    yield ""
    for line in attribution or ("The sources of its data are not written down.",):
        yield f"- {' '.join(line.split())}"
    yield "- The weights are under the licence of the model and data that they were made from."


def _script(modules: OnnxModules) -> Iterator[str]:
    """How to recognise a file, in Python."""
    yield "import numpy, sherpa_onnx, soundfile"
    yield ""
    yield 'files = {name: name + ".onnx" for name in ("encoder", "decoder", "joiner")}'
    yield 'asr = sherpa_onnx.OnlineRecognizer.from_transducer(tokens="tokens.txt", **files)'
    yield 'samples, rate = soundfile.read("speech.wav", dtype="float32")'
    yield "stream = asr.create_stream()"
    yield 'stream.accept_waveform(rate, numpy.pad(samples, (0, 200), mode="symmetric"))'
    seconds = padding(modules)
    length = "rate" if seconds == 1 else f"{seconds} * rate"
    yield f"stream.accept_waveform(rate, numpy.full({length}, numpy.nan, numpy.float32))  # the end"
    yield "while asr.is_ready(stream):"
    yield "    asr.decode_stream(stream)"
    yield "print(asr.get_result(stream))"


def padding(modules: OnnxModules) -> int:
    """Seconds after the end of a stream that sherpa-onnx needs to decode the last chunk: more than a window."""
    return math.ceil((modules.encoder.window + STRIDE) / 100)
