"""A tiny CTC recogniser from transformers, and noise in two languages to train it on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.integrations.batches import LanguageBatches
from tests.same import same as same

LANGUAGES = ("en", "fr")
CONFIG = Wav2Vec2Config(
    vocab_size=12,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=(8, 8),
    conv_stride=(5, 4),
    conv_kernel=(10, 8),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    layerdrop=0.0,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    mask_time_prob=0.0,
    ctc_loss_reduction="mean",
)


def recogniser(seed: int = 0, **options: Any) -> Wav2Vec2ForCTC:
    torch.manual_seed(seed)
    config = Wav2Vec2Config.from_dict({**CONFIG.to_dict(), **options})
    return Wav2Vec2ForCTC(config).train()


def attach(model: torch.nn.Module, **options: Any) -> Pathways:
    defaults = {"sparsity": 0.6, "score": "activation", "adapt_every": 2}
    return Pathways.attach(model, PathwayConfig(**{**defaults, **options}), LANGUAGES)


class Noise(Dataset[dict[str, Any]]):
    """Utterances of 400 samples with three labels; languages in turn, each at a level of its own."""

    def __init__(self, size: int = 16) -> None:
        generator = torch.Generator().manual_seed(7)
        self._waves = torch.randn(size, 400, generator=generator)
        self._labels = torch.randint(1, 12, (size, 3), generator=generator)

    def __len__(self) -> int:
        return len(self._waves)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):
            raise IndexError
        level = 1.0 + index % 2
        language = LANGUAGES[index % 2]
        return {"input_values": level * self._waves[index], "labels": self._labels[index], "language": language}


def batches(size: int = 16) -> LanguageBatches:
    """Batches of two utterances: first all of English, then all of French."""
    return LanguageBatches(Noise(size), 2)


def alternating(size: int = 16) -> list[dict[str, Any]]:
    """The same batches, languages in turn."""
    made = batches(size)
    half = len(made) // 2
    return [made[index // 2 + half * (index % 2)] for index in range(len(made))]


def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    loss: Tensor = model(input_values=batch["input_values"], labels=batch["labels"]).loss
    return loss
