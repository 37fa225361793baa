"""Named sizes of the recogniser."""

from __future__ import annotations

from typing import Any, Literal, get_args

from asr_pathways.models.config import EmformerConfig, TransducerConfig

Preset = Literal["micro", "tiny", "small", "base"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


_ENCODERS: dict[str, dict[str, Any]] = {
    "micro": {"dim": 128, "heads": 4, "layers": 4, "segment": 16, "right_context": 4},
    "tiny": {"dim": 144, "heads": 4, "layers": 6, "segment": 16, "right_context": 4},
    "small": {"dim": 320, "heads": 8, "layers": 12, "segment": 8, "right_context": 2},
}


def preset(name: Preset, vocab_size: int, features: int = 80) -> TransducerConfig:
    """A size by its name.

    ``micro`` (1.4M weights, for experiments of hundreds of runs), ``tiny`` (2.4M, for hours of speech), ``small``
    (20M), ``base`` (77M, the papers' family).
    """
    if name == "base":
        return TransducerConfig(vocab_size=vocab_size, encoder=EmformerConfig(features=features))
    sizes = _ENCODERS[name]
    dim = sizes["dim"]
    encoder = EmformerConfig(features=features, front_end="conv", ffn_dim=4 * dim, conv_kernel=9, **sizes)
    return TransducerConfig(
        vocab_size=vocab_size,
        encoder=encoder,
        embedding_dim=320 if name == "small" else 128,
        predictor_dim=dim,
        predictor_layers=1,
        joiner_dim=512 if name == "small" else 128,
        dropout=0.1 if name == "small" else 0.2,
        ctc_weight=0.3,
    )
