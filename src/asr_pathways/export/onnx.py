"""``export --format onnx``: a pathway of a streaming transducer as encoder.onnx, decoder.onnx and joiner.onnx.

The graphs are compared with the model before they are written; see `asr_pathways.export.onnx_modules` for their inputs
and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.errors import PathwaysError
from asr_pathways.export.graphs import graph, session
from asr_pathways.export.onnx_modules import OnnxModules, build_modules
from asr_pathways.files import atomic_folder, write_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import STRIDE
from asr_pathways.models.transducer import MAX_SYMBOLS_PER_FRAME, Transducer

FILES = ("encoder.onnx", "decoder.onnx", "joiner.onnx")

TOLERANCE = 1e-3
"""An export whose scores differ by more from the model's is refused."""

_OPSET = 18
_IR_VERSION = 8  # older runtimes refuse newer ones

_ENCODER_INPUTS = ("audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len")
_ENCODER_OUTPUTS = (
    "outputs",
    "encoded_lengths",
    "cache_last_channel_next",
    "cache_last_time_next",
    "cache_last_channel_next_len",
)
_DECODER_INPUTS = ("targets", "target_length", "states_0", "states_1")
_DECODER_OUTPUTS = ("outputs", "prednet_lengths", "next_states_0", "next_states_1")


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    Attributes:
        folder: its path.
        languages: one, or all of a dense model.
        difference: the largest difference between a score of the exported graphs and the model's, of random speech.
    """

    folder: Path
    languages: tuple[str, ...]
    difference: float


def export_onnx(
    asr: AsrModel,
    out: Path,
    languages: Sequence[str] | None = None,
    *,
    add: Callable[[OnnxModules, Path], None] | None = None,
) -> list[Exported]:
    """Writes the graphs, ``config.json`` and ``tokens.txt`` of one pathway to ``out``, of several to ``out/LANGUAGE``.

    Args:
        asr: a transducer of this package; it is not changed.
        out: a new or empty folder.
        languages: whose pathways; None: all. A dense model is one for all.
        add: writes more files into each folder.

    Returns:
        The folders that were written, in the order of the languages.

    Raises:
        PathwaysError: if the model cannot be exported so, packages are missing, ``out`` has files in it or cannot be
            written, or the graphs differ from the model; then nothing is written.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise PathwaysError(f"exports need the package {name}: pip install 'asr-pathways[export]'")
    if out.is_dir() and any(out.iterdir()):
        raise PathwaysError(f"{out}: has files in it: choose another folder")
    if not isinstance(asr.model, Transducer):
        raise PathwaysError(
            "only the transducers of this package are exported to ONNX; for a model from elsewhere, --format hf writes "
            "a folder that other exporters read"
        )
    chosen = asr.check_languages(languages)
    if not chosen:
        raise PathwaysError("the languages of the model are not written down: name them, such as --languages fr")
    exports = [chosen] if asr.pathways is None else [(language,) for language in chosen]
    done = []
    with atomic_folder(out) as temporary:
        for names in exports:
            place = "." if len(exports) == 1 else names[0]
            folder = temporary / place
            folder.mkdir(exist_ok=True)
            modules = build_modules(asr, names)
            write_graphs(modules, folder)
            difference = largest_difference(asr, modules, folder)
            if not difference <= TOLERANCE:
                raise PathwaysError(
                    f"{out}: scores of the exported graphs differ from the model's by {difference:.2g}: nothing written"
                )
            write_tokens(folder / "tokens.txt", modules.symbols)
            write_json(folder / "config.json", config_of(modules, asr.card.attribution, difference))
            if add is not None:
                add(modules, folder)
            done.append(Exported(out / place, names, difference))
    return done


def write_graphs(modules: OnnxModules, folder: Path) -> None:
    """Writes the three graphs, the encoder's with its metadata."""
    encoder, predictor, joiner = modules.encoder, modules.predictor, modules.joiner
    # Two streams: the exporter assumes that sizes of 1 are fixed.
    batch = 2
    length = torch.full((batch,), encoder.window)
    chunk = torch.zeros(batch, encoder.config.features, encoder.window)
    example: tuple[Tensor, ...] = (chunk, length, *encoder.initial_state(batch))
    _write(encoder, example, _ENCODER_INPUTS, _ENCODER_OUTPUTS, folder / FILES[0], metadata(modules))
    targets = torch.zeros(batch, 1, dtype=torch.int32)
    example = (targets, torch.ones(batch, dtype=torch.int32), *predictor.initial_state(batch))
    _write(predictor, example, _DECODER_INPUTS, _DECODER_OUTPUTS, folder / FILES[1], {}, states=(2, 3))
    example = (torch.zeros(batch, encoder.channels, 1), torch.zeros(batch, predictor.lstm.hidden_size, 1))
    _write(joiner, example, ("encoder_outputs", "decoder_outputs"), ("outputs",), folder / FILES[2], {})


def metadata(modules: OnnxModules) -> dict[str, str]:
    """What sherpa-onnx reads from the encoder of a streaming transducer of NeMo's kind."""
    encoder, lstm = modules.encoder, modules.predictor.lstm
    values: dict[str, object] = {
        "model_type": "EncDecRNNTBPEModel",
        "vocab_size": len(modules.symbols) - 1,
        "window_size": encoder.window,
        "chunk_shift": encoder.shift,
        "subsampling_factor": STRIDE,
        "normalize_type": "",
        "pred_rnn_layers": lstm.num_layers,
        "pred_hidden": lstm.hidden_size,
        "comment": "made by asr-pathways",
    }
    for name, shape in (("channel", encoder.keys_shape), ("time", encoder.convolved_shape)):
        values |= {f"cache_last_{name}_dim{place}": size for place, size in enumerate(shape, 1)}
    return {name: str(value) for name, value in values.items()}


