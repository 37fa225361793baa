"""The interface of every speech model: training, pruning, evaluation and files need no more of it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.models.feed_forward import FeedForwards, drop_neurons

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch
    from asr_pathways.data.features import Frontend


class SpeechModel(nn.Module, ABC):
    """A recogniser of one or many languages.

    Attributes:
        unprunable: patterns of the modules or parameters of `network` that stay dense: output layers.
        of_languages: patterns of those for which a language has tensors of its own, which are in their places while it
            runs: masks would not reach them.
        languages: the codes that the model itself knows; empty: it has no notion of languages.
        matched: the modules of `network` whose outputs distillation compares; empty: none.
        classifier: the module of `network` that returns the logits (B, N, V) of a batch's loss; empty: there is none.
        identifies_languages: whether it identifies which of `languages` is spoken (`language_probabilities`).
        pads_to_window: whether every input takes the time of a whole window.
        free_text: whether it writes cased and punctuated text, which is normalised before it is scored.
        blank: the symbol that stands for no text; None: there is none.
        feed_forwards: the feed-forward layers of `network` whose neurons can be pruned.
        longest_text: tokens that `decode` writes at most, prompt included, if it writes until an end.
        stacks: {part that may lose layers: (name of their `ModuleList` in `network`, key of their number in config)}.
    """

    unprunable: tuple[str, ...] = ()
    of_languages: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    classifier: str = ""
    pads_to_window: bool = False
    free_text: bool = False
    identifies_languages: bool = False
    blank: int | None = None
    longest_text: int = sys.maxsize
    feed_forwards: tuple[FeedForwards, ...] = ()
    stacks: Mapping[str, tuple[str, str]] = MappingProxyType({})
    window: float = float("inf")
    """Seconds of audio that are decoded at once; longer recordings are cut at pauses."""

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are pruned; a model from elsewhere keeps its own names there."""
        return self

    @property
    @abstractmethod
    def frontend(self) -> Frontend:
        """From samples to the features that `loss` and `decode` process."""

    def loss(self, batch: Batch) -> Tensor:
        """The training loss of a batch of one language, in nats a token.

        Raises:
            PathwaysError: if an utterance does not fit the model, or a target is none of its symbols; it is named.
        """
        rows = batch.targets.tolist(), batch.target_lengths.tolist()
        texts = [row[:length] for row, length in zip(*rows, strict=True)]
        for identifier, frames, targets in zip(batch.ids, batch.feature_lengths.tolist(), texts, strict=True):
            reason = self.target_error(targets, batch.language) or self.length_error(frames, targets)
            if reason is not None:
                raise PathwaysError(f"utterance {identifier}: {reason}")
        return self._loss(batch)

    @abstractmethod
    def _loss(self, batch: Batch) -> Tensor:
        """`loss` of utterances that fit the model, and of targets that are symbols of it."""

    @abstractmethod
    def symbols(self, language: str) -> int:
        """How many symbols its output has scores of, blank included; in ``language``, whose pathway is in use."""

    @abstractmethod
    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """Greedy search: features (B, T, ...), their lengths (B,) in frames -> token ids of each utterance."""

    @abstractmethod
    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        """Features (B, T, ...), lengths (B,) -> the encoder's output (B, T', D), and its lengths (B,)."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What ``inspect`` shows of it: {term: value}."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Writes the weights (and whatever a model from elsewhere needs beside them) to ``folder``.

        Raises:
            PathwaysError: if something cannot be written.
        """

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Loads the weights that `save_weights` wrote for the same model.

        Raises:
            PathwaysError: if they are missing, truncated or of another model.
        """

    def language_probabilities(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, T, ...), lengths (B,) -> the probability of each of `languages` (B, L), if it identifies them.

        Raises:
            PathwaysError: if the model does not tell them apart by itself.
        """
        raise PathwaysError(f"{type(self).__name__} tells no languages apart")

    def forward_matched(self, batch: Batch) -> None:
        """Runs the modules in `matched`, and `classifier`, on a batch; by default all of the forward pass."""
        self.loss(batch)

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """What is not padding in the layers' inputs when `loss` runs on the batch, as `Pathways.unpadded` takes it.

        Of layers that it does not tell, padding is observed like speech; by default of all.
        """
        return {}

    def input_positions(self, batch: Batch) -> dict[str, Tensor]:
        """The same, but what the model itself pads every input to its window with counts: it always processes that."""
        return self.positions(batch)

    def prediction_lengths(self, batch: Batch) -> Tensor:
        """How many of the N rows of logits of `classifier` are of each utterance (B,), and not padding.

        Raises:
            PathwaysError: if the model has no `classifier`.
        """
        raise PathwaysError(f"{type(self).__name__} has no classifier, whose logits are of each utterance")

    def target_error(self, targets: Sequence[int], language: str) -> str | None:
        """Why targets cannot be learned in ``language``, whose pathway is in use; None if all are symbols but blank."""
        count = self.symbols(language)
        for target in targets:
            if not 0 <= target < count:
                return (
                    f"its text has token {target}, and the model has tokens 0 to {count - 1}: its tokenizer has more "
                    "than its output layer: use the tokenizer that it was trained with, or resize the model"
                )
            if target == self.blank:
                return f"its text has token {target}, which is the model's blank: a text must not have that"
        return None

    def length_error(self, frames: int, targets: Sequence[int]) -> str | None:
        """Why an utterance of so many frames of features and of these targets does not fit `loss`; None if it does."""
        return None

    def load_languages(self, languages: Iterable[str]) -> None:
        """Called before these languages are used: a model with language-specific weights reads them now.

        Raises:
            PathwaysError: if the model does not know a language, or its weights are missing.
        """
        return

    def language_parameters(self, language: str) -> list[nn.Parameter]:
        """Parameters beside those of `network` that serve one language only."""
        return []

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """How the names of the linear layers around neurons end, as `PathwayConfig.pairs` takes them."""
        return tuple(dict.fromkeys((one.first, one.second) for one in self.feed_forwards))

    def drop_neurons(self, kept: Mapping[str, Tensor]) -> dict[str, int]:
        """Makes `feed_forwards` smaller for good, and its config likewise; see `feed_forward.drop_neurons`.

        Args:
            kept: {name of the weight of a first layer: bool (N,)}.

        Returns:
            {key of the config: neurons}.
        """
        sizes = {one.size: drop_neurons(self.network, one, kept) for one in self.feed_forwards}
        for key, size in sizes.items():
            self._set_size(key.split("."), size)
        return sizes

    def layers(self, part: str) -> nn.ModuleList:
        """The layers of one of `stacks`."""
        stack = self.network.get_submodule(self.stacks[part][0])
        assert isinstance(stack, nn.ModuleList)
        return stack

    def put_layers(self, part: str, layers: Iterable[nn.Module]) -> None:
        """Makes these the layers of one of `stacks`."""
        name, key = self.stacks[part]
        stack = nn.ModuleList(layers)
        self.network.set_submodule(name, stack)
        self._set_size(key.split("."), len(stack))

    def drop_layer(self, part: str, index: int) -> None:
        """Leaves a layer of one of `stacks` out for good; those after it move up."""
        self.put_layers(part, [layer for place, layer in enumerate(self.layers(part)) if place != index])

    @abstractmethod
    def _set_size(self, keys: Sequence[str], size: int) -> None:
        """Changes a size of the config, found by these keys."""

    def train_on_short_windows(self) -> None:
        """Called before the first training step; a model that pads its input may stop doing so from here on."""
        return


def within_lengths(lengths: Tensor, size: int) -> Tensor:
    """Bool (B, size): True where a position is before the end of its row, and not padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
