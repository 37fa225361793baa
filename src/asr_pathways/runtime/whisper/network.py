"""Whisper's network (Radford et al. 2022, arXiv 2212.04356) for one pathway, in compiled steps.

The encoder is one call, the decoder one a token. Weights are stored without their zeros where the CPU can expand them
(AVX-512 VBMI2), and multiplied as `Precision` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_pathways.bundle.layout import EMBEDDING
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels.extension import built, check_runner
from asr_pathways.runtime.layers import FEW, MANY, Layers

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]

EPSILON = 1e-5
"""Of all layer norms, as torch's default."""

LARGEST = 1 << 20
"""Of all sizes."""

STRIDE = 2
"""Frames of features to one of the encoder."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a network, by the names of a Hugging Face ``config.json``.

    Raises:
        PathwaysError: when read from a config that lacks one, or has one that no network has.
    """

    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    num_mel_bins: int
    max_source_positions: int
    max_target_positions: int
    vocab_size: int

    @classmethod
    def read(cls, config: Mapping[str, Any], where: str) -> Shape:
        """From a config; ``where`` names it in errors."""
        sizes: dict[str, int] = {}
        for name in cls.__dataclass_fields__:
            size = config.get(name)
            if type(size) is not int or not 1 <= size <= LARGEST:
                raise PathwaysError(f"{where}: {name}: {size!r:.50}: not a size of Whisper")
            sizes[name] = size
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise PathwaysError(f"{where}: only Whisper's own activation (gelu) and unscaled embeddings are supported")
        if not config.get("tie_word_embeddings", True):
            raise PathwaysError(f"{where}: tie_word_embeddings: the output layer must be the embedding")
        return cls(**sizes)


class Step(NamedTuple):
    """What a step of the decoder returns.

    Attributes:
        hidden: (B, D): the decoder's output for the last token of each hypothesis.
        attention: (B, P, T): its attention to the encodings, by the recorded heads; P is 0 if none are asked for.
    """

    hidden: Floats
    attention: Floats


