"""The transducer as three graphs of fixed shapes: encoder of one chunk, one step of the predictor, joiner.

The encoder takes the features of one segment and of its right context, and caches of fixed sizes with a count of
what is valid in them. It goes through the layers of `Emformer` themselves, so chunk by chunk it gives what
`Emformer.stream` gives. Inputs and outputs are those that sherpa-onnx wants of NeMo's streaming transducers.

A runtime of that kind hands over whole chunks only and tells nobody where a stream ends. So features that are not
a number mark the end: they are padding, heard by no attention. Padding makes the joiner choose blank.

What the predictor and the joiner must know of the stream travels in channels after the encodings: with several
predictors (each language's pathway has its own) which one counts, and last whether the frame is past the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.errors import PathwaysError
from asr_pathways.export.masked_layers import Choice, MaskedWeight, Masks, mask_layers
from asr_pathways.models.emformer import STRIDE, Emformer, LayerState, Windows
from asr_pathways.models.transducer import Joiner, Predictor, Transducer

NEVER = 1e9
"""Added to the score of blank on padding."""

EncoderState = tuple[Tensor, Tensor, Tensor]
PredictorState = tuple[Tensor, Tensor]


class StreamingEncoder(nn.Module):
    """One chunk of B streams, each at its own place and, given ``masks``, with its own pathway.

    Attributes:
        window: feature frames in a chunk: a segment and its right context.
        shift: feature frames from one chunk to the next.
        predictors: how many predictors there are to choose from.
        selects: whether it takes the index of each stream's language.
    """

    mean: Tensor
    scale: Tensor
    languages: Tensor

    def __init__(self, model: Transducer, languages: Sequence[str], masks: Masks | None, predictors: int = 1) -> None:
        """Copies the encoder of ``model``.

        Args:
            model: with the pathway's zeros written in, or dense if there are ``masks``.
            languages: those that a stream may choose from by its index, or one.
            masks: for each language, those of the prunable weights; None if they are written in, or there are none.
            predictors: 1, or the number of languages.
        """
        super().__init__()
        self.config = model.config.encoder
        self.encoder: Emformer = copy.deepcopy(model.encoder).eval()
        self.choice = Choice()
        if masks is not None:
            mask_layers(self.encoder, "encoder", masks, self.choice)
        self.predictors = predictors
        self.window = STRIDE * (self.config.segment + self.config.right_context)
        self.shift = STRIDE * self.config.segment
        self.register_buffer("mean", model.feature_mean.detach().clone())
        self.register_buffer("scale", model.feature_scale.detach().clone())
        self.register_buffer("languages", _language_embeddings(model, languages))
        self.selects = masks is not None or len(self.languages) > 1
        state = self.encoder.initial_state(1, self.mean)
        self._convolved = [(tensor.shape[1], tensor.shape[2]) for tensor in _conv_states(state.front_end, state.layers)]

    @property
    def channels(self) -> int:
        """Channels of its output."""
        return self.config.dim + (self.predictors if self.predictors > 1 else 0) + 1

    @property
    def keys_shape(self) -> tuple[int, int, int]:
        """(layers, frames, keys and values) of the attention cache of one stream."""
        return self.config.layers, max(1, self.config.left_context), 2 * self.config.dim

    @property
    def convolved_shape(self) -> tuple[int, int, int]:
        """(1, 1, numbers) of the convolution cache of one stream: all layers' in a row."""
        return 1, 1, max(1, sum(rows * columns for rows, columns in self._convolved))

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
        prompt_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The next chunk.

        Args:
            audio_signal: log-mel features (B, F, window); frames that are not a number, and all after, are padding.
            length: feature frames (B,), int64, of the chunk that count: the window, but at the end of a stream.
            cache_last_channel: keys and values (B, *keys_shape).
            cache_last_time: what convolutions keep (B, *convolved_shape).
            cache_last_channel_len: frames of the left context (B,), int64, that are valid.
            prompt_index: index of the language (B,), int64.

        Returns:
            Encodings and what the joiner must know (B, channels, segment), how many of them count (B,), new caches.
        """
        config, state = self.config, (cache_last_channel, cache_last_time, cache_last_channel_len)
        self.choice.rows = prompt_index
        features = audio_signal.transpose(1, 2)
        heard = ~features.isnan().any(dim=2)
        heard = heard & (torch.arange(self.window, device=heard.device) < length[:, None])
        count = ((~heard).long().cumsum(dim=1) == 0).long().sum(dim=1) // STRIDE
        features = self._normalize(torch.where(heard[:, :, None], features, self.mean), prompt_index)
        front_end, layers = self._unpack(state)
        frames, front_end = self.encoder.front_end(features[:, : self.shift], front_end)
        if config.right_context:
            right = self.encoder.front_end(features[:, self.shift :], front_end)[0]
            frames = torch.cat((frames, right), dim=1)
        windows = self._windows(cache_last_channel_len, count)
        blocks = frames[:, None]
        for layer, layer_state in zip(self.encoder.layers, layers, strict=True):
            blocks = layer(blocks, layer_state, windows)
        self.choice.rows = None
        encodings = self._with_notes(self.encoder.norm(blocks[:, 0, : config.segment]), count, prompt_index)
        valid = (cache_last_channel_len + config.segment).clamp(max=config.left_context)
        keys, convolved = self._pack(front_end, layers, state)
        return encodings.transpose(1, 2), count.clamp(max=config.segment), keys, convolved, valid

    def _normalize(self, features: Tensor, prompt_index: Tensor | None) -> Tensor:
        features = (features - self.mean) * self.scale
        if len(self.languages) == 0:
            return features
        if prompt_index is None or len(self.languages) == 1:
            return features + self.languages[0]
        return features + self.languages.index_select(0, prompt_index)[:, None]

    def _windows(self, valid: Tensor, count: Tensor) -> Windows:
        """What each stream's segment may see, from the valid frames of its left context and of its chunk (B,)."""
        config = self.config
        left, inner = config.left_context, config.segment + config.right_context
        positions = torch.arange(-left, inner, device=valid.device)
        allowed = (positions >= -valid[:, None]) & (positions < count[:, None])
        return Windows.of(config.segment, left, allowed[:, None])

    def _with_notes(self, encodings: Tensor, count: Tensor, prompt_index: Tensor | None) -> Tensor:
        """Encodings (B, S, D) and the channels after them (B, S, channels)."""
        size = self.config.segment
        notes = [encodings]
        if self.predictors > 1 and prompt_index is not None:
            which = torch.arange(self.predictors, device=count.device) == prompt_index[:, None]
            notes.append(which[:, None].expand(-1, size, -1).to(encodings.dtype))
        ended = torch.arange(size, device=count.device) >= count[:, None]
        return torch.cat((*notes, ended[:, :, None].to(encodings.dtype)), dim=2)

    def _unpack(self, state: EncoderState) -> tuple[list[Tensor], list[LayerState]]:
        keys, convolved, _ = state
        left = self.config.left_context
        sizes = [rows * columns for rows, columns in self._convolved]
        pieces = torch.split(convolved.flatten(1)[:, : sum(sizes)], sizes, dim=1)
        shaped = [piece.reshape(piece.shape[0], *shape) for piece, shape in zip(pieces, self._convolved, strict=True)]
        own = len(shaped) - self.config.layers
        layers = [LayerState(keys[:, index, :left], conv) for index, conv in enumerate(shaped[own:])]
        return shaped[:own], layers

    def _pack(self, front_end: list[Tensor], layers: list[LayerState], old: EncoderState) -> tuple[Tensor, Tensor]:
        """The new caches; one that holds nothing is handed on as it was, since a graph must use its inputs."""
        keys, convolved, _ = old
        if self.config.left_context:
            keys = torch.stack([layer.key_values for layer in layers], dim=1)
        kept = [tensor.flatten(1) for tensor in _conv_states(front_end, layers)]
        if any(rows * columns for rows, columns in self._convolved):
            convolved = torch.cat(kept, dim=1)[:, None, None]
        return keys.clone(), convolved.clone()


