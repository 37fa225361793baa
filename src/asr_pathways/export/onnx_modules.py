"""One pathway of a transducer as three modules of fixed shapes: encoder of one chunk, predictor step, joiner.

The inputs of the encoder are the features of one segment and of its right context, and caches of fixed sizes with a
count of valid frames. It calls the layers of `Emformer` themselves, so chunk by chunk it returns what `Emformer.stream`
returns. Inputs and outputs are those that sherpa-onnx expects of NeMo's streaming transducers.

A runtime of that kind passes whole chunks only and never signals the end of a stream. So features that are NaN mark
the end: they are padding, which attention masks. On padding the joiner chooses blank: a channel after the encodings is
1 on frames past the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.emformer import STRIDE, Emformer, LayerState, Windows
from asr_pathways.models.transducer import Joiner, Predictor, Transducer
from asr_pathways.runtime.pathway_cache import assemble

BLANK = "<blk>"

NEVER = 1e9
"""Added to the score of blank on padding."""

EncoderState = tuple[Tensor, Tensor, Tensor]
PredictorState = tuple[Tensor, Tensor]


class EncoderChunk(nn.Module):
    """One chunk of B streams, each at any position.

    Attributes:
        window: feature frames in a chunk: a segment and its right context.
        shift: feature frames from one chunk to the next.
        channels: of its output: those of the encodings, and 1 where the frame is past the end.
        keys_shape: (layers, frames, keys and values) of the attention cache of one stream.
        convolved_shape: (1, 1, numbers) of the convolution cache of one stream: all layers' in a row.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Transducer) -> None:
        """Copies the encoder of ``model``, the zeros of a pathway written into its weights."""
        super().__init__()
        self.config = config = model.config.encoder
        self.encoder: Emformer = copy.deepcopy(model.encoder).eval()
        self.register_buffer("mean", model.feature_mean.detach().clone())
        self.register_buffer("scale", model.feature_scale.detach().clone())
        state = self.encoder.initial_state(1, self.mean)
        self._convolved = [(tensor.shape[1], tensor.shape[2]) for tensor in _conv_states(state.front_end, state.layers)]
        self.window = STRIDE * (config.segment + config.right_context)
        self.shift = STRIDE * config.segment
        self.channels = config.dim + 1
        self.keys_shape = config.layers, max(1, config.left_context), 2 * config.dim
        self.convolved_shape = 1, 1, max(1, sum(rows * columns for rows, columns in self._convolved))

    def initial_state(self, batch: int) -> EncoderState:
        """Caches before the first chunk: zeros, of which nothing is valid."""
        return (
            torch.zeros(batch, *self.keys_shape),
            torch.zeros(batch, *self.convolved_shape),
            torch.zeros(batch, dtype=torch.int64),
        )

    def forward(
        self,
        audio_signal: Tensor,
        length: Tensor,
        cache_last_channel: Tensor,
        cache_last_time: Tensor,
        cache_last_channel_len: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The next chunk.

        Args:
            audio_signal: log-mel features (B, F, window); frames that are NaN, and all after them, are padding.
            length: valid feature frames (B,), int64, of the chunk: the window, but at the end of a stream.
            cache_last_channel: keys and values (B, *keys_shape).
            cache_last_time: past inputs of convolutions (B, *convolved_shape).
            cache_last_channel_len: frames of the left context (B,), int64, that are valid.

        Returns:
            Encodings and whether they are past the end (B, channels, segment), how many are valid (B,), new caches.
        """
        config, state = self.config, (cache_last_channel, cache_last_time, cache_last_channel_len)
        features = audio_signal.transpose(1, 2)
        valid = ~features.isnan().any(dim=2)
        valid = valid & (torch.arange(self.window, device=valid.device) < length[:, None])
        count = ((~valid).long().cumsum(dim=1) == 0).long().sum(dim=1) // STRIDE
        features = (torch.where(valid[:, :, None], features, self.mean) - self.mean) * self.scale
        front_end, layers = self._unpack(state)
        frames, front_end = self.encoder.front_end(features[:, : self.shift], front_end)
        if config.right_context:
            right = self.encoder.front_end(features[:, self.shift :], front_end)[0]
            frames = torch.cat((frames, right), dim=1)
        windows = self._windows(cache_last_channel_len, count)
        blocks = frames[:, None]
        for layer, layer_state in zip(self.encoder.layers, layers, strict=True):
            blocks = layer(blocks, layer_state, windows)
        encodings = self.encoder.norm(blocks[:, 0, : config.segment])
        ended = torch.arange(config.segment, device=count.device) >= count[:, None]
        encodings = torch.cat((encodings, ended[:, :, None].to(encodings.dtype)), dim=2)
        past = (cache_last_channel_len + config.segment).clamp(max=config.left_context)
        keys, convolved = self._pack(front_end, layers, state)
        return encodings.transpose(1, 2), count.clamp(max=config.segment), keys, convolved, past

    def _windows(self, valid: Tensor, count: Tensor) -> Windows:
        """The attention mask of each stream's segment, from the valid frames of its left context and chunk (B,)."""
        config = self.config
        left, inner = config.left_context, config.segment + config.right_context
        positions = torch.arange(-left, inner, device=valid.device)
        allowed = (positions >= -valid[:, None]) & (positions < count[:, None])
        return Windows.of(config.segment, left, allowed[:, None])

    def _unpack(self, state: EncoderState) -> tuple[list[Tensor], list[LayerState]]:
        keys, convolved, _ = state
        left = self.config.left_context
        sizes = [rows * columns for rows, columns in self._convolved]
        pieces = torch.split(convolved.flatten(1)[:, : sum(sizes)], sizes, dim=1)
        shaped = [piece.reshape(piece.shape[0], *shape) for piece, shape in zip(pieces, self._convolved, strict=True)]
        first = len(shaped) - self.config.layers
        layers = [LayerState(keys[:, index, :left], conv) for index, conv in enumerate(shaped[first:])]
        return shaped[:first], layers

    def _pack(self, front_end: list[Tensor], layers: list[LayerState], old: EncoderState) -> tuple[Tensor, Tensor]:
        """The new caches; an empty one is passed on as it was, since a graph must use its inputs."""
        keys, convolved, _ = old
        if self.config.left_context:
            keys = torch.stack([layer.key_values for layer in layers], dim=1)
        if any(rows * columns for rows, columns in self._convolved):
            states = [tensor.flatten(1) for tensor in _conv_states(front_end, layers)]
            convolved = torch.cat(states, dim=1)[:, None, None]
        return keys.clone(), convolved.clone()


class PredictorStep(nn.Module):
    """One step of the predictor. The exporter has no LSTM cell, so the gates are written out."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.embedding, self.lstm, self.norm = predictor.embedding, predictor.lstm, predictor.norm

    def initial_state(self, batch: int) -> PredictorState:
        """Hidden and cell states before the first symbol: two of (layers, B, H)."""
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return torch.zeros(shape), torch.zeros(shape)

    def forward(
        self, targets: Tensor, target_length: Tensor, states_0: Tensor, states_1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Symbols (B, 1), int32, lengths (B,), int32, and states -> predictions (B, P, 1), lengths, new states."""
        x = self.embedding(targets[:, 0])
        hidden, cell = [], []
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.lstm.all_weights):
            gates = F.linear(x, w_ih, b_ih) + F.linear(states_0[layer], w_hh, b_hh)
            i, f, g, o = gates.chunk(4, dim=1)
            cell.append(f.sigmoid() * states_1[layer] + i.sigmoid() * g.tanh())
            x = o.sigmoid() * cell[-1].tanh()
            hidden.append(x)
        return self.norm(x)[:, :, None], target_length.clone(), torch.stack(hidden), torch.stack(cell)


