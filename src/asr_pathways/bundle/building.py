"""From a bundle to a recogniser: the model that its header describes, built only if its tensors are those there are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asr_pathways.bundle.contents import TOKENIZER
from asr_pathways.bundle.layout import HUB, MAX_ELEMENTS_PER_BYTE, BundleError, Header
from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import AsrModel, HubCard, ModelCard
from asr_pathways.models.transducer import Transducer
from asr_pathways.models.weights import take_state, untied_state
from asr_pathways.pruning import Pathways
from asr_pathways.pruning.storage import Stored

State = dict[str, Tensor]

_SPARE = 16 << 20
"""Bytes of buffers that a model may have beside what its bundle holds."""


def build(
    header: Header,
    where: str,
    dense: Callable[[], State],
    own: Callable[[], dict[str, State]],
    packed: Callable[[], Mapping[str, Mapping[str, NDArray[np.uint8]]]],
    file: Callable[[str], bytes],
) -> AsrModel:
    """The recogniser that a header describes.

    Args:
        where: what errors name.
        dense: gives the weights.
        own: gives the own tensors of added languages.
        packed: gives the masks, by pathway and tensor.
        file: gives a part's bytes.

    Raises:
        BundleError: if a part is broken or does not fit the others.
    """
    try:
        if isinstance(header.card, ModelCard):
            asr = _own_model(header, header.card, where, dense, file)
        else:
            asr = _hub_model(header, header.card, where, dense, file)
        asr.model.eval()
        asr.model.load_languages(asr.card.languages)
        _check_own(header, asr.model.network, where)
        masks = {key: {name: torch.from_numpy(bits) for name, bits in held.items()} for key, held in packed().items()}
        stored = Stored(header.pathways, masks, own())
        asr.pathways = Pathways.from_stored(asr.model.network, stored, where)
    except BundleError:
        raise
    except PathwaysError as error:
        text = str(error)
        raise BundleError(text if where in text else f"{where}: {text}") from None
    except Exception as error:  # whatever torch and transformers say of a config that makes no model
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"{where}: config.json describes no model that can be built: {reason:.200}") from error
    return asr


def _own_model(
    header: Header, card: ModelCard, where: str, dense: Callable[[], State], file: Callable[[str], bytes]
) -> AsrModel:
    tokenizer = tokenizer_of(card, where, file)
    _check_layers(header, card.model.model_dump(), where)
    _check_model(header, partial(Transducer, card.model), where)
    model = Transducer(card.model)
    take_state(model, dense(), where)
    return AsrModel(model, tokenizer, card)


def tokenizer_of(card: ModelCard, where: str, file: Callable[[str], bytes]) -> Tokenizer:
    """The tokenizer of a transducer of this package, and those of languages that were added.

    Raises:
        BundleError: if one is broken, or of another model.
    """
    base = _tokenizer(file(TOKENIZER), f"{where}: {TOKENIZER}")
    names = {language: f"tokenizer-{language}.model" for language in card.added}
    added = {
        language: ExtendedTokenizer(base, _tokenizer(file(name), f"{where}: {name}"))
        for language, name in names.items()
    }
    if base.vocab_size != card.model.vocab_size:
        raise BundleError(f"{where}: {TOKENIZER}: has {base.vocab_size} pieces, the model {card.model.vocab_size}")
    return TokenizerFamily(base, added) if added else base


def _hub_model(
    header: Header, card: HubCard, where: str, dense: Callable[[], State], file: Callable[[str], bytes]
) -> AsrModel:
    from asr_pathways.models.hub import load_hub_model

    def take(kind: Any, config: Any) -> Any:
        _check_model(header, partial(kind, config), where)
        network = kind(config)
        take_state(network, dense(), where)
        if (Path(temporary) / "generation_config.json").is_file():
            from transformers import GenerationConfig

            network.generation_config = GenerationConfig.from_pretrained(temporary)
        return network.eval()

    names = [part.name for part in header.parts if part.name.startswith(HUB)]
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        for name in names:
            content = file(name)
            _check_file(header, name, content, where)
            (Path(temporary) / name.removeprefix(HUB)).write_bytes(content)
        try:
            model, tokenizer = load_hub_model(temporary, take)
            model.load_languages(card.languages)  # reads adapters while their files are here
        except PathwaysError as error:
            raise BundleError(str(error).replace(temporary, f"{where}: hub")) from None
    return AsrModel(model, tokenizer, card)


def _tokenizer(content: bytes, where: str) -> Tokenizer:
    try:
        found = Tokenizer(content)
        if content and found.vocab_size > 0:
            return found
    except (RuntimeError, OSError):
        pass
    raise BundleError(f"{where}: not a SentencePiece model")


def _check_file(header: Header, name: str, content: bytes, where: str) -> None:
    """Refuses a Hugging Face model's file by which transformers would run code or take much memory."""
    if not name.endswith("config.json"):
        return
    config = json.loads(content)
    if not isinstance(config, dict) or "auto_map" in config:
        raise BundleError(f"{where}: {name}: asks for code of its own, which is not run")
    if name == f"{HUB}config.json":
        largest = max((size for entry in header.tensors.values() for size in entry.shape), default=0)
        _check_numbers(config, max(largest, 1 << 16), f"{where}: {name}")
        _check_layers(header, config, where)
    elif name.endswith("processor_config.json"):  # sizes of filter banks, which are made at once
        _check_numbers(config, 1 << 12, f"{where}: {name}")


