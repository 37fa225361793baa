"""From a bundle to a recogniser: the model that its header describes, built only if it has the tensors of the file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asr_pathways.bundle.layout import FILES, HUB, TOKENIZER, VALUES, VOCABULARY, BundleError, Layout, Slot
from asr_pathways.bundle.reading import Reader
from asr_pathways.data.tokenizer import ExtendedTokenizer, Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError, reason_of
from asr_pathways.model_folder.card import HubCard, ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.models.weights import bounded, take_state
from asr_pathways.pruning import Pathways
from asr_pathways.pruning.prunable import to_prune
from asr_pathways.pruning.storage import Stored, check_tensors

State = Mapping[str, Tensor]
NetworkT = TypeVar("NetworkT", bound=nn.Module)


def build(bundle: Reader) -> AsrModel:
    """The recogniser that a bundle describes.

    Raises:
        BundleError: if a part is broken or does not fit the others.
    """
    card, where = bundle.config.card, str(bundle.path)
    with _one_line(where):
        if isinstance(card, ModelCard):
            tokenizer = _check_transducer(bundle, card)
            model = Transducer(card.model)
            take_state(model, bundle.dense(), where)
            asr = AsrModel(model, tokenizer, card)
        else:
            asr = _hub_model(bundle, card)
            _check_languages(bundle.layout, asr.model.network.state_dict(), {}, where)
        asr.model.eval()
        asr.model.load_languages(asr.card.languages)
        masks = {key: bundle.packed_masks(key) for key in bundle.layout.keys}
        added = {language: bundle.language_tensors(language) for language in bundle.config.pathways.added}
        stored = Stored(bundle.config.pathways, masks, added)
        asr.pathways = Pathways.from_stored(asr.model.network, stored, where)
    return asr


def open_transducer(bundle: Reader) -> tuple[ModelCard, Tokenizer]:
    """The card and tokenizer of a transducer of this package; no weights are read.

    Raises:
        BundleError: if it is of another model, or if `build` would refuse it.
    """
    card = bundle.config.card
    if not isinstance(card, ModelCard):
        raise BundleError(f"{bundle.path}: only the transducers of this package stream: leave --stream out")
    with _one_line(str(bundle.path)):
        return card, _check_transducer(bundle, card)


def _check_transducer(bundle: Reader, card: ModelCard) -> Tokenizer:
    """Compares the model that a card describes with the tensors of its bundle; nothing is allocated for either.

    Raises:
        PathwaysError: if they differ.
    """
    layout, where = bundle.layout, str(bundle.path)
    base = _tokenizer(bundle, TOKENIZER)
    added = {code: ExtendedTokenizer(base, _tokenizer(bundle, f"tokenizer-{code}.model")) for code in card.added}
    if base.vocab_size != card.model.vocab_size:
        raise BundleError(f"{where}: {TOKENIZER}: {base.vocab_size} pieces, the model has {card.model.vocab_size}")
    network = _check_model(layout, partial(Transducer, card.model), where)
    if card.features.bins != card.model.encoder.features:
        raise BundleError(f"{where}: {card.features.bins} mel bins for a model of {card.model.encoder.features}")
    state = network.state_dict()
    for name in state.keys() - layout.tensors.keys():
        raise BundleError(f"{where}: {name}: missing")
    targets = to_prune(network, layout.header.pathways.config)
    check_tensors(where, layout.prunable, {target.name: target.shape for target in targets})
    unmasked = state.keys() - layout.prunable.keys()
    for language in layout.header.pathways.added:
        if unmasked != layout.under_language(language).keys():
            raise BundleError(f"{where}: {language}: has other tensors than those that no mask covers")
    with torch.device("meta"):
        grown = {code: network.grown(more.new.vocab_size) for code, more in added.items()}
    _check_languages(layout, state, grown, where)
    return TokenizerFamily(base, added) if added else base


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Makes a `BundleError` of whatever torch and transformers raise on a config that describes no model."""
    try:
        yield
    except PathwaysError as error:
        text = str(error)
        raise BundleError(text if where in text else f"{where}: {text}") from None
    except Exception as error:
        raise BundleError(f"{where}: header: describes no model that can be built: {reason_of(error):.200}") from error


def _hub_model(bundle: Reader, card: HubCard) -> AsrModel:
    from asr_pathways.models.hub import load_hub_model
    from asr_pathways.models.hub.whisper import Whisper

    where = str(bundle.path)

    def take(kind: Any, config: Any) -> Any:
        _check_model(bundle.layout, partial(kind, config), where)
        network = kind(config)
        take_state(network, bundle.dense(), where)
        return network.eval()

    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        for name in bundle.layout.under(FILES + HUB):
            content = bundle.file(HUB + name)
            (Path(temporary) / name).write_bytes(content)
        try:
            model, tokenizer = load_hub_model(temporary, take)
            model.load_languages(card.languages)  # reads adapters while their files are here
        except PathwaysError as error:
            raise BundleError(str(error).replace(temporary, f"{where}: hub")) from None
    for language in bundle.languages if bundle.layout.under(VOCABULARY) else ():
        if not isinstance(model, Whisper):
            raise BundleError(f"{where}: {VOCABULARY}{language}: only a Whisper's vocabulary can be restricted")
        if (tokens := bundle.vocabulary(language)) is not None:
            model.restrict(language, tokens.tolist())
    return AsrModel(model, tokenizer, card)


def _tokenizer(bundle: Reader, name: str) -> Tokenizer:
    return Tokenizer.read(bundle.file(name), f"{bundle.path}: {name}")


def _check_model(layout: Layout, make: Callable[[], NetworkT], where: str) -> NetworkT:
    """Makes the model without memory, stopping where it becomes larger than the bundle, and compares its tensors."""
    with torch.device("meta"), bounded(layout.tensors.values(), where):
        model = make()
    state = model.state_dict()
    for name, shape in layout.tensors.items():
        _compare(name, shape, layout.slots[VALUES + name], state.get(name), where)
    return model


def _check_languages(layout: Layout, state: State, grown: Mapping[str, State], where: str) -> None:
    """Compares tensors of added languages with the model's, or with ``grown`` where a language has more word pieces."""
    for language in layout.header.pathways.added:
        wanted = {**state, **grown.get(language, {})}
        for name, slot in layout.under_language(language).items():
            _compare(name, slot.shape, slot, wanted.get(name), f"{where}: {language}")


def _compare(name: str, shape: tuple[int, ...], slot: Slot, tensor: Tensor | None, where: str) -> None:
    """Refuses a tensor of another shape than the model's, or of integers for floats or the other way round."""
    wanted = None if tensor is None else tuple(tensor.shape)
    if wanted != shape:
        raise BundleError(f"{where}: {name} is {shape}, the model has it as {wanted}")
    if tensor is not None and tensor.is_floating_point() != slot.has_floats:
        raise BundleError(f"{where}: {name} is of {slot.item}, the model has it of {tensor.dtype}")
