"""What users could install instead, and the files that each of them loads."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError, reason_of
from asr_pathways.export.dense_copy import write_dense_copy
from asr_pathways.files import write_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.models.hub.ctc import Ctc
from asr_pathways.models.hub.whisper import FRAME_RATE, STRIDE, Whisper
from asr_pathways.models.speech_model import SpeechModel


class Rival(NamedTuple):
    """A runtime: the packages it needs, as `pip` calls them, its precisions, and the models that it runs."""

    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    kinds: tuple[type[SpeechModel], ...]


RIVALS = {
    "faster-whisper": Rival(("faster-whisper",), ("float32", "int8"), (Whisper,)),
    "onnxruntime": Rival(("onnx", "onnxscript", "onnxruntime"), ("float32", "int8"), (Whisper, Ctc)),
    "torch": Rival(("torch",), ("float32", "bfloat16"), (SpeechModel,)),
    "whisper.cpp": Rival(("pywhispercpp",), ("float16",), (Whisper,)),
}

AS_IT_SHIPS = ("faster-whisper",)
"""Those that compute 30 seconds whatever the utterance; the others compute the window that the model does."""


def missing_packages(name: str) -> tuple[str, ...]:
    """What `pip install` would have to fetch before this rival runs."""
    return tuple(package for package in RIVALS[name].packages if find_spec(package.replace("-", "_")) is None)


def versions(names: Sequence[str]) -> dict[str, str]:
    """{package: version} of these rivals' packages."""
    return {package: version(package) for name in names for package in RIVALS[name].packages}


def write_dense(model: Path, language: str, out: Path) -> None:
    """Writes a MODEL's weights, with the zeros of one language if it is pruned, as a Hugging Face folder."""
    asr = load_model(model)
    if asr.pathways is None:
        out.mkdir(parents=True)
        save_model(out, asr)
    else:
        write_dense_copy(asr, out, [language])


def prepare(system: str, dense: Path, language: str, folder: Path) -> Path:
    """The folder that a system loads, made from that of a dense model; what it needs is made once.

    Args:
        system: a rival and its precision, such as ``onnxruntime int8``.
        dense: a Hugging Face folder, as `write_dense` makes it.
        language: that it is used in.
        folder: where to make it.

    Raises:
        PathwaysError: if it cannot be made; the reason is the library's own.
    """
    name, precision = system.split(" ")
    try:
        if name == "torch":
            return dense
        out = folder / system.replace(" ", "-")
        if name == "onnxruntime" and precision == "int8":
            _quantized(prepare("onnxruntime float32", dense, language, folder), out)
        elif not out.exists():
            out.mkdir(parents=True)
            _PREPARE[name](dense, language, precision, out)
        return out
    except PathwaysError:
        raise
    except Exception as error:  # whatever a converter raises
        raise PathwaysError(f"{system}: cannot be made: {reason_of(_first(error)):.300}") from error


def _first(error: BaseException) -> BaseException:
    """The error that others came from; exporters wrap it into advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _onnxruntime(dense: Path, language: str, precision: str, out: Path) -> None:
    asr = load_model(dense)
    if isinstance(asr.model, Whisper):
        from asr_pathways.bench.whisper_onnx import write_whisper_graphs

        write_whisper_graphs(asr, language, out)
    else:
        from asr_pathways.bench.ctc_onnx import write_ctc_graph

        write_ctc_graph(asr, language, out)


def _quantized(graphs: Path, out: Path) -> None:
    import shutil

    from asr_pathways.bench.onnx_files import quantize

    out.mkdir(parents=True)
    for path in graphs.iterdir():
        if path.suffix == ".onnx":
            quantize(path, out / path.name)
        elif path.suffix != ".data":
            shutil.copy(path, out / path.name)


def _faster_whisper(dense: Path, language: str, precision: str, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    files = [name for name in ("tokenizer.json", "preprocessor_config.json") if (dense / name).is_file()]
    converter = TransformersConverter(str(dense), copy_files=files)
    converter.convert(str(out), quantization=precision, force=True)


def _whisper_cpp(dense: Path, language: str, precision: str, out: Path) -> None:
    from asr_pathways.bench.ggml import write_ggml

    asr = load_model(dense)
    assert isinstance(asr.model, Whisper)
    write_ggml(asr, out / "model.bin")
    window = {"short": asr.model.padding == "longest", "seconds": asr.model.window, "rate": FRAME_RATE / STRIDE}
    write_json(out / "window.json", window)


_PREPARE = {"onnxruntime": _onnxruntime, "faster-whisper": _faster_whisper, "whisper.cpp": _whisper_cpp}