def config_of(modules: OnnxModules, attribution: Sequence[str], difference: float) -> dict[str, Any]:
    """The content of ``config.json``, for runtimes that do not read the metadata of the graphs."""
    encoder, lstm = modules.encoder, modules.predictor.lstm
    return {
        "format": "asr-pathways-onnx",
        "version": 1,
        "languages": list(modules.languages),
        "sample_rate": SAMPLE_RATE,
        "features": encoder.config.features,
        "window": encoder.window,
        "shift": encoder.shift,
        "subsampling": STRIDE,
        "cache_last_channel": list(encoder.keys_shape),
        "cache_last_time": list(encoder.convolved_shape),
        "channels": encoder.channels,
        "decoder_states": [lstm.num_layers, lstm.hidden_size],
        "blank": len(modules.symbols) - 1,
        "max_symbols_per_frame": MAX_SYMBOLS_PER_FRAME,
        "largest_difference": difference,
        "attribution": list(attribution),
    }


def write_tokens(path: Path, symbols: Sequence[str]) -> None:
    """Writes one symbol and its id a line."""
    path.write_text("".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols)), encoding="utf-8")


def open_graphs(folder: Path, threads: int | None = None, suffix: str = ".onnx") -> tuple[Any, Any, Any]:
    """Sessions of onnxruntime: encoder, decoder, joiner; ``threads`` None: as many as torch has."""
    count = threads or torch.get_num_threads()
    encoder, decoder, joiner = (session((folder / name).with_suffix(suffix), count) for name in FILES)
    return encoder, decoder, joiner


def largest_difference(asr: AsrModel, modules: OnnxModules, folder: Path) -> float:
    """The largest difference of a score, over frames and symbols of random features of three streams side by side.

    Three, because the batch at export was another, and so that an effect of one stream on another is seen.
    """
    model, language = asr.model, modules.languages[0]
    assert isinstance(model, Transducer)
    draw = torch.Generator().manual_seed(0)
    encoder, batch = modules.encoder, 3
    total = 4 * encoder.shift + encoder.window // 2 + 3
    noise = torch.randn(batch, total, encoder.config.features, generator=draw)
    features = model.feature_mean.cpu() + noise / model.feature_scale.cpu()
    blank = len(modules.order) - 1
    symbols = torch.randint(blank, (batch, 6), generator=draw)
    symbols[:, 0] = blank
    order = torch.tensor(modules.order, device=model.feature_mean.device)
    with asr.inference(language):
        normalized = model.normalize(features.to(order.device))
        encodings = model.encoder.stream(normalized, model.encoder.initial_state(batch, normalized), final=True)
        predictions, _ = model.predictor(order[symbols])
        expected = model.joiner(encodings, predictions)[..., order].cpu()
    difference = (_scores_of_graphs(open_graphs(folder), modules, features, symbols) - expected).abs().max()
    return float(difference if difference.isfinite() else torch.inf)


def _scores_of_graphs(
    sessions: tuple[Any, Any, Any], modules: OnnxModules, features: Tensor, symbols: Tensor
) -> Tensor:
    """Scores (B, T', U, V + 1) by the exported graphs of features (B, T, F), symbols (B, U)."""
    encoder, decoder, joiner = sessions
    module, batch = modules.encoder, len(features)
    state: Sequence[Tensor] = module.initial_state(batch)
    padded = torch.nn.functional.pad(features, (0, 0, 0, module.window))
    frames = []
    for start in range(0, features.shape[1], module.shift):
        chunk = padded[:, start : start + module.window].transpose(1, 2)
        length = torch.full((batch,), min(module.window, features.shape[1] - start))
        out, counts, *state = _run(encoder, chunk, length, *state)
        frames.append(out[:, :, : int(counts[0])])
    encodings = torch.cat(frames, dim=2).transpose(1, 2)
    state, predictions = modules.predictor.initial_state(batch), []
    for step in range(symbols.shape[1]):
        targets = symbols[:, step : step + 1].to(torch.int32)
        out, _, *state = _run(decoder, targets, torch.ones(batch, dtype=torch.int32), *state)
        predictions.append(out[:, :, 0])
    prediction = torch.stack(predictions, dim=1)
    count, steps = encodings.shape[1], prediction.shape[1]
    left = encodings[:, :, None].expand(-1, -1, steps, -1).flatten(0, 2)[:, :, None]
    right = prediction[:, None].expand(-1, count, -1, -1).flatten(0, 2)[:, :, None]
    (scores,) = _run(joiner, left, right)
    return scores.reshape(batch, count, steps, -1)


def _run(session: Any, *inputs: Tensor) -> list[Tensor]:
    names = [one.name for one in session.get_inputs()]
    feed = {name: tensor.contiguous().numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feed)]


def _write(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    path: Path,
    about: Mapping[str, str],
    states: Sequence[int] = (),
) -> None:
    """Writes one graph; the first dimension of its inputs is the batch, of ``states`` the second."""
    batch = torch.export.Dim("batch")
    shapes = tuple({1 if index in states else 0: batch} for index in range(len(example)))
    program = graph(module, example, inputs, outputs, shapes, _OPSET)
    program.model.ir_version = _IR_VERSION
    program.model.metadata_props.update(about)
    program.save(str(path), external_data=False)
