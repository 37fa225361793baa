"""Steps of a streaming encoder layer in one call each: products, and what is between them.

A layer of a few frames is dozens of small operations, whose calls cost more time than their arithmetic. These steps
are those of `asr_pathways.models.emformer`, each with its layer norm before and its residual after, for inference with
the compiled kernels. All tensors are contiguous float32 ones on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.checks import check_floats

if TYPE_CHECKING:
    from asr_pathways.runtime.kernels import _sparse


_FLOATS_AFTER = 16
"""Floats that vectors of positions may read after the last one."""


class Step:
    """Base of the steps: constants, by their addresses, and the tensors that must live as long."""

    _constants: tuple[Any, ...]  # weights, addresses and numbers, in the order of the extension's arguments

    def __init__(self, norm: nn.LayerNorm, threads: int, variant: str | None = None) -> None:
        """``norm`` comes first in the step.

        Raises:
            PathwaysError: if the compiled kernels are missing, or an argument does not fit.
        """
        self._runner = extension.check_runner(threads, variant)
        self._extension: Any = extension.built()
        self._kept: list[Tensor] = []
        (self.dim,) = norm.normalized_shape
        self._norm = self._norm_of(norm)

    def _norm_of(self, norm: nn.LayerNorm) -> _sparse.Norm:
        (size,) = norm.normalized_shape
        return self._floats(norm.weight, size), self._floats(norm.bias, size), norm.eps

    def _floats(self, tensor: Tensor, *shape: int) -> int:
        """The address of a constant of this shape."""
        tensor = tensor.detach()
        check_floats(tensor, "a tensor of a step", *shape)
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _linear(self, layer: _sparse.Linear, out: int, inwards: int) -> _sparse.Linear:
        if layer.shape != (out, inwards):
            raise PathwaysError(f"a weight of {out}x{inwards} is needed here, not of {layer.shape}")
        return layer


class FeedForward(Step):
    """``x + W2 @ silu(W1 @ norm(x))``.

    Args:
        norm: over D.
        inwards: of a weight (H, D).
        outwards: of a weight (D, H).
        threads: how many share the rows of a weight.
        variant: one of `variants()`; the fastest if not given.
    """

    def __init__(
        self,
        norm: nn.LayerNorm,
        inwards: _sparse.Linear,
        outwards: _sparse.Linear,
        threads: int = 1,
        variant: str | None = None,
    ) -> None:
        super().__init__(norm, threads, variant)
        hidden = inwards.shape[0]
        layers = self._linear(inwards, hidden, self.dim), self._linear(outwards, self.dim, hidden)
        self._constants = self._norm, *layers

    def __call__(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        check_floats(x, "x", None, self.dim)
        out = torch.empty_like(x)
        self._extension.feed_forward(x.data_ptr(), x.shape[0], *self._constants, out.data_ptr(), self._runner)
        return out


class Attention(Step):
    """``x`` and the attention of ``norm(x)`` to a window: past frames, then these.

    Args:
        norm: over D.
        query: of a weight (D, D).
        key_value: of a weight (2 * D, D).
        outwards: of a weight (D, D).
        bias: (heads, rows, left + rows): added to the scores, for ``rows`` frames and ``left`` past ones of a stream.
        threads, variant: as of `FeedForward`.
    """

    def __init__(
        self,
        norm: nn.LayerNorm,
        query: _sparse.Linear,
        key_value: _sparse.Linear,
        outwards: _sparse.Linear,
        bias: Tensor,
        threads: int = 1,
        variant: str | None = None,
    ) -> None:
        super().__init__(norm, threads, variant)
        dim = self.dim
        self.heads, self.rows, self.length = bias.shape
        if dim % self.heads or self.length < self.rows:
            raise PathwaysError(f"a bias of {tuple(bias.shape)} does not fit {dim} channels")
        self._constants = (
            self._norm,
            self._linear(query, dim, dim),
            self._linear(key_value, 2 * dim, dim),
            self._linear(outwards, dim, dim),
            self.heads,
            self._floats(bias, *bias.shape),
        )

    def __call__(self, x: Tensor, past: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """One segment of B streams.

        Args:
            x: (B, rows, D).
            past: keys and values (B, left, 2 * D).
            unseen: (B, left + rows): added to the scores of each frame of the window.

        Returns:
            (B, rows, D), and keys and values of the window (B, left + rows, 2 * D).
        """
        streams, left = x.shape[0], self.length - self.rows
        check_floats(x, "x", None, self.rows, self.dim)
        check_floats(past, "past", streams, left, 2 * self.dim)
        check_floats(unseen, "unseen", streams, self.length)
        out, windows = torch.empty_like(x), torch.empty(streams, self.length, 2 * self.dim)
        inputs = x.data_ptr(), streams, self.rows, past.data_ptr(), left, unseen.data_ptr()
        self._extension.attention(*inputs, *self._constants, windows.data_ptr(), out.data_ptr(), self._runner)
        return out, windows


class RelativeAttention(Step):
    """``x`` and the attention of ``norm(x)`` to a window, with relative positions (Dai et al. 2019, arXiv 1901.02860).

    Args:
        norm: over D.
        query_key_value: of a weight (3 * D, D).
        outwards: of a weight (D, D).
        by_content, by_distance: (heads, d): added to the queries for scores by keys and by positions.
        positions: (heads, d, 2 * reach - 1): of distances from reach - 1, a key so far before a query, to 1 - reach.
        rows: frames at a time, at most.
        threads, variant: as of `FeedForward`.
    """

    def __init__(
        self,
        norm: nn.LayerNorm,
        query_key_value: _sparse.Linear,
        outwards: _sparse.Linear,
        by_content: Tensor,
        by_distance: Tensor,
        positions: Tensor,
        rows: int,
        threads: int = 1,
        variant: str | None = None,
    ) -> None:
        super().__init__(norm, threads, variant)
        dim = self.dim
        self.heads, self.width, distances = positions.shape
        self.reach, self.rows = (distances + 1) // 2, rows
        if self.heads * self.width != dim or not distances % 2 or not 1 <= rows <= self.reach:
            raise PathwaysError(f"positions of {tuple(positions.shape)} do not fit {dim} channels and {rows} frames")
        used = positions.reshape(dim, distances)[:, : self.reach + rows - 1]
        padded = nn.functional.pad(used, (0, _FLOATS_AFTER))
        self._constants = (
            self._norm,
            self._linear(query_key_value, 3 * dim, dim),
            self._linear(outwards, dim, dim),
            self.heads,
            self._floats(by_content.contiguous(), self.heads, self.width),
            self._floats(by_distance.contiguous(), self.heads, self.width),
            self._floats(padded, *padded.shape),
            padded.shape[1],
        )

    def __call__(self, x: Tensor, window: Tensor, start: int, end: int) -> Tensor:
        """(n, D) -> (n, D).

        Args:
            x: the frames.
            window: keys and values (2, heads, capacity, d), of which those from ``start`` to ``end`` are of past
                frames, with these at most as many as the reach; those of ``x`` are written after them.
        """
        check_floats(x, "x", None, self.dim)
        check_floats(window, "window", 2, self.heads, None, self.width)
        length, capacity = end - start + len(x), window.shape[2]
        if not (0 <= start <= end <= capacity - len(x) and 1 <= len(x) <= self.rows and length <= self.reach):
            raise PathwaysError(f"{len(x)} frames after those from {start} to {end} do not fit the window")
        out, stride = torch.empty_like(x), capacity * self.width
        keys = window.data_ptr() + window.element_size() * start * self.width
        values = keys + window.element_size() * self.heads * stride
        inputs = x.data_ptr(), len(x), keys, values, stride, length
        first = self.reach - length
        self._extension.relative_attention(*inputs, *self._constants, first, out.data_ptr(), self._runner)
        return out


class Convolution(Step):
    """``x`` and the convolution module on ``norm(x)``: product, GLU, depthwise, norm, SiLU, product.

    Args:
        norm: over D.
        inwards: of a weight (2 * D, D).
        depthwise: of D channels, each its own group, with or without a bias.
        depthwise_norm: over D.
        outwards: of a weight (D, D).
        threads, variant: as of `FeedForward`.
    """

    def __init__(
        self,
        norm: nn.LayerNorm,
        inwards: _sparse.Linear,
        depthwise: nn.Conv1d,
        depthwise_norm: nn.LayerNorm,
        outwards: _sparse.Linear,
        threads: int = 1,
        variant: str | None = None,
    ) -> None:
        super().__init__(norm, threads, variant)
        dim = self.dim
        (self.taps,) = depthwise.kernel_size
        bias = torch.zeros(dim) if depthwise.bias is None else depthwise.bias
        weight = depthwise.weight.detach().view(dim, self.taps).t().contiguous()
        self._constants = (
            self._norm,
            self._linear(inwards, 2 * dim, dim),
            self._floats(weight, self.taps, dim),
            self._floats(bias, dim),
            self.taps,
            self._norm_of(depthwise_norm),
            self._linear(outwards, dim, dim),
        )

    def __call__(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """One segment of B streams.

        Args:
            x: (B, rows, D).
            past: inputs of the depthwise convolution before (B, taps - 1, D).

        Returns:
            (B, rows, D), and the inputs of the convolution (B, taps - 1 + rows, D).
        """
        streams, rows = x.shape[0], x.shape[1]
        check_floats(x, "x", None, None, self.dim)
        check_floats(past, "past", streams, self.taps - 1, self.dim)
        out, windows = torch.empty_like(x), torch.empty(streams, self.taps - 1 + rows, self.dim)
        inputs = x.data_ptr(), streams, rows, past.data_ptr()
        self._extension.convolution(*inputs, *self._constants, windows.data_ptr(), out.data_ptr(), self._runner)
        return out, windows
