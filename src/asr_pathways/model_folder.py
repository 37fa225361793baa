"""A MODEL: a folder of ours, or a Hugging Face model (a folder, or a name on the hub); pruned, with ``pathways/``.

Bundles are MODELs too: see `runtime.bundle`.

A folder of ours holds ``config.json``, ``model.safetensors`` and ``tokenizer.model``. A Hugging Face folder keeps its
own files and names, so that transformers still loads it; beside them lies ``asr_pathways.json``, our card.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.nn import Parameter

from asr_pathways.config import Config, parse_config
from asr_pathways.data.features import FeatureConfig
from asr_pathways.data.languages import find_language
from asr_pathways.data.tokenizer import TextCodec, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json, write_json
from asr_pathways.models.face import SpeechModel
from asr_pathways.models.transducer import Transducer, TransducerConfig
from asr_pathways.pruning import Pathways

CARD = "config.json"
HUB_CARD = "asr_pathways.json"
BUNDLE_SUFFIX = ".asrp"
BUNDLE_DIGEST = "config.json.sha256"
"""A file in every bundle that is a folder."""


class Card(Config):
    """What is written about any model.

    Attributes:
        languages: those that it was trained on; empty if that is not known.
        attribution: what the sources of its data ask to be said of them.
        added: languages that were added with word pieces of their own (`tokenizer-LANGUAGE.model`).
    """

    languages: tuple[str, ...] = ()
    attribution: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


class ModelCard(Card):
    """What ``config.json`` of a folder of ours holds."""

    format: Literal["asr-pathways-model"] = "asr-pathways-model"
    version: Literal[1] = 1
    model: TransducerConfig
    features: FeatureConfig = FeatureConfig()


class HubCard(Card):
    """What ``asr_pathways.json`` of a Hugging Face folder holds."""

    format: Literal["asr-pathways-hub"] = "asr-pathways-hub"
    version: Literal[1] = 1


@dataclass
class Recognizer:
    """A model with all that is needed to use it.

    ``pathways`` is None for a dense model.
    """

    model: SpeechModel
    tokenizer: TextCodec
    card: ModelCard | HubCard
    pathways: Pathways | None = field(default=None)

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
        found = []
        for language in languages:
            code = find_language(language, known) if known else language
            if code is None:
                raise PathwaysError(f"unknown language {language!r}: this model knows {' '.join(known)}")
            found.append(code)
        return tuple(dict.fromkeys(found))

    def languages_for(self, asked: Sequence[str] | None, held: Iterable[str]) -> tuple[str, ...]:
        """The languages to work on: those ``asked`` for, else the model's own, else what the data hold of the known.

        The last is for models from elsewhere, which know a hundred languages that nobody asked for.

        Raises:
            PathwaysError: for an unknown language, or if the model knows none of the data's.
        """
        if asked or self.pathways is not None or self.card.languages:
            return self.check_languages(asked)
        held = tuple(held)
        known = self.languages
        found = tuple(language for language in held if not known or language in known)
        if not found:
            raise PathwaysError(
                f"the data are in {', '.join(held) or 'no language'}, and this model knows {' '.join(known)}"
            )
        return found

    def trained(self) -> list[Parameter]:
        """The parameters that training moves: all, or if a language was added, those that it may move."""
        if self.pathways is None or not self.pathways.added:
            return list(self.model.parameters())
        newest = self.pathways.added[-1]
        return [*self.pathways.parameters(newest).values(), *self.model.language_parameters(newest)]

    def use(self, language: str) -> AbstractContextManager[object]:
        """The pathway of ``language`` while the context lasts; nothing for a dense model."""
        return nullcontext() if self.pathways is None else self.pathways.use(language)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where features are to go."""
        return next(self.model.parameters()).device

    @contextmanager
    def hearing(self, language: str) -> Iterator[None]:
        """`use` in eval mode and without gradients; the model's mode is as before afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            with self.use(language), torch.no_grad():
                yield
        finally:
            self.model.train(training)


def save_recognizer(folder: Path, recognizer: Recognizer) -> None:
    """Writes a MODEL folder; each file is written whole or not at all, the card last.

    Other files in ``folder`` are left alone; masks of a model that was there before are not.

    Raises:
        PathwaysError: if something cannot be written.
    """
    recognizer.model.save_weights(folder)
    if isinstance(recognizer.tokenizer, Tokenizer):
        recognizer.tokenizer.save(folder / "tokenizer.model")
    if recognizer.pathways is not None:
        recognizer.pathways.save(folder / "pathways")
    else:
        shutil.rmtree(folder / "pathways", ignore_errors=True)
    name = CARD if isinstance(recognizer.card, ModelCard) else HUB_CARD
    write_json(folder / name, recognizer.card.model_dump(mode="json"))


def fastest_device() -> torch.device:
    """The first GPU of CUDA, if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_recognizer(model: Path | str, device: torch.device | str = "cpu") -> Recognizer:
    """Reads a MODEL: a folder of ours, a Hugging Face folder, the name of a model on the hub, or a bundle.

    Raises:
        PathwaysError: if a part is missing, truncated, foreign or does not fit the others.
    """
    folder = Path(model)
    if is_bundle(folder):
        recognizer = _load_bundle(folder)
        recognizer.model.to(device)
        return recognizer
    if not folder.is_dir():
        if folder.exists() or not _hub_name(str(model)):
            raise PathwaysError(f"{model}: no such model folder")
        from asr_pathways.models.hub import own_model_folder

        name, own = own_model_folder(str(model), HUB_CARD)
        if own is not None:
            return load_recognizer(own, device)
        recognizer = _load_hub(name)
    elif not (folder / CARD).is_file():
        raise PathwaysError(f"{folder}: not a model folder: it has no {CARD}")
    else:
        raw = read_json(folder / CARD)
        foreign = isinstance(raw, dict) and "model_type" in raw and "format" not in raw
        recognizer = _load_hub(str(model)) if foreign else _load_own(folder, raw)
    recognizer.model.eval().to(device)
    recognizer.model.open_languages(recognizer.card.languages)
    if (folder / "pathways").is_dir():
        recognizer.pathways = Pathways.load(recognizer.model.network, folder / "pathways")
    return recognizer


