"""The RNN transducer: Emformer encoder, LSTM predictor, additive joiner (Graves, arXiv 1211.3711)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.data.features import Fbank, FeatureConfig
from asr_pathways.models.config import TransducerConfig
from asr_pathways.models.emformer import STRIDE, Emformer
from asr_pathways.models.feed_forward import FeedForwards
from asr_pathways.models.rnnt_loss import rnnt_loss
from asr_pathways.models.speech_model import SpeechModel, within_lengths
from asr_pathways.models.weights import load_weights, save_weights

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch

MAX_SYMBOLS_PER_FRAME = 10
"""Greedy search leaves a frame after this many symbols, as sherpa-onnx does."""

LOOKAHEAD = 8
"""Frames that the joiner scores at a time in greedy search."""


LstmState = tuple[Tensor, Tensor]


class Predictor(nn.Module):
    """Symbols so far (B, U) -> (B, U, D): an embedding and an LSTM. Blank starts a sequence."""

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size + 1, config.embedding_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.embedding_dim,
            config.predictor_dim,
            config.predictor_layers,
            batch_first=True,
            dropout=config.dropout if config.predictor_layers > 1 else 0.0,
        )
        self.norm = nn.LayerNorm(config.predictor_dim)

    def forward(self, symbols: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        out, state = self.lstm(self.dropout(self.embedding(symbols)), state)
        return self.dropout(self.norm(out)), state


class Joiner(nn.Module):
    """relu(encoding + prediction) -> scores of the word pieces and, last, of blank."""

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        self.encoding = nn.Linear(config.encoder.dim, config.joiner_dim)
        self.prediction = nn.Linear(config.predictor_dim, config.joiner_dim, bias=False)
        self.output = nn.Linear(config.joiner_dim, config.vocab_size + 1)

    def forward(self, encodings: Tensor, predictions: Tensor) -> Tensor:
        """(B, T, E) and (B, U, P) -> (B, T, U, V + 1)."""
        joint = self.encoding(encodings)[:, :, None] + self.prediction(predictions)[:, None]
        out: Tensor = self.output(torch.relu(joint))
        return out


class Transducer(SpeechModel):
    """A streaming recogniser. Symbols are word pieces 0..V-1; blank is V.

    ``feature_mean`` and ``feature_scale`` (F,) normalise log-mel features; training sets them once.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    blank: int

    unprunable = ("joiner", "ctc_output", "*.depthwise")
    """Modules that stay dense: output layers, and convolutions of one weight a channel and tap."""

    matched = ("encoder",)
    stacks = MappingProxyType({"encoder": ("encoder.layers", "encoder.layers")})
    feed_forwards = (FeedForwards("encoder", "feed_forward.1", "feed_forward.3", "encoder.ffn_dim"),)

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        self.config = config
        self.blank = config.vocab_size
        self.register_buffer("feature_mean", torch.zeros(config.encoder.features))
        self.register_buffer("feature_scale", torch.ones(config.encoder.features))
        self.encoder = Emformer(config.encoder)
        self.predictor = Predictor(config)
        self.joiner = Joiner(config)
        self.ctc_output = nn.Linear(config.encoder.dim, config.vocab_size + 1) if config.ctc_weight else None

    def set_feature_statistics(self, mean: Tensor, standard_deviation: Tensor) -> None:
        """Sets the normalisation from the mean and standard deviation (F,) of training features."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / standard_deviation.clamp(min=1e-3))

    def normalize(self, features: Tensor) -> Tensor:
        """Log-mel features (B, T, F) with the mean and scale that the encoder expects."""
        return (features - self.feature_mean) * self.feature_scale

    def symbols(self, language: str) -> int:
        return len(self.joiner.output.weight)  # of an added language more than in the config

    def length_error(self, frames: int, targets: Sequence[int]) -> str | None:
        return None if frames >= STRIDE else "too short for one frame of the model"

    def _loss(self, batch: Batch) -> Tensor:
        """RNN-T loss (plus CTC by its weight), in nats a word piece, averaged over the batch."""
        features = self.normalize(batch.features)
        encodings, lengths = self.encoder(features, batch.feature_lengths)
        start = batch.targets.new_full((len(batch.ids), 1), self.blank)
        predictions, _ = self.predictor(torch.cat((start, batch.targets), dim=1))
        logits = self.joiner(encodings, predictions)
        costs = rnnt_loss(logits, batch.targets, lengths, batch.target_lengths, blank=self.blank, ids=batch.ids)
        pieces = batch.target_lengths.sum().clamp(min=1)
        loss = costs.sum() / pieces
        if self.ctc_output is not None:
            scores = self.ctc_output(encodings).log_softmax(dim=-1).transpose(0, 1)
            # CTC cannot align a text longer than the encoding; RNN-T can.
            ctc = F.ctc_loss(
                scores, batch.targets, lengths, batch.target_lengths, self.blank, reduction="sum", zero_infinity=True
            )
            loss = loss + self.config.ctc_weight * ctc / pieces
        return loss

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Of encoder and predictor; but hidden states of the predictor's inner layers are those after the padding."""
        lengths = self.encoder.output_lengths(batch.feature_lengths)
        positions = self.encoder.positions(lengths, batch.features.shape[1] // STRIDE)
        predictor = {"predictor": within_lengths(batch.target_lengths + 1, batch.targets.shape[1] + 1)}
        return {f"encoder.{name}": marked for name, marked in positions.items()} | predictor

    @torch.inference_mode()
    def decode(self, features: Tensor, lengths: Tensor, language: str | None = None) -> list[list[int]]:
        """Greedy search over whole utterances: (B, T, F), (B,) -> word pieces of each."""
        encodings, lengths = self.encoder(self.normalize(features), lengths)
        search = GreedySearch(self, encodings.shape[0])
        search.accept(encodings, lengths)
        return search.symbols

    def grown(self, count: int) -> dict[str, Tensor]:
        """Its vocabulary tensors with ``count`` more symbols after blank, by their names in the model.

        Embeddings of new symbols are drawn as those of old ones are spread; their scores begin as low as the mean of
        the others'.
        """
        names = ["predictor.embedding.weight", "joiner.output.weight", "joiner.output.bias"]
        names += ["ctc_output.weight", "ctc_output.bias"] if self.ctc_output is not None else []
        tensors = {}
        for name in names:
            old = self.get_parameter(name).detach()
            new = torch.randn(count, *old.shape[1:]) * old.std() if old.dim() > 1 else old.mean().expand(count)
            tensors[name] = torch.cat((old, new.to(old)))
        return tensors

    def encodings(self, features: Tensor, lengths: Tensor, language: str | None = None) -> tuple[Tensor, Tensor]:
        """Log-mel features (B, T, F), lengths (B,) -> encodings (B, T', D), lengths (B,)."""
        encodings: tuple[Tensor, Tensor] = self.encoder(self.normalize(features), lengths)
        return encodings

    def forward_matched(self, batch: Batch) -> None:
        self.encodings(batch.features, batch.feature_lengths, batch.language)

    def _set_size(self, keys: Sequence[str], size: int) -> None:
        part, key = keys
        assert part == "encoder"
        self.encoder.config = self.config.encoder.model_copy(update={key: size})
        self.config = self.config.model_copy(update={part: self.encoder.config})

    @property
    def frontend(self) -> Fbank:
        """Filter banks with the encoder's number of bins."""
        return Fbank(FeatureConfig(bins=self.config.encoder.features))

    def describe(self) -> dict[str, str]:
        """Encoder, its algorithmic latency, and word pieces."""
        encoder = self.config.encoder
        latency = 10 * STRIDE * (encoder.segment + encoder.right_context)
        return {
            "encoder": f"{encoder.layers} Emformer layers, {encoder.dim} wide, latency {latency} ms",
            "word pieces": str(self.config.vocab_size),
        }

    def save_weights(self, folder: Path) -> None:
        """Writes ``model.safetensors``."""
        save_weights(self, folder / "model.safetensors")

    def load_weights(self, folder: Path) -> None:
        """Reads ``model.safetensors``."""
        load_weights(self, folder / "model.safetensors")


class GreedySearch:
    """Greedy transducer search over B streams, some encodings at a time."""

    def __init__(self, model: Transducer, batch: int) -> None:
        self.model = model
        self.symbols: list[list[int]] = [[] for _ in range(batch)]  # word pieces so far, of each stream
        self.frames: list[list[int]] = [[] for _ in range(batch)]  # at which encoder frame each was emitted
        self.past = [0] * batch  # encoder frames that each stream has processed
        out, self._state = model.predictor(torch.full((batch, 1), model.blank, device=model.feature_mean.device))
        self._prediction = model.joiner.prediction(out[:, 0])

    @classmethod
    def stack(cls, searches: Sequence[GreedySearch]) -> GreedySearch:
        """Searches of one model side by side."""
        states = zip(*(search._state for search in searches), strict=True)
        hidden, cell = (torch.cat(parts, dim=1) for parts in states)
        stacked = cls.__new__(cls)
        stacked.model = searches[0].model
        stacked.symbols = [row for search in searches for row in search.symbols]
        stacked.frames = [row for search in searches for row in search.frames]
        stacked.past = [row for search in searches for row in search.past]
        stacked._state = hidden, cell
        stacked._prediction = torch.cat([search._prediction for search in searches])
        return stacked

    def split(self) -> list[GreedySearch]:
        """One search a stream."""
        single = []
        for row in range(len(self.symbols)):
            search = type(self).__new__(type(self))
            search.model = self.model
            search.symbols, search.frames, search.past = [self.symbols[row]], [self.frames[row]], [self.past[row]]
            search._state = self._state[0][:, row : row + 1], self._state[1][:, row : row + 1]
            search._prediction = self._prediction[row : row + 1]
            single.append(search)
        return single

    def accept(self, encodings: Tensor, lengths: Tensor | Sequence[int] | None = None) -> None:
        """Decodes the next encodings (B, T, D), of which ``lengths`` (B,) frames count (all of them if None).

        Most frames are blank, so the joiner scores `LOOKAHEAD` frames at a time as if no symbol came; each stream
        goes on from its first one that is not blank.
        """
        model = self.model
        batch, frames, _ = encodings.shape
        ends = [frames] * batch if lengths is None else torch.as_tensor(lengths).tolist()
        projected = F.pad(model.joiner.encoding(encodings), (0, 0, 0, LOOKAHEAD))
        width = projected.shape[1]
        projected = projected.flatten(0, 1)
        at = [0] * batch  # the frame that each stream is at
        emitted = [0] * batch  # symbols that it has there
        while rows := [row for row in range(batch) if at[row] < ends[row]]:
            places = torch.tensor([[row * width + at[row] + ahead for ahead in range(LOOKAHEAD)] for row in rows])
            prediction = self._prediction if len(rows) == batch else self._prediction[rows]
            best = model.joiner.output(torch.relu(projected[places] + prediction[:, None])).argmax(dim=-1).tolist()
            spoken = []
            for row, symbols in zip(rows, best, strict=True):
                symbols = symbols[: ends[row] - at[row]]
                blanks = next((i for i, symbol in enumerate(symbols) if symbol != model.blank), len(symbols))
                if blanks:
                    at[row] += blanks
                    emitted[row] = 0
                if blanks < len(symbols):
                    self.symbols[row].append(symbols[blanks])
                    self.frames[row].append(self.past[row] + at[row])
                    spoken.append(row)
                    emitted[row] += 1
                    if emitted[row] == MAX_SYMBOLS_PER_FRAME:
                        at[row] += 1
                        emitted[row] = 0
            if spoken:
                self._predict(spoken)
        self.past = [past + frames for past in self.past]

    def _predict(self, rows: list[int]) -> None:
        """Takes the predictor past the last symbols of ``rows``."""
        symbols = torch.tensor([[self.symbols[row][-1]] for row in rows], device=self._prediction.device)
        if len(rows) == len(self.symbols):
            out, self._state = self.model.predictor(symbols, self._state)
            self._prediction = self.model.joiner.prediction(out[:, 0])
            return
        hidden, cell = self._state
        out, (new_hidden, new_cell) = self.model.predictor(
            symbols, (hidden[:, rows].contiguous(), cell[:, rows].contiguous())
        )
        hidden[:, rows], cell[:, rows] = new_hidden, new_cell
        self._prediction[rows] = self.model.joiner.prediction(out[:, 0])