class PredictorStep(nn.Module):
    """One step of K predictors side by side: the joiner knows which one counts."""

    def __init__(self, predictor: Predictor, masks: Masks | None = None) -> None:
        """Takes the weights of ``predictor``.

        Args:
            predictor: its embedding and norm are shared.
            masks: for each of the K predictors, those of the model's weights; None: it is the only one.
        """
        super().__init__()
        lstm = predictor.lstm
        self.count = 1 if masks is None else len(masks)
        self.layers, self.hidden = lstm.num_layers, lstm.hidden_size
        self.embedding, self.norm = predictor.embedding, predictor.norm
        self.weights = nn.ModuleList()
        self.biases = nn.ParameterList()
        for layer in range(self.layers):
            for kind in ("ih", "hh"):
                name = f"weight_{kind}_l{layer}"
                weight = getattr(lstm, name)
                everything = torch.ones_like(weight, dtype=torch.bool)
                kept = [one.get(f"predictor.lstm.{name}", everything) for one in masks or [{}]]
                self.weights.append(MaskedWeight(weight, kept))
            bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
            self.biases.append(nn.Parameter(bias.detach().clone(), requires_grad=False))

    def initial_state(self, batch: int) -> PredictorState:
        """Hidden and cell states before the first symbol: two of (layers, B, K * H)."""
        shape = (self.layers, batch, self.count * self.hidden)
        return torch.zeros(shape), torch.zeros(shape)

    def forward(
        self, targets: Tensor, target_length: Tensor, states_0: Tensor, states_1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Symbols (B, 1), int32, lengths (B,), int32, and states -> predictions (B, K * P, 1), lengths, new states."""
        x = self.embedding(targets).transpose(0, 1).expand(self.count, -1, -1)
        every = torch.arange(self.count, device=targets.device)
        hidden, cell = [], []
        for layer in range(self.layers):
            before = states_0[layer].view(-1, self.count, self.hidden).transpose(0, 1)
            inwards, recurrent = self.weights[2 * layer](every), self.weights[2 * layer + 1](every)
            gates = torch.matmul(x, inwards.transpose(1, 2)) + torch.matmul(before, recurrent.transpose(1, 2))
            take, forget, new, give = (gates + self.biases[layer]).chunk(4, dim=2)
            memory = states_1[layer].view(-1, self.count, self.hidden).transpose(0, 1)
            memory = forget.sigmoid() * memory + take.sigmoid() * new.tanh()
            x = give.sigmoid() * memory.tanh()
            hidden.append(x.transpose(0, 1).flatten(1))
            cell.append(memory.transpose(0, 1).flatten(1))
        out = self.norm(x).transpose(0, 1).flatten(1)[:, :, None]
        return out, target_length.clone(), torch.stack(hidden), torch.stack(cell)


class JoinerStep(nn.Module):
    """One frame: (B, channels, 1) and (B, K * P, 1) -> scores (B, 1, 1, V + 1), blank last."""

    padding: Tensor

    def __init__(self, joiner: Joiner, blank: int, predictors: int = 1) -> None:
        super().__init__()
        self.joiner = joiner
        self.predictors = predictors
        self.register_buffer("padding", F.one_hot(torch.tensor(blank), len(joiner.output.weight)) * NEVER)

    def forward(self, encoder_outputs: Tensor, decoder_outputs: Tensor) -> Tensor:
        frame, prediction = encoder_outputs[:, :, 0], decoder_outputs[:, :, 0]
        dim = self.joiner.encoding.in_features
        if self.predictors > 1:
            which = frame[:, dim : dim + self.predictors, None]
            prediction = (prediction.view(frame.shape[0], self.predictors, -1) * which).sum(dim=1)
        joint = self.joiner.encoding(frame[:, :dim]) + self.joiner.prediction(prediction)
        scores = self.joiner.output(torch.relu(joint)) + frame[:, -1:] * self.padding
        out: Tensor = scores[:, None, None]
        return out


def _language_embeddings(model: Transducer, languages: Sequence[str]) -> Tensor:
    """What is added to features of each language (L, F); (0, F) if the model has no such embeddings."""
    if model.language_embedding is None:
        return model.feature_mean.new_zeros(0, len(model.feature_mean))
    known = model.config.language_embedding
    missing = [language for language in languages if language not in known]
    if missing:
        raise PathwaysError(f"language {missing[0]} has no embedding; the model knows: {' '.join(known)}")
    return model.language_embedding.weight.detach()[[known.index(language) for language in languages]].clone()


def _conv_states(front_end: list[Tensor], layers: list[LayerState]) -> list[Tensor]:
    return [*front_end, *(layer.conv for layer in layers)]
