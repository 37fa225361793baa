"""Whisper's greedy search over transformers' layers, without what its ``generate`` does between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from asr_pathways.bench.windows import TOKENS_AT_LEAST, TOKENS_PER_SECOND
from asr_pathways.models.hub.whisper import FRAME_RATE, Whisper


@torch.no_grad()
def greedy(
    model: Whisper, features: Tensor, lengths: Tensor, language: str, first_token: Callable[[], None]
) -> list[int]:
    """Log-mel features (1, T, F), their length (1,) -> the tokens that `Whisper.decode` finds."""
    from transformers import DynamicCache, EncoderDecoderCache

    hub: Any = model.network
    end, generation = int(hub.config.eos_token_id), hub.generation_config
    always = list(generation.suppress_tokens or [])
    suppressed = [*always, *(generation.begin_suppress_tokens or [])]
    encodings = model.encode(features, lengths)
    prompt = model.prompt(language)
    limit = TOKENS_AT_LEAST + int(TOKENS_PER_SECOND * float(lengths[0]) / FRAME_RATE)
    limit = min(limit, model.longest_text - len(prompt))
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    found: list[int] = []
    given: Iterable[int] = prompt
    while True:
        hidden = hub.model.decoder(
            input_ids=torch.tensor([given]), encoder_hidden_states=encodings, past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = hub.proj_out(hidden[0, -1])
        logits[suppressed] = -torch.inf
        token = int(logits.argmax())
        if not found:
            first_token()
        if token == end:
            return found
        found.append(token)
        if len(found) == limit:
            return found
        given, suppressed = [token], always
