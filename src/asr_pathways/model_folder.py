"""A MODEL folder: ``config.json``, ``model.safetensors``, ``tokenizer.model`` and, if pruned, ``pathways/``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asr_pathways.config import Config, parse_config
from asr_pathways.data.features import FeatureConfig
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path, read_json, write_json
from asr_pathways.models.transducer import Transducer, TransducerConfig
from asr_pathways.pruning import Pathways


class ModelCard(Config):
    """What ``config.json`` holds."""

    format: Literal["asr-pathways-model"] = "asr-pathways-model"
    version: Literal[1] = 1
    model: TransducerConfig
    features: FeatureConfig = FeatureConfig()
    languages: tuple[str, ...]
    attribution: tuple[str, ...] = ()


@dataclass
class Recognizer:
    """A model with all that is needed to use it.

    ``pathways`` is None for a dense model.
    """

    model: Transducer
    tokenizer: Tokenizer
    card: ModelCard
    pathways: Pathways | None = field(default=None)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model was trained on."""
        return self.card.languages

    def check_languages(self, languages: Sequence[str] | None) -> tuple[str, ...]:
        """``languages``, or all that the model knows.

        Raises:
            PathwaysError: for a language that the model does not know, naming those that it does.
        """
        known = self.languages if self.pathways is None else tuple(self.pathways.languages)
        for language in languages or ():
            if language not in known:
                raise PathwaysError(f"unknown language {language!r}: this model knows {' '.join(known)}")
        return tuple(languages) if languages else known

    def use(self, language: str) -> AbstractContextManager[object]:
        """The pathway of ``language`` while the context lasts; nothing for a dense model."""
        return nullcontext() if self.pathways is None else self.pathways.use(language)


def save_recognizer(folder: Path, recognizer: Recognizer) -> None:
    """Writes a MODEL folder; each file is written whole or not at all, ``config.json`` last.

    Other files in ``folder`` are left alone; masks of a model that was there before are not.

    Raises:
        PathwaysError: if something cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in recognizer.model.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:
            raise PathwaysError(f"{folder / 'model.safetensors'}: cannot write: {error}") from None
    recognizer.tokenizer.save(folder / "tokenizer.model")
    if recognizer.pathways is not None:
        recognizer.pathways.save(folder / "pathways")
    else:
        shutil.rmtree(folder / "pathways", ignore_errors=True)
    write_json(folder / "config.json", recognizer.card.model_dump(mode="json"))


def load_recognizer(folder: Path, device: torch.device | str = "cpu") -> Recognizer:
    """Reads a MODEL folder.

    Raises:
        PathwaysError: if a part is missing, truncated, foreign or does not fit the others.
    """
    if not folder.is_dir():
        raise PathwaysError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise PathwaysError(f"{folder}: not a model folder: it has no config.json")
    card = parse_config(ModelCard, read_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    if tokenizer.vocab_size != card.model.vocab_size:
        raise PathwaysError(
            f"{folder}: tokenizer has {tokenizer.vocab_size} pieces and the model {card.model.vocab_size}: "
            "they do not belong together"
        )
    model = Transducer(card.model)
    load_weights(model, folder / "model.safetensors")
    model.eval().to(device)
    pathways = Pathways.load(model, folder / "pathways") if (folder / "pathways").is_dir() else None
    return Recognizer(model, tokenizer, card, pathways)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Fills ``model`` from a safetensors file that has exactly its tensors.

    Raises:
        PathwaysError: if the file is missing, truncated or of another model; it names the first odd tensor.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise PathwaysError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise PathwaysError(f"{path}: cannot read weights (truncated or not safetensors): {error}") from None
    own = model.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own or state[name].shape != own[name].shape:
            there = tuple(state[name].shape) if name in state else "missing"
            asked = tuple(own[name].shape) if name in own else "unknown"
            raise PathwaysError(f"{path}: weights of another model: {name} is {there}, the config asks for {asked}")
    model.load_state_dict(state)
