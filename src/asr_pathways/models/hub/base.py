"""What all adapters of Hugging Face models share: files, and the feature extractor as a front end."""

from __future__ import annotations

import copy
import tempfile
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.files import temporary_folder, write_json, writing
from asr_pathways.models.feed_forward import FeedForwards
from asr_pathways.models.speech_model import SpeechModel, within_lengths
from asr_pathways.models.weights import load_weights

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch

Model = TypeVar("Model", bound=nn.Module)

GENERATION = "generation_config.json"

MOST = 1 << 16
"""Frames (or samples) that suffice for one of the encoder, whatever the model."""

FEED_FORWARDS = (
    FeedForwards("encoder", "linear1", "linear2", "encoder_config.intermediate_size"),
    FeedForwards("", "intermediate_dense", "output_dense", "intermediate_size"),
    FeedForwards("", "intermediate.dense", "output.dense", "intermediate_size"),
)
"""Of FastConformers, of the wav2vec 2.0 family, and of SEW-D."""

MANY = 100
"""Frames of the encoder whose distance is measured at once."""


class Source(NamedTuple):
    """Where a model is: a folder, or a name on the hub and a revision (a commit, tag or branch) of it."""

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Source:
        """From a folder, ``owner/model`` or ``owner/model@revision``."""
        name, mark, revision = text.rpartition("@")
        return cls(name, revision) if mark and not Path(text).is_dir() else cls(text)

    @property
    def options(self) -> dict[str, str]:
        """Arguments of transformers' loaders beside the name."""
        return {} if self.revision is None else {"revision": self.revision}

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


class Aligned(NamedTuple):
    """What greedy search found in an utterance, and where.

    Attributes:
        tokens: ids.
        spans: of each, its first frame of the encoder and the frame after its last.
        probabilities: of each, the model's in [0, 1]: the mean of its frames'.
    """

    tokens: list[int]
    spans: list[tuple[int, int]]
    probabilities: list[float]


class ExtractorFrontend:
    """A Hugging Face feature extractor, for one utterance, without padding.

    Args:
        extractor: a `SequenceFeatureExtractor`.
        key: what it calls its result: ``input_features`` (T, F) or ``input_values`` (T,).
        frame_rate: frames a second.
        transposed: whether the extractor returns (F, T), as Whisper's does.
    """

    def __init__(self, extractor: Any, key: str, frame_rate: float, transposed: bool = False) -> None:
        if extractor.sampling_rate != SAMPLE_RATE:
            raise PathwaysError(f"the model's input is at {extractor.sampling_rate} Hz: only 16000 Hz is supported")
        self.extractor = extractor
        self.frame_rate = frame_rate
        self._key, self._transposed = key, transposed

    def __call__(self, samples: Samples, /) -> Tensor:
        """Features (T, F), or the normalised waveform (T,), of samples (N,) at 16 kHz.

        Raises:
            PathwaysError: if the samples are too few for one frame.
        """
        try:
            extracted = self.extractor(
                samples,
                sampling_rate=SAMPLE_RATE,
                padding="longest",
                truncation=False,  # Whisper's would drop what comes after 30 s, without a warning
                return_attention_mask=True,
                return_tensors="pt",
            )
        except (ValueError, RuntimeError, IndexError) as error:
            raise PathwaysError(f"only {1000 * len(samples) / SAMPLE_RATE:.0f} ms of audio: {error}") from None
        features: Tensor = extracted[self._key][0]
        if self._transposed:
            features = features.T
        if "attention_mask" in extracted:  # some extractors pad one utterance, too
            features = features[: int(extracted["attention_mask"][0].sum())]
        return features.to(torch.float32)


