"""Transducers from elsewhere as speech models: Parakeet RNN-T and TDT, Nemotron streaming.

RNN-T loss is this package's (transformers' needs torchaudio); TDT loss (Xu et al. 2023, arXiv 2304.06795) is
transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.models.hub.base import ExtractorFrontend, HubModel, pad_lengths
from asr_pathways.models.rnnt_loss import rnnt_loss

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch


class HubTransducer(HubModel):
    """Any of transformers' ``...ForRNNT`` and ``...ForTDT``: one vocabulary, whatever the language."""

    unprunable = ("joint", "encoder_projector", "decoder.decoder_projector")
    blank: int

    def __init__(self, hub: Any, frontend: ExtractorFrontend, parts: list[Any]) -> None:
        super().__init__(hub, frontend, parts)
        self.blank = int(hub.config.blank_token_id)
        self.durations = list(getattr(hub.config, "durations", []))
        lookahead = getattr(hub.config.encoder_config, "default_num_lookahead_tokens", None)
        # The scores of durations follow those of tokens: the search must not choose one as a token.
        size = int(hub.config.vocab_size)
        self._suppressed = list(range(size, size + len(self.durations))) or None
        self._options = {} if lookahead is None else {"num_lookahead_tokens": lookahead}

    def encodings_for(self, targets: Sequence[int]) -> int:
        """As many as the shortest durations of the targets take; without durations any number is in one frame."""
        return len(targets) * min(self.durations, default=0)

    def _loss(self, batch: Batch) -> Tensor:
        """RNN-T or TDT loss, in nats a token."""
        encoded = self._encode(batch.features, batch.feature_lengths)
        lengths = encoded.attention_mask.sum(-1).long()
        tokens = F.pad(batch.targets, (1, 0), value=self.blank)
        logits = self.hub(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, : int(lengths.max())]
        return self._costs(logits, batch, lengths).sum() / batch.target_lengths.sum().clamp(min=1)

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Also of the decoder, whose input begins with a blank."""
        tokens = pad_lengths(batch.target_lengths + 1, batch.targets.shape[1] + 1)
        return {"decoder": tokens} | super().positions(batch)

    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        encoded = self._encode(features, lengths)
        return encoded.last_hidden_state, encoded.attention_mask.sum(-1).long()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return torch.as_tensor(self.hub.encoder._get_subsampling_output_length(lengths)).long()

    def _encode(self, features: Tensor, lengths: Tensor) -> Any:
        mask = pad_lengths(lengths, features.shape[1]).long()
        return self.hub.get_audio_features(input_features=features, attention_mask=mask, **self._options)

    def _costs(self, logits: Tensor, batch: Batch, lengths: Tensor) -> Tensor:
        if not self.durations:
            return rnnt_loss(
                logits.float(), batch.targets, lengths, batch.target_lengths, blank=self.blank, ids=batch.ids
            )
        from transformers.loss.loss_tdt import tdt_loss

        size = logits.shape[-1] - len(self.durations)
        costs: Tensor = tdt_loss(
            logits[..., :size],
            logits[..., size:],
            batch.targets.int(),
            lengths.int(),
            batch.target_lengths.int(),
            blank_token_id=self.blank,
            durations=self.durations,
            reduction="none",
        )
        return costs

    @torch.no_grad()
    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """Greedy search by transformers' ``generate``."""
        mask = pad_lengths(lengths, features.shape[1]).long()
        frames = int(self.output_lengths(lengths).max())
        sequences = self.hub.generate(
            input_features=features,
            attention_mask=mask,
            decoder_start_token_id=self.blank,
            suppress_tokens=self._suppressed,
            max_new_tokens=self.hub.max_symbols_per_step * max(1, frames),
            **self._options,
        ).sequences
        silent = {self.blank, self.hub.config.pad_token_id}
        return [[token for token in row if token not in silent] for row in sequences.tolist()]
