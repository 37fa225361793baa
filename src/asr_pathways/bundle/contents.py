"""What goes into a bundle, before it is coded: from a pruned recogniser, some of its languages or all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from asr_pathways.bundle.layout import HUB, IDENTIFIER, SUFFIXES, BundleError, Quantity, Score
from asr_pathways.bundle.values import StoredTensor, store
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel, HubCard, ModelCard
from asr_pathways.models.hub.base import HubModel
from asr_pathways.models.weights import untied_state
from asr_pathways.pruning.storage import Description

Packed = NDArray[np.uint8]
Flags = NDArray[np.bool_]
TOKENIZER = "tokenizer.model"


@dataclass(frozen=True)
class Contents:
    """A bundle, not yet coded.

    Attributes:
        dtype: what was asked for.
        card: of the model.
        pathways: languages, config and clocks of the masks.
        tensors: all of the model's, in order; prunable ones with the values of the union alone.
        own: those that added languages have of their own, by language.
        union: packed masks of what at least one pathway keeps, one a prunable tensor, in order.
        masks: packed masks of each pathway.
        files: tokenizers, or a Hugging Face model's own files (``hub/...``).
        scores: by language.
    """

    dtype: Quantity
    card: ModelCard | HubCard
    pathways: Description
    tensors: dict[str, StoredTensor]
    own: dict[str, dict[str, StoredTensor]]
    union: list[Packed]
    masks: dict[str, list[Packed]]
    files: dict[str, bytes]
    scores: dict[str, Score]

    @property
    def sizes(self) -> list[int]:
        """How many weights each prunable tensor has."""
        return [self.tensors[name].entry.elements for name in self.pathways.tensors]


def unpacked(packed: Packed, count: int) -> Flags:
    """(count,) bool of a packed mask."""
    return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)


def contents_of(
    asr: AsrModel,
    dtype: Quantity,
    languages: Sequence[str] | None,
    scores: Mapping[str, Score],
    files: Mapping[str, bytes],
) -> Contents:
    """What a bundle of a pruned recogniser holds, ``files`` beside its own.

    Raises:
        BundleError: if it has no pathways, or has something that fits in no bundle.
        PathwaysError: if it knows no such language, or its files cannot be made.
    """
    if asr.pathways is None:
        raise BundleError("the model has no pathways, and a bundle is of pathways: prune it first")
    stored = asr.pathways.stored()
    description = stored.description
    chosen = asr.check_languages(languages)
    keys = description.config.pathways(description.languages)
    masks = {
        key: [_numpy(stored.masks[key][name]) for name in description.tensors]
        for key in (keys if description.config.shared else chosen)
    }
    union = [np.bitwise_or.reduce(tensor) for tensor in zip(*masks.values(), strict=True)]
    tensors = {}
    places = {name: index for index, name in enumerate(description.tensors)}
    for name, tensor in untied_state(asr.model.network).items():
        kept = unpacked(union[places[name]], tensor.numel()) if name in places else None
        tensors[name] = store(name, tensor, dtype, kept)
    if missing := [name for name in places if name not in tensors]:
        raise BundleError(f"the model has no {missing[0]} any more: write the bundle before it is wrapped")
    own = {
        language: {name: store(name, tensor, dtype) for name, tensor in stored.own[language].items()}
        for language in description.added
    }
    every = {**_files(asr), **files}
    contents = Contents(dtype, asr.card, description, tensors, own, union, masks, every, dict(scores))
    return with_languages(contents, chosen)


def with_languages(contents: Contents, languages: Sequence[str]) -> Contents:
    """Only these languages; the masks of others, their own tensors and values that only they keep are left out.

    A language that was added becomes an ordinary one where none of the languages before it stays.

    Raises:
        BundleError: if such a language has word pieces of its own: its model is larger than the config says.
    """
    chosen = tuple(language for language in contents.pathways.languages if language in languages)
    contents = _without_masks(contents, chosen)
    description = contents.pathways
    added = {language: how for language, how in description.added.items() if language in chosen}
    config, sparsity = description.config, description.current_sparsity
    tensors, own = contents.tensors, {language: contents.own[language] for language in added}
    if added and len(added) == len(chosen):
        first, *others = added
        if first in contents.card.added or others:
            raise BundleError(
                f"{' '.join(chosen)}: added to other languages and tied to them: keep one of "
                f"{' '.join(language for language in description.languages if language not in description.added)} too"
            )
        tensors, own, sparsity = tensors | own[first], {}, added[first].sparsity
        config, added = config.model_copy(update={"sparsity": sparsity}), {}
    card = contents.card.model_copy(
        update={"languages": chosen, "added": tuple(code for code in contents.card.added if code in chosen)}
    )
    gone = {f"tokenizer-{code}.model" for code in contents.card.added if code not in chosen}
    gone |= {IDENTIFIER} if chosen != contents.pathways.languages else set()
    return replace(
        contents,
        card=card,
        tensors=tensors,
        own=own,
        pathways=description.model_copy(
            update={
                "config": config,
                "languages": chosen,
                "added": added,
                "current_sparsity": sparsity,
                "own_steps": {key: description.own_steps[key] for key in contents.masks},
                "sha256": "",
                "own_sha256": "",
            }
        ),
        files={name: content for name, content in contents.files.items() if name not in gone},
        scores={language: contents.scores[language] for language in chosen if language in contents.scores},
    )


def _without_masks(contents: Contents, chosen: Iterable[str]) -> Contents:
    keys = contents.pathways.config.pathways(tuple(chosen))
    masks = {key: contents.masks[key] for key in keys}
    union, tensors = [], dict(contents.tensors)
    for index, (name, size) in enumerate(zip(contents.pathways.tensors, contents.sizes, strict=True)):
        union.append(np.bitwise_or.reduce([mask[index] for mask in masks.values()]))
        if not np.array_equal(union[-1], contents.union[index]):
            before = unpacked(contents.union[index], size)
            tensors[name] = tensors[name].within(unpacked(union[-1], size)[before])
    return replace(contents, masks=masks, union=union, tensors=tensors)


def _files(asr: AsrModel) -> dict[str, bytes]:
    """Tokenizers, or a Hugging Face model's files, by their names in the bundle."""
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        folder = Path(temporary)
        prefix = ""
        if isinstance(asr.model, HubModel):
            prefix = HUB
            asr.model.save_files(temporary)
        elif isinstance(asr.tokenizer, Tokenizer):
            asr.tokenizer.save(folder / TOKENIZER)
        files = sorted(folder.iterdir())
        for path in files:
            if not path.is_file() or not path.name.endswith(SUFFIXES):
                raise BundleError(f"{path.name}: of a kind that has no place in a bundle")
        return {prefix + path.name: path.read_bytes() for path in files}


def _numpy(tensor: Tensor) -> Packed:
    found: NDArray[Any] = tensor.detach().cpu().numpy()
    return found
