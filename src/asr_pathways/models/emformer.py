"""A streaming Emformer encoder (Shi et al., arXiv 2010.10759), without memory bank.

An utterance is cut into segments of ``segment`` frames. A frame attends to its own segment, to ``left_context``
frames before it (keys and values, as each layer computed them when that segment was current) and to
``right_context`` frames after it. Right-context frames are copied for each segment ("hard copy"), so that no
layer looks further ahead than the first one did.

There is one implementation: :meth:`Emformer.forward` runs all segments of an utterance side by side,
:meth:`Emformer.stream` runs the next ones as their frames arrive, and both go through the same layers with the
same windows. So they agree for every length, a partial last segment included.

Two additions to the paper, each a field of the config: a learned bias for the distance between a query and a key
(without any notion of position, attention sees a window as a bag of frames), and a causal depthwise convolution
after each attention (Conformer, arXiv 2005.08100), off with ``conv_kernel`` 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.models.config import EmformerConfig
from asr_pathways.models.speech_model import within_lengths

STRIDE = 4
"""Feature frames per encoder frame: 10 ms features make 40 ms encoder frames."""

UNSEEN = -1e4
"""Added to the score of a key that does not exist. Finite: a row of padding sees no key, and must not become NaN."""


@dataclass
class LayerState:
    """A layer's cache: keys and values (B, left_context, 2 * D), convolution inputs (B, K - 1, D)."""

    key_values: Tensor
    conv: Tensor


@dataclass
class EmformerState:
    """All that streaming needs to go on: made by :meth:`Emformer.initial_state`, updated in place."""

    features: Tensor  # frames that do not fill an encoder frame yet (B, t < 4, F)
    front_end: list[Tensor]  # the front end's cache, one tensor a convolution
    frames: Tensor  # encoder frames that wait for their segment or its right context (B, n, D)
    layers: list[LayerState]
    past: int = 0  # encoder frames before the current segment

    def tensors(self) -> list[Tensor]:
        """Its tensors (B, ...), in a fixed order."""
        of_layers = [tensor for layer in self.layers for tensor in (layer.key_values, layer.conv)]
        return [self.features, self.frames, *self.front_end, *of_layers]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EmformerState:
        """The same place in the stream, with other tensors in the order of :meth:`tensors`."""
        features, frames, *rest = tensors
        first = len(self.front_end)
        layers = [LayerState(*rest[i : i + 2]) for i in range(first, len(rest), 2)]
        return EmformerState(features, rest[:first], frames, layers, self.past)

    @classmethod
    def stack(cls, states: Sequence[EmformerState]) -> EmformerState:
        """Streams side by side; each must have as many frames waiting and as much past as the others."""
        return states[0].with_tensors([torch.cat(parts) for parts in zip(*(s.tensors() for s in states), strict=True)])

    def split(self) -> list[EmformerState]:
        """One state a stream."""
        return [self.with_tensors(parts) for parts in zip(*(torch.split(t, 1) for t in self.tensors()), strict=True)]


@dataclass
class Windows:
    """What all layers of one pass share: which keys a segment may see, and how the blocks are cut.

    A block is a segment and the copy of its right context.
    """

    segment: int  # frames
    left: int  # frames of left context
    unseen: Tensor  # (B, N, 1, 1, left + segment + right), added to the scores of keys; 0 for those that exist

    @staticmethod
    def of(segment: int, left: int, allowed: Tensor) -> Windows:
        """From which keys (B, N, left + segment + right) exist, bool."""
        return Windows(segment, left, (UNSEEN * ~allowed)[:, :, None, None, :])