_IN_SAMPLES = ("n_samples", "sampling_rate", "nb_max_frames", "max_length")


def _check_numbers(config: object, largest: int, where: str, key: str = "") -> None:
    """Refuses whole numbers larger than ``largest`` at any depth; 2^24 for lengths of recordings."""
    if isinstance(config, dict):
        for name, value in config.items():
            _check_numbers(value, largest, where, name)
    elif isinstance(config, list):
        for value in config:
            _check_numbers(value, largest, where, key)
    elif isinstance(config, int) and abs(config) > (1 << 24 if key in _IN_SAMPLES else largest):
        raise BundleError(f"{where}: {key}: {config:,} is more than the model can have")


def _check_layers(header: Header, config: object, where: str) -> None:
    """Refuses a config of more layers than there are tensors, at any depth: making them would take for ever."""
    if isinstance(config, dict):
        for key, value in config.items():
            if isinstance(value, int) and "layers" in key and value > len(header.tensors):
                raise BundleError(f"{where}: config.json: {key}: {value} layers of {len(header.tensors)} tensors")
            _check_layers(header, value, where)


def _check_model(header: Header, make: Callable[[], nn.Module], where: str) -> None:
    """Makes the model without memory, and compares its tensors with those of the header."""
    with torch.device("meta"):
        model = make()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*header.tensors, *shapes]:
        there = header.tensors[name].shape if name in header.tensors else None
        if shapes.get(name) != there and (there is not None or name in header.pathways.tensors):
            raise BundleError(f"{where}: {name} is {there}, the model has it as {shapes.get(name)}")
    held = sum(part.size for part in header.parts)
    asked = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if asked > _SPARE + MAX_ELEMENTS_PER_BYTE * held:
        raise BundleError(f"{where}: the model has buffers of {asked:,} bytes in a bundle of {held:,}")
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > sum(entry.elements for entry in header.tensors.values()):
        raise BundleError(f"{where}: the model has {wanted:,} weights, the bundle fewer")


def _check_own(header: Header, network: nn.Module, where: str) -> None:
    """Own tensors are as those of the model, or longer where a language has word pieces of its own."""
    shapes = {name: tuple(tensor.shape) for name, tensor in untied_state(network).items()}
    for language, own in header.own.items():
        for name, entry in own.items():
            ours = shapes.get(name, ())
            longer = language in header.card.added and entry.shape[1:] == ours[1:] and entry.shape[:1] >= ours[:1]
            if entry.shape != ours and not longer:
                raise BundleError(f"{where}: {name} of {language!r} is {entry.shape}, the model has it as {ours}")
