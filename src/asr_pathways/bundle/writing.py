"""Writing a bundle of a pruned recogniser, of some of its languages or all."""

from __future__ import annotations

import hashlib
import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from asr_pathways.bundle import layout
from asr_pathways.bundle.layout import BundleError, Header, Quantity, Score, language_prefix, read_layout
from asr_pathways.bundle.values import Array, Bytes, StoredTensor, pack, store, unpack
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path
from asr_pathways.model_folder.model import AsrModel, HubCard, ModelCard
from asr_pathways.models.hub.base import HubModel
from asr_pathways.models.weights import untied_state
from asr_pathways.pruning.storage import Description


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    Attributes:
        dtype: what was asked for.
        card: of the model.
        pathways: languages, config and clocks of the masks.
        tensors: all of the model's, in order; prunable ones with the values of the union alone.
        language_tensors: unmasked ones of languages that were added, by language.
        union: packed masks of what at least one pathway keeps, one a prunable tensor, in order.
        masks: packed masks of each pathway.
        files: tokenizers, or a Hugging Face model's own files (``hub/...``).
        scores: by language.
    """

    dtype: Quantity
    card: ModelCard | HubCard
    pathways: Description
    tensors: dict[str, StoredTensor]
    language_tensors: dict[str, dict[str, StoredTensor]]
    union: list[Bytes]
    masks: dict[str, list[Bytes]]
    files: dict[str, bytes]
    scores: dict[str, Score]

    @property
    def sizes(self) -> list[int]:
        """How many weights each prunable tensor has."""
        return [math.prod(shape) for shape in self.pathways.tensors.values()]


def contents_of(
    asr: AsrModel,
    dtype: Quantity,
    languages: Sequence[str] | None,
    scores: Mapping[str, Score],
    files: Mapping[str, bytes],
) -> Contents:
    """What a bundle of a pruned recogniser holds, ``files`` beside the model's.

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
        key: [stored.masks[key][name].detach().cpu().numpy() for name in description.tensors]
        for key in (keys if description.config.shared else chosen)
    }
    union = [np.bitwise_or.reduce(tensor) for tensor in zip(*masks.values(), strict=True)]
    tensors = {}
    places = {name: index for index, name in enumerate(description.tensors)}
    for name, tensor in untied_state(asr.model.network).items():
        kept = unpack(union[places[name]], tensor.numel()) if name in places else None
        tensors[name] = store(name, tensor, dtype, kept)
    if missing := [name for name in places if name not in tensors]:
        raise BundleError(f"the model has no {missing[0]} any more: write the bundle before it is wrapped")
    added = {
        language: {name: store(name, tensor, dtype) for name, tensor in stored.own[language].items()}
        for language in description.added
    }
    every = {**_files(asr), **files}
    contents = Contents(dtype, asr.card, description, tensors, added, union, masks, every, dict(scores))
    return with_languages(contents, chosen)