class Network:
    """Encoder, decoder and output layer of one pathway. Thread-safe; hypotheses are not.

    Args:
        shape: its sizes.
        tensor: from a tensor's name in the Hugging Face model to its values, float32, or the embedding in float16;
            called once for each name.
        layers: how linear layers are stored; see `Layers`.
        threads: of each product.
        recorded: (layer, head) pairs of the decoder whose attention to the audio aligns words.
        tokens: (k,): those that the output layer scores; None: all.

    Attributes:
        nbytes: memory of the linear layers, which no other pathway shares.
        embedding: (V, D): of the tokens; its rows are those of the output layer, too.

    Raises:
        PathwaysError: if the kernels were not built, or a tensor does not fit.
    """

    def __init__(
        self,
        shape: Shape,
        tensor: Callable[[str], NDArray[Any]],
        layers: Layers,
        threads: int,
        recorded: Sequence[tuple[int, int]] = (),
        tokens: Tokens | None = None,
    ) -> None:
        self.shape = shape
        self.nbytes = 0
        self._kernels = built()
        self._runner = check_runner(threads, None)
        self._tensor, self._layers = tensor, layers
        attention = layers.attention
        try:
            dim, frames, written = shape.d_model, shape.max_source_positions, shape.max_target_positions
            self._convolutions = [
                self._linear(f"model.encoder.conv{index}", MANY, shape=(dim, inputs, 3))
                for index, inputs in ((1, shape.num_mel_bins), (2, dim))
            ]
            self._encoder_positions = self._floats("model.encoder.embed_positions.weight", frames, dim)
            self._encoder = self._kernels.Encoder(
                shape.encoder_attention_heads,
                attention,
                [self._encoder_layer(f"model.encoder.layers.{index}") for index in range(shape.encoder_layers)],
                self._norm("model.encoder.layer_norm"),
            )
            self.embedding = embedding = np.ascontiguousarray(tensor(EMBEDDING))
            self._decoder = self._kernels.Decoder(
                shape.decoder_attention_heads,
                attention,
                embedding,
                self._floats("model.decoder.embed_positions.weight", written, dim),
                [self._decoder_layer(f"model.decoder.layers.{index}") for index in range(shape.decoder_layers)],
                self._norm("model.decoder.layer_norm"),
                list(recorded),
            )
            self._output = layers.output(embedding, tokens, self._runner)
        except (ValueError, TypeError) as error:  # of the compiled module: shapes that do not fit
            raise PathwaysError(f"the tensors are not those of a Whisper of this size: {error}") from None

    def encode(self, features: Floats) -> Any:
        """Features (T, F) of one utterance, T even and at most twice ``max_source_positions`` -> its `Cross`.

        That is what the decoder reads of it: keys and values of all layers, computed once.
        """
        return self._decoder.cross(self.encodings(features), self._runner)

    def encodings(self, features: Floats) -> Floats:
        """Features (T, F) -> encodings (T / 2, D)."""
        x = features
        for layer, stride in zip(self._convolutions, (1, STRIDE), strict=True):
            x = layer.multiply(_windows(x, stride), self._runner)
            self._kernels.gelu(x, self._runner)
        x += self._encoder_positions[: len(x)]
        encoded: Floats = self._encoder.encode(x, self._runner)
        return encoded

    def hypotheses(self, utterances: Sequence[Any]) -> Hypotheses:
        """Hypotheses without a token yet, one for each of the encoded utterances; one utterance may have several."""
        return Hypotheses(self._kernels.Hypotheses(self._decoder, list(utterances)), self._runner)

    def best(self, hidden: Floats, count: int, banned: NDArray[np.uint8] | None) -> tuple[Tokens, Floats]:
        """The likeliest next tokens.

        Codes of 4 bits of the output layer find all tokens that can be among them; those are scored in float32. So
        the choice is that of a float32 output layer.

        Args:
            hidden: (B, D).
            count: how many.
            banned: (V,): 1 where a token may not follow.

        Returns:
            Tokens (B, count), the likeliest first, -1 where there are no more; and their log probabilities among those
            that are not banned, -inf for -1. Logits are exact; in their normaliser, those of
            tokens that are far less likely are from the codes (to about 0.01).

        Raises:
            PathwaysError: if the decoder's output is not finite.
        """
        try:
            tokens, logits, sums, _ = self._output.best(hidden, count, banned, self._runner)
        except ValueError as error:
            raise PathwaysError(f"the model's weights are broken: {error}") from None
        with np.errstate(invalid="ignore"):
            return tokens, np.where(tokens < 0, -np.inf, logits - sums[:, None])

    def logits(self, hidden: Floats, tokens: Sequence[int]) -> Floats:
        """The scores of some tokens (k,) after a hypothesis's output (1, D)."""
        scores: Floats = self.embedding[list(tokens)].astype(np.float32) @ hidden[0]
        return scores

    def _encoder_layer(self, name: str) -> tuple[Any, ...]:
        return (
            self._norm(f"{name}.self_attn_layer_norm"),
            *self._attention(f"{name}.self_attn", MANY),
            self._norm(f"{name}.final_layer_norm"),
            *self._feed_forward(name, MANY),
        )

    def _decoder_layer(self, name: str) -> tuple[Any, ...]:
        return (
            self._norm(f"{name}.self_attn_layer_norm"),
            *self._attention(f"{name}.self_attn", FEW),
            self._norm(f"{name}.encoder_attn_layer_norm"),
            *self._attention(f"{name}.encoder_attn", FEW, MANY),
            self._norm(f"{name}.final_layer_norm"),
            *self._feed_forward(name, FEW),
        )

    def _attention(self, name: str, rows: int, encodings: int | None = None) -> list[Any]:
        """Query, key, value and output layer; keys and values are of so many encodings at a time, else of the rows."""
        of_keys = rows if encodings is None else encodings
        return [
            self._linear(f"{name}.q_proj", rows),
            self._linear(f"{name}.k_proj", of_keys, bias=False),
            self._linear(f"{name}.v_proj", of_keys),
            self._linear(f"{name}.out_proj", rows),
        ]

    def _feed_forward(self, name: str, rows: int) -> list[Any]:
        """Both layers; where whole neurons are pruned, without those that only zeros follow, which change no output."""
        first, second = (np.asarray(self._tensor(f"{name}.{one}.weight")) for one in ("fc1", "fc2"))
        biases = [self._floats(f"{name}.{one}.bias") for one in ("fc1", "fc2")]
        if self._layers.granularity == "neurons" and (alive := second.any(axis=0)).any():
            first, second, biases[0] = first[alive], second[:, alive], biases[0][alive]
        return [self._stored(*one, rows) for one in zip((first, second), biases, strict=True)]

    def _norm(self, name: str) -> tuple[Floats, Floats, float]:
        dim = self.shape.d_model
        return self._floats(f"{name}.weight", dim), self._floats(f"{name}.bias", dim), EPSILON

    def _linear(self, name: str, rows: int, bias: bool = True, shape: tuple[int, ...] | None = None) -> Any:
        weight = self._tensor(f"{name}.weight")
        if shape not in (None, weight.shape):
            raise ValueError(f"{name}.weight: {weight.shape}, not {shape}")
        offsets = self._floats(f"{name}.bias") if bias else None
        return self._stored(weight.reshape(len(weight), -1), offsets, rows)

    def _stored(self, weight: NDArray[Any], bias: Floats | None, rows: int) -> Any:
        layer, nbytes = self._layers.linear(weight, bias, rows)
        self.nbytes += nbytes
        return layer

    def _floats(self, name: str, *shape: int) -> Floats:
        values = np.ascontiguousarray(self._tensor(name), dtype=np.float32)
        if shape and values.shape != shape:
            raise ValueError(f"{name}: {values.shape}, not {shape}")
        return values


class Hypotheses:
    """Hypotheses side by side, with what the decoder keeps of their tokens; made by `Network.hypotheses`."""

    def __init__(self, compiled: Any, runner: tuple[int, str]) -> None:
        self._compiled, self._runner = compiled, runner

    @property
    def length(self) -> int:
        """Tokens of each so far."""
        return int(self._compiled.length)

    def step(self, tokens: Tokens, attention: bool = False) -> Step:
        """Appends tokens (B, n) to them.

        Args:
            tokens: int32.
            attention: whether to return that of the recorded heads.
        """
        return Step(*self._compiled.step(tokens, attention, self._runner))

    def keep(self, places: Sequence[int]) -> None:
        """Keeps those at these places, in this order; a place may be there more than once."""
        self._compiled.keep(list(places))


def _windows(x: Floats, stride: int) -> Floats:
    """Inputs of a convolution of three taps with a frame of zeros around: (T, C) -> (T / stride, C * 3)."""
    padded = np.pad(x, ((1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=0)[::stride]
    return np.ascontiguousarray(windows.reshape(len(windows), -1))
