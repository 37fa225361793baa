"""Whisper (Radford et al. 2022, arXiv 2212.04356) as a speech model.

Whisper pads every input to 30 seconds, and as published needs that: on a shorter window it repeats itself. One that
trains here gets windows of its batch's length from the first step on, which makes a step on short utterances several
times cheaper, and it decodes so from then on. Its config records that (``padding``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.data.languages import find_language
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import ExtractorFrontend, HubModel, pad_lengths

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch

FRAME_RATE = 100.0
STRIDE = 2  # frames of features to one of the encoder
TOKENS_PER_SECOND = 20
TOKENS_AT_LEAST = 20
"""Nobody speaks faster: a decoder that goes on is repeating itself."""

RANGE = 2.0
"""From the largest to the smallest log-mel value: the extractor cuts off what is fainter by 10^8."""

ENGLISH_TOKENS = 51864
"""In the vocabulary of every English-only model (``whisper-tiny.en``, ...)."""


class Whisper(HubModel):
    """Whisper for transcription without time stamps.

    Attributes:
        padding: ``window``: inputs are padded to the 30 s that the model was made with; ``longest``: only to the
            longest of their batch.
    """

    unprunable = ("proj_out",)
    classifier = "proj_out"
    free_text = True

    def __init__(self, hub: Any, tokenizer: Any, extractor: Any) -> None:
        frontend = ExtractorFrontend(extractor, "input_features", FRAME_RATE, transposed=True)
        super().__init__(hub, frontend, [tokenizer, extractor])
        self._start = _token(tokenizer, "<|startoftranscript|>")
        self._end = int(hub.config.eos_token_id)
        self._languages = language_tokens(tokenizer) if _multilingual(hub) else {}
        self.languages = tuple(self._languages) or ("en",)
        tasks = [_token(tokenizer, name) for name in ("<|transcribe|>", "<|notimestamps|>")]
        self._tasks = tasks if self._languages else tasks[1:]
        self._prompt_size = 1 + len(self._tasks) + bool(self._languages)
        self.window = float(hub.config.max_source_positions) * STRIDE / FRAME_RATE
        self.frames = int(hub.config.max_source_positions) * STRIDE
        self.longest_text = int(hub.config.max_target_positions)
        self.matched = (
            *_between_layers("encoder", hub.config.encoder_layers),
            *_between_layers("decoder", hub.config.decoder_layers),
        )

    @property
    def padding(self) -> str:
        return str(getattr(self.hub.config, "padding", "window"))

    @property
    def pads_to_window(self) -> bool:  # type: ignore[override]
        return self.padding == "window"

    def train_on_short_windows(self) -> None:
        self.hub.config.padding = "longest"

    def prompt(self, language: str) -> list[int]:
        """The tokens that start a transcript in ``language``.

        Raises:
            PathwaysError: for a language that Whisper has no token for.
        """
        if not self._languages:
            return [self._start, *self._tasks]
        code = find_language(language, self._languages)
        if code is None:
            raise PathwaysError(f"unknown language {language!r}: this model knows {' '.join(self.languages)}")
        return [self._start, self._languages[code], *self._tasks]

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel features (B, T, F) and their lengths (B,) -> encodings (B, T', D).

        Padding is filled with the extractor's value of silence, 2 (eight powers of ten) below each row's largest; T' is
        1500 or, if `padding` is ``longest``, half of the longest row.

        Raises:
            PathwaysError: if an input is longer than Whisper's window.
        """
        if (reason := self.length_error(int(lengths.max()), 0)) is not None:
            raise PathwaysError(reason)
        size = self._padded(lengths)
        features = F.pad(features, (0, 0, 0, max(0, size - features.shape[1])))[:, :size]
        valid = pad_lengths(lengths, size)[..., None]
        silence = features.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True) - RANGE
        features = torch.where(valid, features, silence)
        encoder = self.hub.model.encoder
        x = F.gelu(encoder.conv1(features.transpose(1, 2)))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = F.dropout(x + encoder.embed_positions.weight[: x.shape[1]], encoder.dropout, self.training)
        for layer in encoder.layers:
            x = layer(x, None)
        out: Tensor = encoder.layer_norm(x)
        return out

    def _padded(self, lengths: Tensor) -> int:
        """The frames of a batch with padding."""
        return self.frames if self.padding == "window" else min(self.frames, int(lengths.max()) + 1) // STRIDE * STRIDE

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Of all layers: frames of features, of the encoder, and tokens."""
        size, prompt = self._padded(batch.feature_lengths), len(self.prompt(batch.language))
        encoded = pad_lengths(self.output_lengths(batch.feature_lengths), size // STRIDE)
        return {
            "*.encoder_attn.[kv]_proj": encoded,
            "model.encoder.conv*": pad_lengths(batch.feature_lengths, size),
            "model.encoder": encoded,
            "model.decoder": pad_lengths(batch.target_lengths + prompt, batch.targets.shape[1] + prompt),
        }

    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        return self.encode(features, lengths), self.output_lengths(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + 1) // STRIDE

    def length_error(self, frames: int, tokens: int) -> str | None:
        if frames > self.frames:
            seconds, window = frames / FRAME_RATE, self.frames / FRAME_RATE
            return f"{seconds:.1f} s of audio: Whisper's window is {window:g} s: cut it"
        if (total := self._prompt_size + tokens) > self.longest_text:
            return f"a text of {total} tokens: Whisper's limit is {self.longest_text}"
        return super().length_error(frames, tokens)

    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the text and the token that ends it, in nats a token.

        Raises:
            PathwaysError: if an utterance's audio or text is too long for Whisper.
        """
        sizes = zip(batch.ids, batch.feature_lengths.tolist(), batch.target_lengths.tolist(), strict=True)
        for identifier, frames, tokens in sizes:
            if (reason := self.length_error(frames, tokens)) is not None:
                raise PathwaysError(f"utterance {identifier}: {reason}")
        encodings = self.encode(batch.features, batch.feature_lengths)
        prompt = batch.targets.new_tensor(self.prompt(batch.language)).expand(len(batch), -1)
        hidden = self.hub.model.decoder(
            input_ids=torch.cat((prompt, batch.targets), dim=1), encoder_hidden_states=encodings, use_cache=False
        ).last_hidden_state
        logits = self.hub.proj_out(hidden[:, prompt.shape[1] - 1 :])
        wanted = F.pad(batch.targets, (0, 1)).scatter(1, batch.target_lengths[:, None], self._end)
        wanted = wanted.masked_fill(~pad_lengths(batch.target_lengths + 1, wanted.shape[1]), -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    def prediction_lengths(self, batch: Batch) -> Tensor:
        return batch.target_lengths + 1

    @torch.no_grad()
    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """Greedy search: log-mel features (B, T, F), their lengths (B,) -> token ids, without prompt and end."""
        from transformers.generation import GenerationMixin
        from transformers.modeling_outputs import BaseModelOutput

        encodings = self.encode(features, lengths)
        prompt = torch.tensor(self.prompt(language), device=encodings.device).expand(len(features), -1)
        seconds = float(lengths.max()) / FRAME_RATE
        count = min(self.longest_text - prompt.shape[1], TOKENS_AT_LEAST + int(TOKENS_PER_SECOND * seconds))
        # Whisper's own generate() insists on windows of 30 s; the general one accepts the encoder's output.
        sequences = GenerationMixin.generate(
            self.hub,
            encoder_outputs=BaseModelOutput(last_hidden_state=encodings),
            attention_mask=torch.ones(encodings.shape[:2], dtype=torch.long, device=encodings.device),
            decoder_input_ids=prompt,
            max_new_tokens=count,
            do_sample=False,
            num_beams=1,
        )
        rows = sequences[:, prompt.shape[1] :].tolist()
        return [row[: row.index(self._end)] if self._end in row else row for row in rows]


def language_tokens(tokenizer: Any) -> dict[str, int]:
    """{language code: id of its token} of a Whisper tokenizer; empty for an English-only one."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary = tokenizer.get_vocab()
    return {code: vocabulary[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in vocabulary}


def _multilingual(hub: Any) -> bool:
    """English-only models have the language tokens too, and were never trained on them."""
    stated = getattr(hub.generation_config, "is_multilingual", None)
    return bool(hub.config.vocab_size != ENGLISH_TOKENS if stated is None else stated)


def _between_layers(side: str, layers: int) -> list[str]:
    """The norms that read each layer's output: their output has no few huge channels, as the residual stream has."""
    inner = [f"model.{side}.layers.{index}.self_attn_layer_norm" for index in range(1, layers)]
    return [*inner, f"model.{side}.layer_norm"]


def _token(tokenizer: Any, name: str) -> int:
    index = tokenizer.get_vocab().get(name)
    if index is None:
        raise PathwaysError(f"the tokenizer has no {name}: not Whisper's")
    return int(index)