def with_languages(contents: Contents, languages: Sequence[str]) -> Contents:
    """Only these languages; the masks of others, their tensors and values that only they keep are left out.

    A language that was added becomes an ordinary one where none of the languages before it stays.

    Raises:
        BundleError: if such a language has word pieces of its own: its model is larger than the config says.
    """
    chosen = tuple(language for language in contents.pathways.languages if language in languages)
    contents = _without_masks(contents, chosen)
    description = contents.pathways
    added = {language: how for language, how in description.added.items() if language in chosen}
    config, sparsity = description.config, description.current_sparsity
    tensors, of_added = contents.tensors, {language: contents.language_tensors[language] for language in added}
    if added and len(added) == len(chosen):
        first, *others = added
        if first in contents.card.added or others:
            raise BundleError(
                f"{' '.join(chosen)}: added to other languages and tied to them: keep one of "
                f"{' '.join(language for language in description.languages if language not in description.added)} too"
            )
        tensors, of_added, sparsity = tensors | of_added[first], {}, added[first].sparsity
        config, added = config.model_copy(update={"sparsity": sparsity}), {}
    card = contents.card.model_copy(
        update={"languages": chosen, "added": tuple(code for code in contents.card.added if code in chosen)}
    )
    gone = {f"tokenizer-{code}.model" for code in contents.card.added if code not in chosen}
    gone |= {layout.IDENTIFIER} if chosen != contents.pathways.languages else set()
    return replace(
        contents,
        card=card,
        tensors=tensors,
        language_tensors=of_added,
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
            before = unpack(contents.union[index], size)
            tensors[name] = tensors[name].within(unpack(union[-1], size)[before])
    return replace(contents, masks=masks, union=union, tensors=tensors)


def _files(asr: AsrModel) -> dict[str, bytes]:
    """Tokenizers, or a Hugging Face model's files, by their names in the bundle."""
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        folder = Path(temporary)
        prefix = ""
        if isinstance(asr.model, HubModel):
            prefix = layout.HUB
            asr.model.save_files(temporary)
        elif isinstance(asr.tokenizer, Tokenizer):
            asr.tokenizer.save(folder / layout.TOKENIZER)
        files = sorted(folder.iterdir())
        for path in files:
            if not path.is_file() or not path.name.endswith(layout.SUFFIXES):
                raise BundleError(f"{path.name}: of a kind that has no place in a bundle")
        return {prefix + path.name: path.read_bytes() for path in files}


def write_contents(contents: Contents, out: Path) -> None:
    """Writes a bundle, whole or not at all.

    Raises:
        BundleError: if it cannot be written.
    """
    if out.suffix != layout.BUNDLE_SUFFIX:
        raise BundleError(f"{out}: a bundle is one file: choose a name that ends in {layout.BUNDLE_SUFFIX}")
    if out.is_dir():
        raise BundleError(f"{out}: a folder: choose a name for a file")
    arrays = {name: np.asarray(array, order="C") for name, array in sorted(_arrays(contents))}
    header = Header(
        dtype=contents.dtype,
        card=contents.card,
        pathways=contents.pathways,
        scores=contents.scores,
        sha256={
            name: hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest() for name, array in arrays.items()
        },
    )
    try:
        with atomic_path(out) as temporary:
            save_file(arrays, temporary, metadata={layout.METADATA: header.text()})
            _seal(temporary, out)
    except BundleError:
        raise
    except SafetensorError as error:
        raise BundleError(f"{out}: cannot write: {error}") from None
    except PathwaysError as error:
        raise BundleError(str(error)) from None


def _seal(path: Path, out: Path) -> None:
    """Puts the digest of the header into a file that safetensors wrote, and reads it back as whoever opens it does."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > layout.MAX_HEAD:
            raise BundleError(f"{out}: its header would be larger than {layout.MAX_HEAD:,} bytes: too many tensors")
        stream.seek(0)
        sealed = layout.seal(stream.read(8 + length))
        stream.seek(0)
        stream.write(sealed)
        stream.flush()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            read_layout(view, str(out))


def _arrays(contents: Contents) -> Iterator[tuple[str, Array]]:
    """The tensors of the file, by their names there."""
    groups = {"": contents.tensors, **{language_prefix(one): held for one, held in contents.language_tensors.items()}}
    for prefix, tensors in groups.items():
        for name, tensor in tensors.items():
            yield f"{prefix}{layout.VALUES}{name}", tensor.values
            if tensor.scales is not None:
                yield f"{prefix}{layout.SCALES}{name}", tensor.scales
    yield layout.UNION, np.concatenate(contents.union)
    unions = [unpack(bits, size) for bits, size in zip(contents.union, contents.sizes, strict=True)]
    for key, mask in contents.masks.items():
        within = (unpack(bits, union.size)[union] for bits, union in zip(mask, unions, strict=True))
        yield f"{layout.MASKS}{key}", np.concatenate([pack(flags) for flags in within])
    for name, content in contents.files.items():
        yield f"{layout.FILES}{name}", np.frombuffer(content, dtype=np.uint8)
