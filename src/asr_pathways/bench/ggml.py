"""Whisper's weights in the file format of whisper.cpp: magic, sizes, mel filters, vocabulary, tensors."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.codec import HubTokenizer

MAGIC = 0x67676D6C
NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"encoder_attn", "cross_attn"),
    (r"self_attn", "attn"),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"out_proj", "out"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"embed_tokens", "token_embedding"),
)
"""From transformers' parts of a name to whisper.cpp's."""


def write_ggml(asr: AsrModel, path: Path) -> None:
    """Writes matrices in float16 and the rest in float32, as whisper.cpp's published files have them.

    Raises:
        PathwaysError: if the output layer has weights of its own, for which the format has no place.
    """
    hub: Any = asr.model.network
    frontend: Any = asr.model.frontend
    config, filters = hub.config, np.asarray(frontend.extractor.mel_filters, dtype="<f4").T
    if hub.proj_out.weight is not hub.model.decoder.embed_tokens.weight:
        raise PathwaysError("the output layer has weights of its own, for which whisper.cpp's format has no place")
    with path.open("wb") as file:
        sizes = [config.vocab_size, config.max_source_positions, config.d_model, config.encoder_attention_heads]
        sizes += [config.encoder_layers, config.max_target_positions, config.d_model, config.decoder_attention_heads]
        sizes += [config.decoder_layers, config.num_mel_bins, 1]
        file.write(struct.pack("<12i", MAGIC, *sizes))
        file.write(struct.pack("<2i", *filters.shape) + np.ascontiguousarray(filters).tobytes())
        pieces = _pieces(asr)
        file.write(struct.pack("<i", len(pieces)))
        file.writelines(struct.pack("<i", len(piece)) + piece for piece in pieces)
        for name, tensor in hub.model.state_dict(prefix="model.").items():
            for pattern, replacement in NAMES:
                name = re.sub(pattern, replacement, name)
            values = tensor.detach().float().numpy()
            if re.search(r"conv\d\.bias", name):
                values = values[:, None]
            half = values.ndim > 1 and not name.endswith(("bias", "positional_embedding"))
            file.write(struct.pack("<3i", values.ndim, len(name), int(half)))
            file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + name.encode())
            file.write(values.astype("<f2" if half else "<f4").tobytes())


def _pieces(asr: AsrModel) -> list[bytes]:
    """The word pieces in the order of their ids, up to the first special token."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert isinstance(asr.tokenizer, HubTokenizer)
    tokenizer = asr.tokenizer.tokenizer
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    ids = sorted((index, piece) for piece, index in tokenizer.get_vocab().items())
    special = set(tokenizer.get_added_vocab())
    end = next(place for place, (_, piece) in enumerate(ids) if piece in special)
    return [bytes(byte_of[letter] for letter in piece) for _, piece in ids[:end]]