class StackFrontEnd(nn.Module):
    """Stacks 4 feature frames into one and projects them: (B, T, F) -> (B, T // 4, D)."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(STRIDE * features, dim)

    def initial_state(self, batch: int, like: Tensor) -> list[Tensor]:
        return []

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        batch, frames, width = features.shape
        out: Tensor = self.projection(features.reshape(batch, frames // STRIDE, STRIDE * width))
        return out, state


class ConvFrontEnd(nn.Module):
    """Two causal convolutions of stride 2: (B, T, F) -> (B, T // 4, D). Sees 130 ms, none of it ahead."""

    def __init__(self, features: int, dim: int, kernel: int = 5) -> None:
        super().__init__()
        self.kept = kernel - 2
        self.channels = (features, dim)
        self.convs = nn.ModuleList(nn.Conv1d(width, dim, kernel, stride=2) for width in self.channels)
        self.projection = nn.Linear(dim, dim)

    def initial_state(self, batch: int, like: Tensor) -> list[Tensor]:
        return [like.new_zeros(batch, width, self.kept) for width in self.channels]

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = features.transpose(1, 2)
        after: list[Tensor] = []
        for conv, past in zip(self.convs, state, strict=True):
            x = torch.cat((past, x), dim=2)
            after.append(x[:, :, x.shape[2] - self.kept :])
            x = F.silu(conv(x))
        return self.projection(x.transpose(1, 2)), after


class SegmentAttention(nn.Module):
    """Multi-head attention of each segment (and its right-context copy) over its own window."""

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.window = config.left_context + config.segment + config.right_context
        self.norm = nn.LayerNorm(config.dim)
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.distance_bias = nn.Parameter(torch.zeros(config.heads, 2 * self.window - 1))
        self.register_buffer("distances", self.make_distances(config), persistent=False)

    @staticmethod
    def make_distances(config: EmformerConfig) -> Tensor:
        """(segment + right, left + segment + right): which distance bias each query and key has."""
        positions = torch.arange(config.left_context + config.segment + config.right_context)
        queries = positions[config.left_context :]
        return positions[None, :] - queries[:, None] + len(positions) - 1

    def forward(self, blocks: Tensor, state: LayerState, windows: Windows) -> Tensor:
        """(B, N, S + R, D) -> the same shape; ``state`` moves on by N segments."""
        batch, segments, size, dim = blocks.shape
        heads, width = self.heads, dim // self.heads
        blocks = self.norm(blocks)
        query = self.query(blocks).view(batch * segments, size, heads, width).transpose(1, 2)
        window = self._window(self.key_value(blocks), state, windows)
        window = window.view(batch * segments, -1, 2, heads, width)
        key, value = window[:, :, 0].transpose(1, 2), window[:, :, 1].transpose(1, 2)
        bias = self.distance_bias[:, self.distances] + windows.unseen  # type: ignore[index]
        mixed = F.scaled_dot_product_attention(query, key, value, bias.flatten(0, 1).to(query.dtype))
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, segments, size, dim))
        return out

    def _window(self, blocks: Tensor, state: LayerState, windows: Windows) -> Tensor:
        """Keys and values (B, N, S + R, 2 * D) of blocks -> those that each may see, (B, N, left + S + R, 2 * D)."""
        size, left = windows.segment, windows.left
        if blocks.shape[1] == 1:  # a stream: as few copies as can be
            window = torch.cat((state.key_values, blocks[:, 0]), dim=1)
            state.key_values = window[:, size : size + left]
            return window[:, None]
        sequence = torch.cat((state.key_values, blocks[:, :, :size].flatten(1, 2)), dim=1)
        state.key_values = sequence[:, sequence.shape[1] - left :]
        before = sequence.unfold(1, left + size, size).transpose(2, 3)
        return torch.cat((before, blocks[:, :, size:]), dim=2)


class CausalConv(nn.Module):
    """The Conformer's convolution module, made causal: pointwise, GLU, depthwise, norm, SiLU, pointwise."""

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        self.kept = config.conv_kernel - 1
        self.norm = nn.LayerNorm(config.dim)
        self.inwards = nn.Linear(config.dim, 2 * config.dim)
        self.depthwise = nn.Conv1d(config.dim, config.dim, config.conv_kernel, groups=config.dim)
        self.depthwise_norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, blocks: Tensor, state: LayerState, windows: Windows) -> Tensor:
        """(B, N, S + R, D) -> the same shape; ``state`` moves on by N segments."""
        segments, size = blocks.shape[1], windows.segment
        x = F.glu(self.inwards(self.norm(blocks)))
        sequence = torch.cat((state.conv, x[:, :, :size].flatten(1, 2)), dim=1)
        state.conv = sequence[:, segments * size :]
        # Right context too goes on from the end of its own segment.
        before = sequence.unfold(1, self.kept, size)[:, :segments]
        x = self.depthwise(torch.cat((before, x.transpose(2, 3)), dim=3).flatten(0, 1)).transpose(1, 2)
        out: Tensor = self.out(F.silu(self.depthwise_norm(x))).view(blocks.shape)
        return out


class EmformerLayer(nn.Module):
    """Attention, convolution (if any), feed-forward: each after a layer norm and with a residual."""

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        self.attention = SegmentAttention(config)
        self.conv = CausalConv(config) if config.conv_kernel else None
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, config.ffn_dim),
            nn.SiLU(),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, blocks: Tensor, state: LayerState, windows: Windows) -> Tensor:
        """(B, N, S + R, D) -> the same shape; ``state`` moves on by N segments."""
        blocks = blocks + self.dropout(self.attention(blocks, state, windows))
        if self.conv is not None:
            blocks = blocks + self.dropout(self.conv(blocks, state, windows))
        out: Tensor = blocks + self.dropout(self.feed_forward(blocks))
        return out