class HubModel(SpeechModel):
    """An adapter: the Hugging Face model, with its parameter names, is `network`.

    Args:
        hub: the model; its random masking in training (``apply_spec_augment``) is switched off, because it draws from
            numbers that no checkpoint has; see `SpecAugment` for ours.
        frontend: its feature extractor.
        parts: the tokenizer and the feature extractor, whose files are saved beside the weights.

    Attributes:
        stepwise: the modules of the network that search runs on one frame or token at a time.
        stated_generation: the checkpoint's options of decoding, which are saved as they were; None: those of ``hub``.
    """

    stated_generation: dict[str, Any] | None = None
    stepwise: tuple[str, ...] = ()

    def __init__(self, hub: Any, frontend: ExtractorFrontend, parts: list[Any]) -> None:
        super().__init__()
        self.hub = hub
        self.feed_forwards = tuple(one for one in FEED_FORWARDS if one.layers(hub))
        self._frontend, self._parts = frontend, parts
        self._frames: dict[int, int] = {}
        if getattr(hub.config, "apply_spec_augment", False):
            hub.config.apply_spec_augment = False

    window = 30.0

    def train(self: Model, mode: bool = True) -> Model:
        """As `nn.Module.train`, but batch normalisation keeps the checkpoint's statistics.

        Those of a batch would be of one language; and updates of running ones differ between ranks, are in no gradient,
        and stay where a batch is skipped because its loss is NaN.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.hub
        return network

    @property
    def frontend(self) -> ExtractorFrontend:
        return self._frontend

    def symbols(self, language: str) -> int:
        return int(self.hub.config.vocab_size)

    def length_error(self, frames: int, targets: Sequence[int]) -> str | None:
        if frames < self._frames_for(1):
            return "too short for one frame of the model"
        if frames >= self._frames_for(needed := max(1, self.encodings_for(targets))):
            return None
        there = int(self.output_lengths(torch.tensor([frames])))
        return f"a text of {len(targets)} tokens needs {needed} frames of the model, and its audio has {there}"

    def encodings_for(self, targets: Sequence[int]) -> int:
        """Frames of the encoder that these targets need."""
        return 1

    def _frames_for(self, encodings: int) -> int:
        """Frames of features that suffice for so many of the encoder."""
        if encodings not in self._frames:
            frames = range(MOST * encodings)
            self._frames[encodings] = bisect_left(
                frames, encodings, key=lambda count: int(self.output_lengths(torch.tensor([count])))
            )
        return self._frames[encodings]

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Of all layers whose input has the encoder's frames."""
        size = int(self.output_lengths(torch.tensor([batch.features.shape[1]])))
        return {"*": within_lengths(self.output_lengths(batch.feature_lengths), size)}

    def aligned(self, features: Tensor, lengths: Tensor, language: str) -> list[Aligned]:
        """As `decode`, with the frames and the probability of each token; without, where tokens are of no frames."""
        return [Aligned(tokens, [], []) for tokens in self.decode(features, lengths, language)]

    def twin(self: Model) -> Model:
        """A copy that shares all tensors; a parameter that is replaced in one of the two stays in the other."""
        assert isinstance(self, HubModel)
        shared = *self.parameters(), *self.buffers(), self._frontend, *self._parts
        return copy.deepcopy(self, {id(one): one for one in shared})

    @cached_property
    def frame_seconds(self) -> float:
        """Seconds from one frame of the encoder to the next."""
        return (self._frames_for(MANY + 1) - self._frames_for(1)) / MANY / self._frontend.frame_rate

    def specialize(self, language: str) -> None:
        """Puts what a language has of its own into the network, for good: from here on it is a model of that alone."""
        return

    def _set_size(self, keys: Sequence[str], size: int) -> None:
        *parts, key = keys
        setattr(reduce(getattr, parts, self.hub.config), key, size)

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of the encoder (B,) from frames of features (B,)."""

    def describe(self) -> dict[str, str]:
        """Architecture and vocabulary."""
        return {"architecture": type(self.hub).__name__, "vocabulary": f"{len(self._parts[0]):,} tokens"}

    def save_weights(self, folder: Path) -> None:
        """Writes a folder that transformers loads: weights, config, tokenizer and feature extractor."""
        with writing(folder):
            self._save_weights(folder)

    def load_weights(self, folder: Path) -> None:
        """Reads ``model.safetensors``."""
        load_weights(self.hub, folder / "model.safetensors")

    def save_files(self, folder: str) -> None:
        """Writes all that `save_weights` does but the pruned model's weights: config, tokenizer, feature extractor."""
        self.hub.config.save_pretrained(folder)
        if self.hub.can_generate() and self.hub.generation_config is not None:
            self.hub.generation_config.save_pretrained(folder)
        self._save_stated(folder)
        self._save_parts(folder)

    def files(self) -> dict[str, bytes]:
        """What `save_files` writes, by names."""
        with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
            self.save_files(temporary)
            return {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir()) if path.is_file()}

    def _save_weights(self, folder: Path) -> None:
        """By a temporary folder, whose files are moved to ``folder``, ``config.json`` last."""
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, "model") as temporary:
            self.hub.save_pretrained(temporary, max_shard_size="1000GB")
            self._save_stated(str(temporary))
            self._save_parts(str(temporary))
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):
                path.chmod(0o644)
                path.replace(folder / path.name)

    def _save_stated(self, folder: str) -> None:
        if self.stated_generation is not None:
            write_json(Path(folder) / GENERATION, self.stated_generation)

    def _save_parts(self, folder: str) -> None:
        for part in self._parts:
            part.save_pretrained(folder)
