"""Transducers from elsewhere as speech models: Parakeet RNN-T and TDT, Nemotron streaming and Nemotron 3.5 ASR.

RNN-T loss is this package's (transformers' needs torchaudio); TDT loss (Xu et al. 2023, arXiv 2304.06795) is
transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.models.hub.base import Aligned, ExtractorFrontend, HubModel
from asr_pathways.models.hub.cache_aware import CacheAware
from asr_pathways.models.rnnt_loss import rnnt_loss
from asr_pathways.models.speech_model import within_lengths

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch


class HubTransducer(HubModel):
    """Any of transformers' ``...ForRNNT`` and ``...ForTDT``: one vocabulary, whatever the language.

    Args:
        hub, frontend, parts: see `HubModel`.
        cache_aware: how it streams; None: it takes whole recordings only.
    """

    unprunable: tuple[str, ...] = ("joint", "encoder_projector", "decoder.decoder_projector")
    stepwise = ("decoder", "joint")
    blank: int

    def __init__(
        self, hub: Any, frontend: ExtractorFrontend, parts: list[Any], cache_aware: CacheAware | None = None
    ) -> None:
        super().__init__(hub, frontend, parts)
        if hasattr(hub, "prompt_projector"):
            self.unprunable = (*self.unprunable, "prompt_projector")
        self.blank = int(hub.config.blank_token_id)
        self.durations = list(getattr(hub.config, "durations", []))
        self.cache_aware = cache_aware
        self.languages = () if cache_aware is None else tuple(cache_aware.prompts)
        self._options = {} if cache_aware is None else {"num_lookahead_tokens": cache_aware.lookahead}

    def encodings_for(self, targets: Sequence[int]) -> int:
        """As many as the shortest durations of the targets take; without durations any number is in one frame."""
        return len(targets) * min(self.durations, default=0)

    def _loss(self, batch: Batch) -> Tensor:
        """RNN-T or TDT loss, in nats a token."""
        encoded = self._encode(batch.features, batch.feature_lengths, batch.language)
        lengths = encoded.attention_mask.sum(-1).long()
        tokens = F.pad(batch.targets, (1, 0), value=self.blank)
        logits = self.hub(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, : int(lengths.max())]
        return self._costs(logits, batch, lengths).sum() / batch.target_lengths.sum().clamp(min=1)

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Also of the decoder, whose input begins with a blank."""
        tokens = within_lengths(batch.target_lengths + 1, batch.targets.shape[1] + 1)
        return {"decoder": tokens} | super().positions(batch)

    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        encoded = self._encode(features, lengths, language)
        return encoded.last_hidden_state, encoded.attention_mask.sum(-1).long()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return torch.as_tensor(self.hub.encoder._get_subsampling_output_length(lengths)).long()

    def _encode(self, features: Tensor, lengths: Tensor, language: str) -> Any:
        mask, options = within_lengths(lengths, features.shape[1]).long(), dict[str, Any](self._options)
        if self.cache_aware is not None and (prompt := self.cache_aware.prompt(language)) is not None:
            options["prompt_ids"] = torch.full_like(lengths, prompt)
        return self.hub.get_audio_features(input_features=features, attention_mask=mask, **options)

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

    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """Greedy search."""
        return [row.tokens for row in self.aligned(features, lengths, language)]

    @torch.no_grad()
    def aligned(self, features: Tensor, lengths: Tensor, language: str) -> list[Aligned]:
        """As `decode`, which finds what transformers' ``generate`` does; that takes longer and returns no probability.

        A token is of the frame that emitted it, and of those that its duration skips.
        """
        encoded = self._encode(features, lengths, language)
        frames, ends = encoded.pooler_output, encoded.attention_mask.sum(-1)
        rows, at, run = torch.arange(len(ends), device=ends.device), torch.zeros_like(ends), torch.zeros_like(ends)
        most = self.hub.max_symbols_per_step * max(1, int(ends.max()))
        predicted, state = self._predict(torch.full_like(ends, self.blank), None)
        steps: list[tuple[Tensor, ...]] = []
        while len(steps) < most and bool((live := at < ends).any()):
            here = frames[rows, at.clamp(max=frames.shape[1] - 1), None]
            scores = self.hub.joint(decoder_hidden_states=predicted, encoder_hidden_states=here)[:, 0]
            tokens, probabilities, moves = self._choose(scores)
            emitted = live & (tokens != self.blank)
            run = torch.where(emitted, run + 1, 0)
            if not self.durations:
                moves = (~emitted | (run >= self.hub.max_symbols_per_step)).long()
                run = torch.where(moves > 0, 0, run)
            ended = torch.minimum(at + moves.clamp(min=1), ends)
            steps.append((torch.where(emitted, tokens, self.blank), at, ended, probabilities))
            at = at + moves
            if emitted.any():
                new, after = self._predict(tokens, state)
                predicted = torch.where(emitted[:, None, None], new, predicted)
                state = tuple(torch.where(emitted[None, :, None], *pair) for pair in zip(after, state, strict=True))
        columns = [torch.stack(column, dim=1).tolist() for column in zip(*steps, strict=True)]
        return [self._path(row) for row in zip(*columns, strict=True)] or [Aligned([], [], []) for _ in rows]

    def _path(self, row: Sequence[Sequence[Any]]) -> Aligned:
        """What an utterance emitted, by tokens, frames, the frames after, and probabilities of each step."""
        silent = {self.blank, self.hub.config.pad_token_id}
        kept = [step for step in zip(*row, strict=True) if step[0] not in silent]
        return Aligned([step[0] for step in kept], [step[1:3] for step in kept], [step[3] for step in kept])

    def _predict(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The prediction network's output (B, 1, D) after tokens (B,), and its state."""
        decoder = self.hub.decoder
        hidden, state = decoder.lstm(decoder.embedding(tokens[:, None]), state)
        return decoder.decoder_projector(hidden), state

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best token, its probability and its duration, each (B,), by the joiner's output."""
        size = int(self.hub.config.vocab_size)
        tokens, best = scores[:, :size].argmax(dim=-1), scores[:, :size].amax(dim=-1)
        probabilities = (best - scores[:, :size].logsumexp(dim=-1)).exp()
        if not self.durations:
            return tokens, probabilities, torch.zeros_like(tokens)
        durations = torch.tensor(self.durations, device=scores.device)[scores[:, size:].argmax(dim=-1)]
        return tokens, probabilities, torch.where(tokens == self.blank, durations.clamp(min=1), durations)
