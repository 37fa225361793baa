"""What a MODEL is in memory: a speech model, its tokenizer, its card and its pathways."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from asr_pathways.data.batches import Batch
from asr_pathways.data.languages import code_in_data, find_language, known_language
from asr_pathways.data.tokenizer import TextCodec
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import HubCard, ModelCard
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import Pathways


@dataclass
class AsrModel:
    """A model with all that is needed to use it; ``pathways`` is None for a dense model."""

    model: SpeechModel
    tokenizer: TextCodec
    card: ModelCard | HubCard
    pathways: Pathways | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it has pathways for, or was trained on, or that the model knows by itself.

        Empty if the model has no notion of languages: any will do.
        """
        if self.pathways is not None:
            return self.pathways.languages
        return self.card.languages or self.model.languages

    def check_languages(self, languages: Sequence[str] | None) -> tuple[str, ...]:
        """``languages`` by the codes that the model uses, or all that it knows.

        Other forms of a code are understood: ``fra``, ``fr-FR``, ``<|fr|>``.

        Raises:
            PathwaysError: for a language that the model does not know, naming those that it does.
        """
        known = self.languages
        if languages is None:
            return known
        codes = (known_language(language, known) if known else language for language in languages)
        return tuple(dict.fromkeys(codes))

    def languages_for(self, asked: Sequence[str] | None, present: Iterable[str]) -> tuple[str, ...]:
        """The languages to work on: those ``asked`` for, else the model's, else the known ones ``present`` in the data.

        The last is for models from elsewhere, which know a hundred languages that nobody asked for. Theirs are named as
        in the data: Whisper's ``jw`` is ``jv`` there, and its ``zh`` may be ``zh-CN`` and ``zh-TW``. What is left out
        is printed on stderr.

        Raises:
            PathwaysError: for an unknown language, or if the model knows none of the data's.
        """
        if self.pathways is not None or self.card.languages:
            return self.check_languages(asked)
        present, known = tuple(present), self.languages
        if asked:
            return tuple(dict.fromkeys(code_in_data(code, present, known) for code in asked))
        usable = tuple(language for language in present if not known or find_language(language, known))
        if not usable:
            languages = ", ".join(present) or "no language"
            raise PathwaysError(f"the data are in {languages}, and this model knows {' '.join(known)}")
        if others := ", ".join(sorted({*present} - {*usable})):
            print(f"left out: {others}: this model does not know them", file=sys.stderr)
        return usable

    def trained(self) -> list[Parameter]:
        """The parameters that training moves: all, or if a language was added, those that it may move."""
        if self.pathways is None or not self.pathways.added:
            return list(self.model.parameters())
        newest = self.pathways.added[-1]
        return [*self.pathways.parameters(newest).values(), *self.model.language_parameters(newest)]

    def note_sizes(self) -> None:
        """Takes the sizes of a model that became smaller into its card."""
        if isinstance(self.card, ModelCard) and isinstance(self.model, Transducer):
            self.card = self.card.model_copy(update={"model": self.model.config})

    def use(self, language: str) -> AbstractContextManager[object]:
        """The pathway of ``language`` while the context lasts; nothing for a dense model."""
        return nullcontext() if self.pathways is None else self.pathways.use(language)

    def unpadded(self, batch: Batch) -> AbstractContextManager[object]:
        """Statistics of layers' inputs leave the batch's padding out while the context lasts, as far as is known."""
        return nullcontext() if self.pathways is None else self.pathways.unpadded(self.model.positions(batch))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where features are to go."""
        return next(self.model.parameters()).device

    @contextmanager
    def inference(self, language: str) -> Iterator[None]:
        """`use` in eval mode and without gradients; the model's mode is as before afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            with self.use(language), torch.no_grad():
                yield
        finally:
            self.model.train(training)
