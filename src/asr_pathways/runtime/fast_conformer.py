"""A cache-aware FastConformer transducer (Noroozi et al. 2023, arXiv 2312.17279) of the hub, a chunk at a time.

The network's tensors are transformers' own; its linear layers are products of any kind. Positions are relative, so that
their projections are the same for each chunk: they are computed once, which transformers does for each chunk again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.runtime.layers import MANY

Multiply = Callable[[Tensor], Tensor]
"""A linear layer: (n, in) -> (n, out)."""


class Layer(Protocol):
    """A conformer block: (n, D) -> (n, D), which moves its state on."""

    def initial_state(self) -> Any:
        """Of a new segment."""

    def __call__(self, x: Tensor, state: Any) -> Tensor:
        """``state``: as `initial_state` makes it."""


class Products(Protocol):
    """How a network is computed.

    Attributes:
        nbytes: memory of the weights that were stored for it.
    """

    nbytes: int

    def linear(self, weight: Tensor, bias: Tensor | None, rows: int, exact: bool = False) -> Multiply:
        """A linear layer of a weight (out, in), a bias (out,) and the rows of its usual input.

        ``exact``: its products are exact but for the order of sums.
        """

    def layer(self, layer: Any, left: int, chunk: int, positions: Tensor) -> Layer:
        """A block of the encoder.

        Args:
            layer: transformers' own.
            left, chunk: of the `Encoder`.
            positions: (2 (left + chunk) - 1, D): of distances, the farthest first.
        """


class TorchProducts:
    """All by torch, with the tensors as they are."""

    nbytes = 0

    def linear(self, weight: Tensor, bias: Tensor | None, rows: int, exact: bool = False) -> Multiply:
        """As of `Products`."""
        return lambda x: F.linear(x, weight, bias)

    def layer(self, layer: Any, left: int, chunk: int, positions: Tensor) -> Layer:
        """As of `Products`."""
        return TorchLayer(layer, left, chunk, positions)


@dataclass
class LayerState:
    """What a `TorchLayer` remembers.

    Attributes:
        keys, values: (heads, p, d): of the frames in its left context.
        frames: (k - 1, D): the last inputs of its convolution, of k taps.
    """

    keys: Tensor
    values: Tensor
    frames: Tensor


@dataclass
class EncoderState:
    """What the encoder remembers of a segment.

    Attributes:
        stages: of each convolution of the subsampling, its inputs (t, F, C) that later outputs need; None at first.
        layers: of each layer.
    """

    stages: list[Tensor | None]
    layers: list[Any]


class Encoder:
    """The encoder: features to encodings, `chunk` frames at a time, which see each other and `left` frames before.

    Args:
        encoder: a `NemotronAsrStreamingEncoder`, in eval mode.
        lookahead: frames after a chunk's first that it sees: one of those that the model was trained with.
        products: how it is computed.

    Attributes:
        chunk: frames of the encoder that are computed at once.
        left: frames of left context; whole chunks.
        factor: frames of features to one of the encoder.
    """

    def __init__(self, encoder: Any, lookahead: int, products: Products) -> None:
        config = encoder.config
        self.chunk = lookahead + 1
        self.left = (config.sliding_window - 1) // self.chunk * self.chunk
        self.factor = int(config.subsampling_factor)
        self._scale = float(encoder.input_scale)
        subsampling = encoder.subsampling
        self._convolutions = [
            _Convolution(one) for one in (subsampling.conv_in, *(stage.depthwise_conv for stage in subsampling.layers))
        ]
        self._pointwise = [
            products.linear(one.weight.flatten(1), one.bias, MANY, exact=True)
            for one in (stage.pointwise_conv for stage in subsampling.layers)
        ]
        self._activation = subsampling.act_fn
        inwards, channels = subsampling.linear, subsampling.conv_in.out_channels
        by_frequency = inwards.weight.view(len(inwards.weight), channels, -1).transpose(1, 2).flatten(1)
        self._inwards = products.linear(by_frequency, inwards.bias, self.chunk)
        like = subsampling.linear.weight.new_zeros(1, self.left + self.chunk, config.hidden_size)
        positions = encoder.encode_positions(like)[0]
        self._layers = [products.layer(layer, self.left, self.chunk, positions) for layer in encoder.layers]

    def initial_state(self) -> EncoderState:
        """Of a new segment."""
        return EncoderState([None] * len(self._convolutions), [layer.initial_state() for layer in self._layers])

    def features_wanted(self, state: EncoderState) -> int:
        """Frames of features for the next whole chunk."""
        return self.factor * self.chunk - (self.factor - 1 if state.stages[0] is None else 0)

    def encode(self, features: Tensor, state: EncoderState, final: bool = False) -> Tensor:
        """Features (T, F) of the next whole chunk -> encodings (`chunk`, D); moves the state on.

        Args:
            final: whether the segment ends with these features: they may be fewer then, and so may the encodings.
        """
        x = features[..., None]
        for index, convolution in enumerate(self._convolutions):
            x, state.stages[index] = convolution(x, state.stages[index], final)
            if index:
                count, width, channels = x.shape
                x = self._pointwise[index - 1](x.view(-1, channels)).view(count, width, channels)
            x = self._activation(x)
        x = self._inwards(x.flatten(1)) * self._scale
        if not len(x):  # what is left at the end is of frames that are there already
            return x
        for layer, memory in zip(self._layers, state.layers, strict=True):
            x = layer(x, memory)
        return x


class _Convolution:
    """A strided convolution of the subsampling, from one channel or of each by itself: (t, F, C) -> (t', F', C').

    Channels come last, so that each tap is one multiplication for all of them: less than half of the time of torch's.
    """

    def __init__(self, convolution: Any) -> None:
        (self._kernel, self._across), (self._stride, self._step) = convolution.kernel_size, convolution.stride
        self._time, self._frequency = convolution.time_pad, convolution.freq_pad
        weight = convolution.weight
        self._window = weight.flatten(1) if convolution.in_channels == 1 else None
        self._taps = weight[:, 0].permute(1, 2, 0).contiguous()
        self._bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias

    def __call__(self, x: Tensor, before: Tensor | None, final: bool) -> tuple[Tensor, Tensor]:
        """The outputs that are new, at the end with its padding; and the inputs that later outputs need."""
        left, right = self._time
        x = F.pad(x, (0, 0, *self._frequency, left if before is None else 0, right if final else 0))
        if before is not None:
            x = torch.cat([before, x])
        count = max(0, (len(x) - self._kernel) // self._stride + 1)
        width = (x.shape[1] - self._across) // self._step + 1
        kept = x[count * self._stride :].clone()
        if not count:
            return x.new_zeros(0, width, len(self._bias)), kept
        if self._window is not None:
            windows = x[..., 0].unfold(0, self._kernel, self._stride).unfold(1, self._across, self._step)
            return F.linear(windows.flatten(2), self._window, self._bias), kept
        y = self._bias.expand(count, width, -1)
        for i, row in enumerate(self._taps):
            rows = x[i : i + self._stride * (count - 1) + 1 : self._stride]
            for j, tap in enumerate(row):
                y = torch.addcmul(y, rows[:, j : j + self._step * (width - 1) + 1 : self._step], tap)
        return y, kept


class TorchLayer:
    """A conformer block by torch."""

    def __init__(self, layer: Any, left: int, chunk: int, positions: Tensor) -> None:
        attention, convolution = layer.self_attn, layer.conv
        self._left, self._chunk, self._scale = left, chunk, attention.scaling
        self._norms = layer.norm_feed_forward1, layer.norm_self_att, layer.norm_conv, layer.norm_feed_forward2
        self._norm_out, self._inner_norm = layer.norm_out, convolution.norm
        self._feed_forwards = layer.feed_forward1, layer.feed_forward2
        self._query_key_value = query_key_value(attention)
        self._attended = attention.o_proj
        self._bias_u, self._bias_v = attention.bias_u[:, None], attention.bias_v[:, None]
        self._positions = projected_positions(attention, positions)
        self._heads = len(self._positions)
        self._pointwise = [(one.weight.squeeze(2), one.bias) for one in pointwise(convolution)]
        depthwise, self._activation = convolution.depthwise_conv, convolution.activation
        self._taps = depthwise.weight[:, 0].T.contiguous()  # (k, D)
        self._bias = torch.zeros_like(self._taps[0]) if depthwise.bias is None else depthwise.bias

    def initial_state(self) -> LayerState:
        """Of a new segment."""
        heads, size, _ = self._positions.shape
        nothing = self._positions.new_zeros(heads, 0, size)
        return LayerState(nothing, nothing, self._positions.new_zeros(len(self._taps) - 1, heads * size))

    def __call__(self, x: Tensor, state: LayerState) -> Tensor:
        """As of `Layer`."""
        first, attention, convolution, last = self._norms
        x = x + 0.5 * self._feed_forwards[0](first(x))
        x = x + self._attend(attention(x), state)
        x = x + self._convolve(convolution(x), state)
        y: Tensor = self._norm_out(x + 0.5 * self._feed_forwards[1](last(x)))
        return y

    def _attend(self, x: Tensor, state: LayerState) -> Tensor:
        """To the chunk itself and its left context, all of them: (n, D) -> (n, D)."""
        count = len(x)
        projected = F.linear(x, *self._query_key_value)
        query, key, value = projected.view(count, 3, self._heads, -1).permute(1, 2, 0, 3)
        keys, values = torch.cat([state.keys, key], dim=1), torch.cat([state.values, value], dim=1)
        total = keys.shape[1]
        first = max(0, total - self._left)
        state.keys, state.values = keys[:, first:], values[:, first:]
        # Of distances total - 1 to 1 - count, those of query i begin at count - 1 - i.
        zero = self._left + self._chunk - 1
        distances = self._positions[:, :, zero - total + 1 : zero + count]
        by_distance = torch.matmul(query + self._bias_v, distances)
        size = by_distance.shape[2]
        by_position = by_distance.as_strided(
            (self._heads, count, total), (count * size, size - 1, 1), by_distance.storage_offset() + count - 1
        )
        scores = torch.baddbmm(by_position, query + self._bias_u, keys.transpose(1, 2))
        attended = torch.matmul((scores * self._scale).softmax(dim=-1, dtype=torch.float32).to(x.dtype), values)
        y: Tensor = self._attended(attended.transpose(0, 1).reshape(count, -1))
        return y

    def _convolve(self, x: Tensor, state: LayerState) -> Tensor:
        """Gated, over this and the frames before: (n, D) -> (n, D)."""
        inwards, outwards = self._pointwise
        frames = torch.cat([state.frames, F.glu(F.linear(x, *inwards), dim=-1)])
        state.frames = frames[len(x) :]
        x = torch.addcmul(self._bias, frames[: len(x)], self._taps[0])  # a quarter of the time of torch's convolution
        for place, tap in enumerate(self._taps[1:], 1):
            x.addcmul_(frames[place : place + len(x)], tap)
        return F.linear(self._activation(self._inner_norm(x)), *outwards)


def query_key_value(attention: Any) -> tuple[Tensor, Tensor | None]:
    """The three projections of an attention as one: its weight (3 D, D) and bias (3 D,)."""
    inwards = attention.q_proj, attention.k_proj, attention.v_proj
    biases = [one.bias for one in inwards if one.bias is not None]
    return torch.cat([one.weight for one in inwards]), torch.cat(biases) if biases else None


def projected_positions(attention: Any, positions: Tensor) -> Tensor:
    """Positions (n, D) as an attention's scores use them: (heads, d, n)."""
    projected = F.linear(positions, attention.relative_k_proj.weight)
    return projected.view(len(positions), len(attention.bias_u), -1).permute(1, 2, 0).contiguous()


def pointwise(convolution: Any) -> tuple[Any, Any]:
    """The two convolutions of a kernel of one frame, which are linear layers."""
    return convolution.pointwise_conv1, convolution.pointwise_conv2


class Predicted(NamedTuple):
    """What the prediction network returns.

    Attributes:
        output: (1, D): for the joiner.
        hidden, cell: (D,) of each of its layers.
    """

    output: Tensor
    hidden: Sequence[Tensor]
    cell: Sequence[Tensor]


class Network:
    """A cache-aware transducer for one language, in products of any kind; its tensors are read once.

    Args:
        hub: transformers' network, in eval mode.
        lookahead: see `Encoder`.
        products: how it is computed.
        prompt: of the language; None: the network has none.

    Attributes:
        nbytes: memory of the products' weights.
    """

    def __init__(self, hub: Any, lookahead: int, products: Products, prompt: int | None) -> None:
        self.encoder, linear = Encoder(hub.encoder, lookahead, products), products.linear
        self.blank, self.most_symbols = int(hub.config.blank_token_id), int(hub.max_symbols_per_step)
        self.silent = {self.blank, hub.config.pad_token_id}
        self._prompted: tuple[Multiply, Multiply] | None = None
        if prompt is not None:
            inwards, outwards = hub.prompt_projector.linear_1, hub.prompt_projector.linear_2
            width = hub.config.encoder_config.hidden_size  # after which come the prompts, of which one is on
            bias = inwards.bias + inwards.weight[:, width + prompt]
            self._prompted = (
                linear(inwards.weight[:, :width], bias, self.encoder.chunk),
                linear(outwards.weight, outwards.bias, self.encoder.chunk),
            )
        self._projected = linear(hub.encoder_projector.weight, hub.encoder_projector.bias, self.encoder.chunk)
        self._embedding = hub.decoder.embedding.weight
        lstm = hub.decoder.lstm
        self._cells = [
            linear(
                torch.cat([getattr(lstm, f"weight_ih_l{n}"), getattr(lstm, f"weight_hh_l{n}")], dim=1),
                getattr(lstm, f"bias_ih_l{n}") + getattr(lstm, f"bias_hh_l{n}"),
                1,
            )
            for n in range(lstm.num_layers)
        ]
        self._predicted = linear(hub.decoder.decoder_projector.weight, hub.decoder.decoder_projector.bias, 1)
        self._activation = hub.joint.activation
        self._head = linear(hub.joint.head.weight, hub.joint.head.bias, self.encoder.chunk)
        self.nbytes = products.nbytes

    def encode(self, features: Tensor, state: EncoderState, final: bool = False) -> Tensor:
        """As `Encoder.encode`, projected for the joiner."""
        x = self.encoder.encode(features, state, final)
        if self._prompted is not None:
            inwards, outwards = self._prompted
            x = outwards(inwards(x).relu())
        return self._projected(x)

    def predict(self, token: int, before: Predicted | None = None) -> Predicted:
        """The prediction network after one more token; before the first it is the blank."""
        x, hidden, cell = self._embedding[token][None], [], []
        for number, gates in enumerate(self._cells):
            h, c = (
                (torch.zeros_like(x), torch.zeros_like(x))
                if before is None
                else (before.hidden[number], before.cell[number])
            )
            i, f, g, o = gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            hidden.append(x)
            cell.append(c)
        return Predicted(self._predicted(x), hidden, cell)

    def join(self, encodings: Tensor, predicted: Predicted) -> Tensor:
        """Scores (n, V) of the tokens after encodings (n, D)."""
        return self._head(self._activation(encodings + predicted.output))


class Search:
    """Greedy search in a segment.

    Attributes:
        tokens, frames, probabilities: of what was emitted: ids, frames of the encoder, and the model's in [0, 1].
        past: frames of the encoder that were searched.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.tokens: list[int] = []
        self.frames: list[int] = []
        self.probabilities: list[float] = []
        self.past = 0
        self._predicted = network.predict(network.blank)

    def accept(self, encodings: Tensor) -> None:
        """Searches encodings (n, D): all frames that are left at once, again from each that emits a token."""
        network, at, run = self._network, 0, 0
        while at < len(encodings):
            scores = network.join(encodings[at:], self._predicted).float()
            emitting = (scores.argmax(dim=-1) != network.blank).nonzero()
            if not len(emitting):
                break
            first = int(emitting[0])
            run = run if first == 0 else 0
            best = scores[first]
            token = int(best.argmax())
            if token not in network.silent:
                self.tokens.append(token)
                self.frames.append(self.past + at + first)
                self.probabilities.append(float((best[token] - best.logsumexp(dim=-1)).exp()))
            self._predicted = network.predict(token, self._predicted)
            at, run = at + first, run + 1
            if run >= network.most_symbols:
                at, run = at + 1, 0
        self.past += len(encodings)
