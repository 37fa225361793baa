"""Named sizes of the recogniser."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.models.transducer import TransducerConfig

Preset = Literal["micro", "tiny", "small", "base"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


class _Size(NamedTuple):
    dim: int
    heads: int
    layers: int
    segment: int
    right_context: int
    embedding: int
    predictor: int
    joiner: int
    dropout: float


_SIZES: dict[Preset, _Size] = {
    "micro": _Size(128, 4, 4, 16, 4, embedding=128, predictor=128, joiner=128, dropout=0.2),
    "tiny": _Size(144, 4, 6, 16, 4, embedding=128, predictor=144, joiner=128, dropout=0.2),
    "small": _Size(320, 8, 12, 8, 2, embedding=320, predictor=320, joiner=512, dropout=0.1),
}


def preset(name: Preset, vocab_size: int, features: int = 80) -> TransducerConfig:
    """A size by its name.

    ``micro`` (1.4M weights, for experiments of hundreds of runs), ``tiny`` (2.4M, for hours of speech), ``small``
    (20M), ``base`` (77M, the papers' family).
    """
    if name == "base":
        return TransducerConfig(vocab_size=vocab_size, encoder=EmformerConfig(features=features))
    size = _SIZES[name]
    return TransducerConfig(
        vocab_size=vocab_size,
        encoder=EmformerConfig(
            features=features,
            front_end="conv",
            dim=size.dim,
            ffn_dim=4 * size.dim,
            heads=size.heads,
            layers=size.layers,
            segment=size.segment,
            right_context=size.right_context,
            conv_kernel=9,
        ),
        embedding_dim=size.embedding,
        predictor_dim=size.predictor,
        predictor_layers=1,
        joiner_dim=size.joiner,
        dropout=size.dropout,
        ctc_weight=0.3,
    )