class Emformer(nn.Module):
    """Features (B, T, F) at 10 ms in, encodings (B, T // 4, D) at 40 ms out.

    Algorithmic latency: ``(segment + right_context) * 40`` ms.
    """

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        self.config = config
        front_end = {"stack": StackFrontEnd, "conv": ConvFrontEnd}[config.front_end]
        self.front_end: StackFrontEnd | ConvFrontEnd = front_end(config.features, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EmformerLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    @staticmethod
    def output_lengths(lengths: Tensor) -> Tensor:
        """Feature frames (B,) -> encoder frames (B,)."""
        return torch.div(lengths, STRIDE, rounding_mode="floor")

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) of whole utterances, valid frames (B,) -> encodings (B, T // 4, D), lengths (B,).

        Features beyond an utterance's length have no influence on it.
        """
        lengths = self.output_lengths(lengths)
        count = features.shape[1] // STRIDE
        if count == 0:
            return features.new_zeros(features.shape[0], 0, self.config.dim), lengths
        state = self.initial_state(features.shape[0], features)
        frames, _ = self.front_end(features[:, : count * STRIDE], state.front_end)
        return self._segments(self.dropout(frames), lengths, state)[:, :count], lengths

    def positions(self, lengths: Tensor, count: int) -> dict[str, Tensor]:
        """{pattern of modules: bool, True at what is not padding in their input}.

        Args:
            lengths: of rows (B,), in encoder frames.
            count: encoder frames that they are padded to.
        """
        config, kept = self.config, getattr(self.front_end, "kept", 0)

        def rows(per_frame: int, before: int = 0) -> Tensor:
            return within_lengths(before + per_frame * lengths, before + per_frame * count)

        segments = -(-count // config.segment)
        frames = torch.arange(segments * config.segment + config.right_context, device=lengths.device)
        blocks = frames.unfold(0, config.segment + config.right_context, config.segment) < lengths[:, None, None]
        return {
            "front_end.convs.0": rows(STRIDE, kept),
            "front_end.convs.1": rows(STRIDE // 2, kept),
            "front_end": rows(1),
            "layers.*.conv.out": blocks.flatten(0, 1),
            "layers": blocks,
        }

    def initial_state(self, batch: int, like: Tensor) -> EmformerState:
        """The state before the first frame, on the device and in the type of ``like``."""
        config, empty = self.config, like.new_zeros
        key_values, inputs = (config.left_context, 2 * config.dim), (max(config.conv_kernel - 1, 0), config.dim)
        return EmformerState(
            features=empty(batch, 0, config.features),
            front_end=self.front_end.initial_state(batch, like),
            frames=empty(batch, 0, config.dim),
            layers=[LayerState(empty(batch, *key_values), empty(batch, *inputs)) for _ in range(config.layers)],
        )

    def stream(self, features: Tensor, state: EmformerState, final: bool = False) -> Tensor:
        """The encodings that are ready (B, t', D) after the next feature frames (B, t, F), t >= 0, of B streams.

        They are those that :meth:`forward` returns for the utterance. ``state`` is updated in place; ``final``: no more
        features will come, and frames that wait for a full segment or right context are encoded now.
        """
        config = self.config
        features = torch.cat((state.features, features), dim=1)
        whole = features.shape[1] // STRIDE * STRIDE
        state.features = features[:, whole:]
        frames = state.frames
        if whole:
            new, state.front_end = self.front_end(features[:, :whole], state.front_end)
            frames = torch.cat((frames, self.dropout(new)), dim=1)
        count = frames.shape[1]
        # A segment is ready once its right context is there; at the end all that is left is.
        ready = (count - config.right_context) // config.segment * config.segment
        ready = count if final else max(ready, 0)
        state.frames = frames[:, ready:]
        if ready == 0:
            return frames[:, :0]
        ends = torch.full((frames.shape[0],), state.past + count, device=frames.device)
        out = self._segments(frames, ends, state, ready)
        state.past += ready
        return out[:, :ready]

    def _segments(self, frames: Tensor, ends: Tensor, state: EmformerState, ready: int | None = None) -> Tensor:
        """Runs the first ``ready`` of ``frames`` (B, n, D) as segments; the rest serve as right context.

        ``ends`` (B,) are the stream positions, counted like ``state.past``, where utterances end.
        """
        config = self.config
        size, left, ahead = config.segment, config.left_context, config.right_context
        ready = frames.shape[1] if ready is None else ready
        segments = -(-ready // size)
        missing = segments * size + ahead - frames.shape[1]
        if missing > 0:
            frames = F.pad(frames, (0, 0, 0, missing))
        blocks = frames.unfold(1, size + ahead, size)[:, :segments].transpose(2, 3)
        starts = state.past + size * torch.arange(segments, device=frames.device)
        positions = starts[:, None] + torch.arange(-left, size + ahead, device=frames.device)
        allowed = (positions >= 0)[None] & (positions[None] < ends[:, None, None])
        windows = Windows.of(size, left, allowed)
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            blocks = layer(blocks, layer_state, windows)
        out: Tensor = self.norm(blocks[:, :, :size].flatten(1, 2))
        return out