class JoinerStep(nn.Module):
    """One frame: (B, channels, 1) and (B, P, 1) -> scores (B, 1, 1, V + 1), blank last."""

    padding: Tensor

    def __init__(self, joiner: Joiner, blank: int) -> None:
        super().__init__()
        self.joiner = joiner
        self.register_buffer("padding", F.one_hot(torch.tensor(blank), len(joiner.output.weight)) * NEVER)

    def forward(self, encoder_outputs: Tensor, decoder_outputs: Tensor) -> Tensor:
        frame = encoder_outputs[:, :, 0]
        joint = self.joiner.encoding(frame[:, :-1]) + self.joiner.prediction(decoder_outputs[:, :, 0])
        scores = self.joiner.output(torch.relu(joint)) + frame[:, -1:] * self.padding
        out: Tensor = scores[:, None, None]
        return out


@dataclass(frozen=True)
class OnnxModules:
    """One language's pathway of a transducer, ready for export.

    Attributes:
        languages: the language; all of a dense model.
        symbols: word pieces in order of their ids, blank last.
        order: the model's ids of them.
    """

    languages: tuple[str, ...]
    encoder: EncoderChunk
    predictor: PredictorStep
    joiner: JoinerStep
    symbols: list[str]
    order: list[int]


def build_modules(asr: AsrModel, languages: Sequence[str]) -> OnnxModules:
    """The modules of the pathway of ``languages[0]``, on the CPU; the recogniser is not changed.

    Args:
        asr: a transducer of this package.
        languages: one, or all of a dense model.
    """
    assert isinstance(asr.card, ModelCard) and isinstance(asr.tokenizer, Tokenizer)
    tensors = asr.model.state_dict() if asr.pathways is None else asr.pathways.extract(languages[0])
    model = assemble(asr.card, tensors).cpu().float()
    pieces = asr.tokenizer.of(languages[0]).pieces()
    order = [index for index in range(len(model.joiner.output.weight)) if index != model.blank] + [model.blank]
    _reorder(model, order)
    return OnnxModules(
        languages=tuple(languages),
        encoder=EncoderChunk(model),
        predictor=PredictorStep(model.predictor),
        joiner=JoinerStep(model.joiner, order.index(model.blank)),
        symbols=[*(pieces[index] for index in order[:-1]), BLANK],
        order=order,
    )


def _reorder(model: Transducer, order: Sequence[int]) -> None:
    """Reorders the symbols: a language that was added has word pieces after blank."""
    index = torch.tensor(order)
    for module, name in (
        (model.predictor.embedding, "weight"),
        (model.joiner.output, "weight"),
        (model.joiner.output, "bias"),
    ):
        rows = getattr(module, name).detach()[index]
        setattr(module, name, nn.Parameter(rows, requires_grad=False))


def _conv_states(front_end: list[Tensor], layers: list[LayerState]) -> list[Tensor]:
    return [*front_end, *(layer.conv for layer in layers)]
