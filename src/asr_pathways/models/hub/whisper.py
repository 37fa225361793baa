"""Whisper (Radford et al. 2022, arXiv 2212.04356) as a speech model.

Whisper pads every input to 30 seconds, and as published needs that: on a shorter window it repeats itself. One that
trains here gets windows of its batch's length from the first step on, which makes a step on short utterances several
times cheaper, and it decodes each utterance in a window of its own length from then on. Its config records that
(``padding``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.data.languages import known_language
from asr_pathways.errors import PathwaysError
from asr_pathways.models.feed_forward import FeedForwards
from asr_pathways.models.guards import LEAST_LOG_PROBABILITY, is_silence, loop_end, varied
from asr_pathways.models.hub.base import ExtractorFrontend, HubModel
from asr_pathways.models.speech_model import within_lengths

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch

FRAME_RATE = 100.0
STRIDE = 2  # frames of features to one of the encoder
RANGE = 2.0
"""From the largest to the smallest log-mel value: the extractor cuts off what is fainter by 10^8."""

LEAST = -1.5
"""The smallest log-mel value of all, where the extractor cuts off faint recordings."""

ENGLISH_TOKENS = 51864
"""In the vocabulary of every English-only model (``whisper-tiny.en``, ...)."""


@dataclass
class _Transcript:
    """Tokens that greedy search found, without prompt and end.

    Attributes:
        log_probability: of them and the end, summed, in nats.
        no_speech: the probability of "no speech".
        loops: whether search was stopped because the tokens go round.
    """

    tokens: list[int]
    log_probability: float = 0.0
    no_speech: float = 0.0
    loops: bool = False

    @property
    def mean(self) -> float:
        """Log probability a token."""
        return self.log_probability / (len(self.tokens) + 1)


class Whisper(HubModel):
    """Whisper for transcription without time stamps.

    Attributes:
        padding: ``window``: inputs are padded to the 30 s that the model was made with; ``longest``: only to the
            longest of their batch.
    """

    stacks = MappingProxyType({part: (f"model.{part}.layers", f"{part}_layers") for part in ("encoder", "decoder")})
    unprunable = ("proj_out",)
    classifier = "proj_out"
    free_text = True

    def __init__(self, hub: Any, tokenizer: Any, extractor: Any) -> None:
        frontend = ExtractorFrontend(extractor, "input_features", FRAME_RATE, transposed=True)
        super().__init__(hub, frontend, [tokenizer, extractor])
        self.feed_forwards = tuple(
            FeedForwards(f"model.{part}", "fc1", "fc2", f"{part}_ffn_dim") for part in ("encoder", "decoder")
        )
        self._start = _token(tokenizer, "<|startoftranscript|>")
        self._end = int(hub.config.eos_token_id)
        self._languages = language_tokens(tokenizer) if _multilingual(hub) else {}
        self.languages = tuple(self._languages) or ("en",)
        self.identifies_languages = len(self._languages) > 1
        tasks = [_token(tokenizer, name) for name in ("<|transcribe|>", "<|notimestamps|>")]
        self._tasks = tasks if self._languages else tasks[1:]
        self._prompt_size = 1 + len(self._tasks) + bool(self._languages)
        self.window = float(hub.config.max_source_positions) * STRIDE / FRAME_RATE
        self.frames = int(hub.config.max_source_positions) * STRIDE
        self.longest_text = int(hub.config.max_target_positions)
        vocabulary = tokenizer.get_vocab()
        self._no_speech = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
        self._outside: dict[str, Tensor] = {}  # {language: (V,): the tokens that it does not write}
        self._never = _suppressed(hub, "suppress_tokens")
        self._never_first = [*self._never, *_suppressed(hub, "begin_suppress_tokens")]

    @property
    def matched(self) -> tuple[str, ...]:  # type: ignore[override]
        layers = {"encoder": self.hub.config.encoder_layers, "decoder": self.hub.config.decoder_layers}
        return tuple(name for part, count in layers.items() for name in _between_layers(part, count))

    def drop_layer(self, part: str, index: int) -> None:
        super().drop_layer(part, index)
        if part == "encoder":
            return
        for place, layer in enumerate(self.hub.model.decoder.layers):  # in the cache of keys and values
            layer.self_attn.layer_idx = layer.encoder_attn.layer_idx = place
        if heads := (self.stated_generation or {}).get("alignment_heads"):
            heads = [[layer - (layer > index), head] for layer, head in heads if layer != index]
            self.stated_generation = {**(self.stated_generation or {}), "alignment_heads": heads}

    @property
    def padding(self) -> str:
        return str(getattr(self.hub.config, "padding", "window"))

    @property
    def pads_to_window(self) -> bool:  # type: ignore[override]
        return self.padding == "window"

    def train_on_short_windows(self) -> None:
        self.hub.config.padding = "longest"

    def restrict(self, language: str, tokens: Sequence[int]) -> None:
        """From now on `decode` writes these tokens alone in a language, as if the output layer had no others.

        The loss is as before: it is of whatever text it is given.
        """
        outside = torch.ones(int(self.hub.config.vocab_size), dtype=torch.bool)
        outside[list(tokens)] = False
        self._outside[language] = outside

    def tokens(self, language: str) -> list[int] | None:
        """The tokens that `restrict` left a language, sorted; None: all."""
        outside = self._outside.get(language)
        return None if outside is None else (~outside).nonzero().flatten().tolist()

    def prompt(self, language: str) -> list[int]:
        """The tokens that start a transcript in ``language``.

        Raises:
            PathwaysError: for a language that Whisper has no token for.
        """
        if not self._languages:
            return [self._start, *self._tasks]
        return [self._start, self._languages[known_language(language, self._languages)], *self._tasks]

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel features (B, T, F) and their lengths (B,) -> encodings (B, T', D).

        Padding is filled with the extractor's value of silence, 2 (eight powers of ten) below each row's largest, at
        least `LEAST`; T' is 1500 or, if `padding` is ``longest``, half of the longest row.

        Raises:
            PathwaysError: if an input is longer than Whisper's window, or has no frames.
        """
        for length in (lengths.max(), lengths.min()):
            if (reason := self.length_error(int(length), ())) is not None:
                raise PathwaysError(reason)
        size = self._padded(lengths)
        features = F.pad(features, (0, 0, 0, max(0, size - features.shape[1])))[:, :size]
        valid = within_lengths(lengths, size)[..., None]
        silence = features.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True) - RANGE
        features = torch.where(valid, features, silence.clamp(min=LEAST))
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
        encoded = within_lengths(self.output_lengths(batch.feature_lengths), size // STRIDE)
        return {
            "*.encoder_attn.[kv]_proj": encoded,
            "model.encoder.conv*": within_lengths(batch.feature_lengths, size),
            "model.encoder": encoded,
            "model.decoder": within_lengths(batch.target_lengths + prompt, batch.targets.shape[1] + prompt),
        }

    def input_positions(self, batch: Batch) -> dict[str, Tensor]:
        positions = self.positions(batch)
        return {"model.decoder": positions["model.decoder"]} if self.padding == "window" else positions

    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        return self.encode(features, lengths), self.output_lengths(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + 1) // STRIDE

    def length_error(self, frames: int, targets: Sequence[int]) -> str | None:
        if frames > self.frames:
            seconds, window = frames / FRAME_RATE, self.frames / FRAME_RATE
            return f"{seconds:.1f} s of audio: Whisper's window is {window:g} s: cut it"
        if (total := self._prompt_size + len(targets)) > self.longest_text:
            return f"a text of {total} tokens: Whisper's limit is {self.longest_text}"
        return super().length_error(frames, targets)

    def _loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the text and the token that ends it, in nats a token."""
        encodings = self.encode(batch.features, batch.feature_lengths)
        prompt = batch.targets.new_tensor(self.prompt(batch.language)).expand(len(batch), -1)
        hidden = self.hub.model.decoder(
            input_ids=torch.cat((prompt, batch.targets), dim=1), encoder_hidden_states=encodings, use_cache=False
        ).last_hidden_state
        logits = self.hub.proj_out(hidden[:, prompt.shape[1] - 1 :])
        wanted = F.pad(batch.targets, (0, 1)).scatter(1, batch.target_lengths[:, None], self._end)
        wanted = wanted.masked_fill(~within_lengths(batch.target_lengths + 1, wanted.shape[1]), -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    def prediction_lengths(self, batch: Batch) -> Tensor:
        return batch.target_lengths + 1

    @torch.no_grad()
    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """Greedy search: log-mel features (B, T, F), their lengths (B,) -> token ids, without prompt and end.

        What is decoded does not depend on the other utterances of the batch. A transcript ends with the model's own
        end, its longest text, or a loop: that is cut to its first round, and search goes on once without the token that
        led into it. What the model writes without believing in it, where it assumes that nobody speaks, is left out
        (see `asr_pathways.models.guards`).
        """
        encodings, sizes = self._encode_each(features, lengths)
        prompt, outside = self.prompt(language), self._outside.get(language)
        with self._attending(sizes, encodings.shape[1]):
            found = self._search(encodings, prompt, outside=outside)
        rows = zip(found, encodings, sizes, strict=True)
        return [self._guarded(transcript, row[None, :size], prompt, outside) for transcript, row, size in rows]

    @torch.no_grad()
    def language_probabilities(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The probability of each of `languages`, by Whisper's own language tokens, after one step of the decoder.

        Args:
            features: log-mel features (B, T, F), of which ``lengths`` (B,) frames count.

        Returns:
            (B, L), float32.

        Raises:
            PathwaysError: if the model is English-only.
        """
        if not self._languages:
            raise PathwaysError("an English-only Whisper model tells no languages apart")
        encodings, sizes = self._encode_each(features, lengths)
        with self._attending(sizes, encodings.shape[1]):
            start = torch.full((len(features), 1), self._start, device=encodings.device)
            logits = self._logits(start, encodings, None)[0][:, -1]
        return logits[:, list(self._languages.values())].softmax(-1)

    def _encode_each(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, list[int]]:
        """Encodings (B, T', D) as each row has them by itself, and how many frames of each count.

        With `padding` ``longest`` a row's window is its own length, not its batch's longest, so that its text is the
        same in any batch.
        """
        if self.padding == "window":
            encodings = self.encode(features, lengths)
            return encodings, [encodings.shape[1]] * len(features)
        rows = [
            self.encode(row[None, :length], lengths[index : index + 1])[0]
            for index, (row, length) in enumerate(zip(features, lengths.tolist(), strict=True))
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows]

    @contextmanager
    def _attending(self, sizes: list[int], longest: int) -> Iterator[None]:
        """The decoder attends to the first ``sizes`` (B,) of ``longest`` encodings; transformers has no such mask."""
        if min(sizes) == longest:
            yield
            return
        weight = self.hub.proj_out.weight
        padding = ~within_lengths(torch.tensor(sizes, device=weight.device), longest)[:, None, None]
        mask = torch.zeros(padding.shape, dtype=weight.dtype, device=weight.device)
        mask = mask.masked_fill(padding, torch.finfo(weight.dtype).min)

        def masked(_: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return positional, {**named, "attention_mask": mask}

        hooks = [
            layer.encoder_attn.register_forward_pre_hook(masked, with_kwargs=True)
            for layer in self.hub.model.decoder.layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _logits(self, ids: Tensor, encodings: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Token ids (B, N) after those in ``cache`` -> float32 logits of the first and the last (B, 2, V), of the last
        (B, 1, V) if there is a cache; and the cache.
        """
        out = self.hub.model.decoder(
            input_ids=ids, encoder_hidden_states=encodings, past_key_values=cache, use_cache=True
        )
        hidden = out.last_hidden_state[:, [0, -1] if cache is None else [-1]]
        return self.hub.proj_out(hidden).float(), out.past_key_values

    def _search(
        self,
        encodings: Tensor,
        prompt: list[int],
        kept: Sequence[int] = (),
        banned: int | None = None,
        outside: Tensor | None = None,
    ) -> list[_Transcript]:
        """Greedy search over encodings (B, T', D) until each row ends, is as long as may be, or loops.

        Args:
            prompt: tokens before the transcript.
            kept: the transcript's first tokens, which are not searched for.
            banned: a token that does not come next.
            outside: (V,): tokens that come nowhere; None: none.
        """
        found = [_Transcript([]) for _ in encodings]
        open_ = set(range(len(found)))
        ids = torch.tensor([*prompt, *kept], device=encodings.device).expand(len(encodings), -1)
        never_first = self._never_first if banned is None else [*self._never, banned]
        cache: Any = None
        for step in range(self.longest_text - ids.shape[1]):
            both, cache = self._logits(ids, encodings, cache)
            if outside is not None:
                both = both.masked_fill(outside.to(both.device), -torch.inf)
            if step == 0 and self._no_speech is not None:
                for transcript, share in zip(found, both[:, 0].softmax(-1)[:, self._no_speech].tolist(), strict=True):
                    transcript.no_speech = share
            logits = both[:, -1].index_fill(1, ids.new_tensor(self._never if step else never_first), -torch.inf)
            best = logits.argmax(dim=-1)
            scores = (logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
            for row, token in enumerate(best.tolist()):
                if row not in open_:
                    continue
                transcript = found[row]
                transcript.log_probability += scores[row]
                if token == self._end:
                    open_.remove(row)
                    continue
                transcript.tokens.append(token)
                if loop_end(transcript.tokens) is not None:
                    transcript.loops = True
                    open_.remove(row)
            if not open_:
                break
            ids = best[:, None]
        return found

    def _guarded(self, found: _Transcript, encodings: Tensor, prompt: list[int], outside: Tensor | None) -> list[int]:
        """The tokens of a transcript of encodings (1, T', D) that are believed."""
        if is_silence(found.no_speech, found.mean):
            return []
        tokens = found.tokens
        if found.loops and (end := loop_end(tokens)) is not None:
            (rest,) = self._search(encodings, prompt, tokens[:end], tokens[end], outside)
            believed = not rest.loops and rest.mean >= LEAST_LOG_PROBABILITY
            tokens = tokens[:end] + (rest.tokens if believed else [])
        tokenizer = self._parts[0]
        return tokens[: varied(tokens, lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)))]


def language_tokens(tokenizer: Any) -> dict[str, int]:
    """{language code: id of its token} of a Whisper tokenizer; empty for an English-only one."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary = tokenizer.get_vocab()
    return {code: vocabulary[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in vocabulary}


def _multilingual(hub: Any) -> bool:
    """English-only models have the language tokens too, and were never trained on them."""
    stated = getattr(hub.generation_config, "is_multilingual", None)
    return bool(hub.config.vocab_size != ENGLISH_TOKENS if stated is None else stated)


def _suppressed(hub: Any, name: str) -> list[int]:
    """Tokens that a checkpoint's generation config names as never to be written (``suppress_tokens``), or not first."""
    tokens = getattr(hub.generation_config, name, None) or []
    return [token for token in map(int, tokens) if 0 <= token < int(hub.config.vocab_size)]


def _between_layers(side: str, layers: int) -> list[str]:
    """The norms that read each layer's output: their output has no few huge channels, as the residual stream has."""
    inner = [f"model.{side}.layers.{index}.self_attn_layer_norm" for index in range(1, layers)]
    return [*inner, f"model.{side}.layer_norm"]


def _token(tokenizer: Any, name: str) -> int:
    index = tokenizer.get_vocab().get(name)
    if index is None:
        raise PathwaysError(f"the tokenizer has no {name}: not Whisper's")
    return int(index)
