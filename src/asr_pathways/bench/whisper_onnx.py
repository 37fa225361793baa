"""Whisper as two ONNX graphs of any length: encoder with the keys and values of cross-attention, and a decoder step.

No exporter that we know writes graphs for a window shorter than 30 seconds. These leave onnxruntime as little to do as
we could: queries, keys and values by one product, cross-attention's keys laid out for the products of a step, logits
of the last token only, and the best token chosen in the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from asr_pathways.bench.onnx_files import write_graph
from asr_pathways.bench.windows import TOKENS_AT_LEAST, TOKENS_PER_SECOND
from asr_pathways.files import write_json
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.whisper import STRIDE, Whisper

EXAMPLE_FRAMES = 30
"""Of features at export; Whisper has no fewer positions."""


class EncoderGraph(nn.Module):
    """Log-mel features (1, F, T) -> for each layer of the decoder keys (1, H, D, T / 2) and values (1, H, T / 2, D)."""

    def __init__(self, hub: Any) -> None:
        super().__init__()
        self.encoder, self._decoder_layers = hub.model.encoder, hub.model.decoder.layers
        self.attentions = nn.ModuleList(SelfAttention(layer.self_attn) for layer in self.encoder.layers)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        encoder = self.encoder
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer, attention in zip(encoder.layers, self.attentions, strict=True):
            query, key, value = attention(layer.self_attn_layer_norm(x))
            x = x + layer.self_attn.out_proj(attend(query, key.transpose(2, 3), value))
            x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        x = encoder.layer_norm(x)
        caches: list[Tensor] = []
        for layer in self._decoder_layers:
            attention = layer.encoder_attn
            key, value = (heads(linear(x), attention) for linear in (attention.k_proj, attention.v_proj))
            caches += [key.transpose(2, 3).contiguous(), value.contiguous()]
        return tuple(caches)


class DecoderGraph(nn.Module):
    """Tokens (1, N) after P others -> the best next one, and keys and values (1, H, P + N, D) of each layer.

    ``mask`` (N, P + N) and ``bias`` (V,) are added to the scores of self-attention and to the logits.
    """

    def __init__(self, hub: Any) -> None:
        super().__init__()
        self.decoder, self.output = hub.model.decoder, hub.proj_out
        self.attentions = nn.ModuleList(SelfAttention(layer.self_attn) for layer in self.decoder.layers)

    def forward(
        self, tokens: Tensor, mask: Tensor, bias: Tensor, past: list[Tensor], cross: list[Tensor]
    ) -> tuple[Tensor, ...]:
        decoder, before = self.decoder, past[0].shape[2]
        x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[before : before + tokens.shape[1]]
        caches: list[Tensor] = []
        for index, (layer, attention) in enumerate(zip(decoder.layers, self.attentions, strict=True)):
            query, key, value = attention(layer.self_attn_layer_norm(x))
            key, value = torch.cat((past[2 * index], key), dim=2), torch.cat((past[2 * index + 1], value), dim=2)
            caches += [key, value]
            x = x + layer.self_attn.out_proj(attend(query, key.transpose(2, 3), value, mask))
            to_encoder = layer.encoder_attn
            query = heads(to_encoder.q_proj(layer.encoder_attn_layer_norm(x)), to_encoder)
            query = query * to_encoder.head_dim**-0.5
            x = x + to_encoder.out_proj(attend(query, cross[2 * index], cross[2 * index + 1]))
            x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        logits = self.output(decoder.layer_norm(x[:, -1])) + bias
        return (logits.argmax(dim=-1), *caches)


class SelfAttention(nn.Module):
    """The three projections of a self-attention layer as one product."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        scales = [attention.head_dim**-0.5, 1.0, 1.0]
        width = attention.embed_dim
        self._heads = attention.num_heads
        self.linear = nn.Linear(width, 3 * width)
        with torch.no_grad():
            self.linear.bias.zero_()  # keys have none
            for index, (part, scale) in enumerate(zip(parts, scales, strict=True)):
                rows = slice(index * width, (index + 1) * width)
                self.linear.weight[rows] = part.weight * scale
                if part.bias is not None:
                    self.linear.bias[rows] = part.bias * scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, N, W) -> scaled queries, keys and values (1, H, N, D)."""
        parts = self.linear(x).view(*x.shape[:2], 3, self._heads, -1)
        query, key, value = (parts[:, :, index].transpose(1, 2) for index in range(3))
        return query, key, value


def heads(x: Tensor, attention: Any) -> Tensor:
    """(1, N, W) -> (1, H, N, D)."""
    return x.view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled queries (1, H, N, D), keys (1, H, D, T), values (1, H, T, D) -> (1, N, W)."""
    scores = query @ key
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


@torch.no_grad()
def write_whisper_graphs(asr: AsrModel, language: str, folder: Path) -> None:
    """Writes ``encoder.onnx``, ``decoder.onnx``, the tokenizer and what a search has to know."""
    model = asr.model.eval()
    assert isinstance(model, Whisper)
    hub: Any = model.network
    size, channels = hub.config.decoder_attention_heads, hub.config.d_model // hub.config.decoder_attention_heads
    layers = hub.config.decoder_layers
    any_size = Dim.DYNAMIC
    caches = [f"{kind}_{index}" for index in range(layers) for kind in ("key", "value")]
    write_graph(
        EncoderGraph(hub),
        (torch.zeros(1, hub.config.num_mel_bins, EXAMPLE_FRAMES),),
        ["features"],
        [f"cross_{name}" for name in caches],
        ({2: any_size},),
        folder / "encoder.onnx",
    )
    past = [torch.zeros(1, size, 5, channels) for _ in caches]
    shapes = ((1, size, channels, 15), (1, size, 15, channels))
    cross = [torch.zeros(shape) for _ in range(layers) for shape in shapes]  # one tensor twice would be one input
    write_graph(
        DecoderGraph(hub),
        (torch.zeros(1, 3, dtype=torch.long), torch.zeros(3, 8), torch.zeros(hub.config.vocab_size), past, cross),
        ["tokens", "mask", "bias", *(f"past_{name}" for name in caches), *(f"cross_{name}" for name in caches)],
        ["token", *(f"new_{name}" for name in caches)],
        (
            {1: any_size},
            {0: any_size, 1: any_size},
            None,
            [{2: any_size}] * len(caches),
            [{3: any_size}, {2: any_size}] * layers,
        ),
        folder / "decoder.onnx",
    )
    asr.tokenizer.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    generation = hub.generation_config
    write_json(
        folder / "search.json",
        {
            "prompt": model.prompt(language),
            "end": hub.config.eos_token_id,
            "suppressed": generation.suppress_tokens or [],
            "suppressed_first": generation.begin_suppress_tokens or [],
            "vocabulary": hub.config.vocab_size,
            "bins": hub.config.num_mel_bins,
            "heads": size,
            "channels": channels,
            "window": model.window,
            "frames": model.frames,
            "short_windows": model.padding == "longest",
            "stride": STRIDE,
            "longest_text": model.longest_text,
            "tokens_at_least": TOKENS_AT_LEAST,
            "tokens_per_second": TOKENS_PER_SECOND,
        },
    )
