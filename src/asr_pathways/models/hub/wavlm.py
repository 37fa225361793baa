"""WavLM's attention by calls of its linear layers. Transformers uses their weights in a function of torch instead, so
that no hook is called: their inputs could not be observed, nor could they be refitted or run by compiled kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class CallingAttention(WavLMAttention):  # type: ignore[misc]
    """As its base, with the same parameters and outputs."""

    def torch_multi_head_self_attention(
        self, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
    ) -> tuple[Tensor, None]:
        """Hidden states (B, T, D), a mask (B, T) that is 1 at frames, biases (B * heads, T, T) -> (B, T, D), and no
        weights of attention.
        """
        batch, frames, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, frames, self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(batch, self.num_heads, frames, frames).to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None], -torch.inf)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def call_projections(network: Any) -> None:
    """Makes the attention of a WavLM network call its linear layers."""
    for module in network.modules():
        if type(module) is WavLMAttention:
            module.__class__ = CallingAttention