def is_bundle(path: Path) -> bool:
    """Whether a bundle lies there, whole or broken (or should, by its name): see `runtime.bundle`."""
    return (path.suffix == BUNDLE_SUFFIX and not path.is_dir()) or (path / BUNDLE_DIGEST).is_file()


def _load_own(folder: Path, raw: object) -> Recognizer:
    card = parse_config(ModelCard, raw, str(folder / CARD))
    tokenizer = TokenizerFamily.load_added(folder / "tokenizer.model", card.added)
    if tokenizer.vocab_size != card.model.vocab_size:
        raise PathwaysError(
            f"{folder}: tokenizer has {tokenizer.vocab_size} pieces and the model {card.model.vocab_size}: "
            "they do not belong together"
        )
    model = Transducer(card.model)
    model.load_weights(folder)
    return Recognizer(model, tokenizer, card)


def _load_bundle(path: Path) -> Recognizer:
    from asr_pathways.runtime.bundle import Bundle

    return Bundle.open(path).recognizer()


def _load_hub(name: str) -> Recognizer:
    from asr_pathways.models.hub import load_hub_model

    model, tokenizer = load_hub_model(name)
    path = Path(name) / HUB_CARD
    card = parse_config(HubCard, read_json(path), str(path)) if path.is_file() else HubCard()
    return Recognizer(model, tokenizer, card)


def _hub_name(name: str) -> bool:
    """Whether it reads like ``owner/model`` or ``owner/model@revision``."""
    name, mark, revision = name.partition("@")
    parts = name.split("/")
    return bool(revision or not mark) and len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/"))
