"""Named sizes of the recogniser."""

from __future__ import annotations

from typing import Literal, get_args

from asr_pathways.models.emformer import EmformerConfig
from asr_pathways.models.transducer import TransducerConfig

Preset = Literal["micro", "tiny", "small", "base"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


def preset(name: Preset, vocab_size: int, features: int = 80) -> TransducerConfig:
    """A size by its name.

    ``micro`` (1.4M weights, for experiments of hundreds of runs), ``tiny`` (2.4M, for hours of speech), ``small``
    (20M), ``base`` (77M, the papers' family).
    """
    if name == "micro":
        return TransducerConfig(
            vocab_size=vocab_size,
            encoder=EmformerConfig(
                features=features,
                front_end="conv",
                dim=128,
                ffn_dim=512,
                heads=4,
                layers=4,
                segment=16,
                left_context=32,
                right_context=4,
                conv_kernel=9,
                dropout=0.1,
            ),
            embedding_dim=128,
            predictor_dim=128,
            predictor_layers=1,
            joiner_dim=128,
            dropout=0.2,
            ctc_weight=0.3,
        )
    if name == "tiny":
        return TransducerConfig(
            vocab_size=vocab_size,
            encoder=EmformerConfig(
                features=features,
                front_end="conv",
                dim=144,
                ffn_dim=576,
                heads=4,
                layers=6,
                segment=16,
                left_context=32,
                right_context=4,
                conv_kernel=9,
                dropout=0.1,
            ),
            embedding_dim=128,
            predictor_dim=144,
            predictor_layers=1,
            joiner_dim=128,
            dropout=0.2,
            ctc_weight=0.3,
        )
    if name == "small":
        return TransducerConfig(
            vocab_size=vocab_size,
            encoder=EmformerConfig(
                features=features,
                front_end="conv",
                dim=320,
                ffn_dim=1280,
                heads=8,
                layers=12,
                segment=8,
                left_context=32,
                right_context=2,
                conv_kernel=9,
            ),
            embedding_dim=320,
            predictor_dim=320,
            predictor_layers=1,
            joiner_dim=512,
            ctc_weight=0.3,
        )
    return TransducerConfig(vocab_size=vocab_size, encoder=EmformerConfig(features=features))
