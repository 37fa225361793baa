from __future__ import annotations

import pytest
import torch
from torch import nn


class Recogniser(nn.Module):
    """Something of every kind that can be pruned, and of what cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.convolution = nn.Conv1d(6, 8, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(8)
        self.recurrent = nn.LSTM(8, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)
        self.output = nn.Linear(10, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) of 0..10 -> (B, T, 7)."""
        hidden = self.convolution(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        hidden, _ = self.recurrent(self.norm(hidden))
        hidden, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.output(hidden)


@pytest.fixture
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser()


def tokens(seed: int, low: int = 0, high: int = 11) -> torch.Tensor:
    """A batch (2, 9); a language of its own is a range of tokens of its own."""
    return torch.randint(low, high, (2, 9), generator=torch.Generator().manual_seed(seed))
