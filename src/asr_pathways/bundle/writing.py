"""Writing a bundle of a pruned recogniser, of some of its languages or all."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from asr_pathways.bits import Bytes, Flags, pack, unpack
from asr_pathways.bundle import layout
from asr_pathways.bundle.layout import BundleError, Header, Quantity, Score, language_prefix, read_layout
from asr_pathways.bundle.values import Array, StoredTensor, store
from asr_pathways.bundle.vocabulary import TokenIds
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path
from asr_pathways.model_folder.card import IDENTIFIER, HubCard, ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.base import HubModel
from asr_pathways.models.weights import untied_state
from asr_pathways.pruning.storage import Description


class Contents:
    """What goes into a bundle of some of a model's languages.

    A language that was added becomes an ordinary one where none of the languages before it stays.

    Args:
        card, pathways: of the model with all of its languages.
        languages: those to keep.

    Attributes:
        card, pathways: with these languages alone.
        alone: the added language that becomes an ordinary one: its unmasked tensors are to be added as the model's.

    Raises:
        BundleError: if such a language has word pieces of its own: its model is larger than the config.
    """

    def __init__(self, card: ModelCard | HubCard, pathways: Description, languages: Sequence[str]) -> None:
        chosen = tuple(language for language in pathways.languages if language in languages)
        added = {language: how for language, how in pathways.added.items() if language in chosen}
        config, sparsity = pathways.config, pathways.current_sparsity
        self.alone: str | None = None
        if added and len(added) == len(chosen):
            self.alone, *others = added
            if self.alone in card.added or others:
                raise BundleError(
                    f"{' '.join(chosen)}: added to other languages and tied to them: keep one of "
                    f"{' '.join(language for language in pathways.languages if language not in pathways.added)} too"
                )
            sparsity = added[self.alone].sparsity
            config, added = config.model_copy(update={"sparsity": sparsity}), {}
        extended = tuple(code for code in card.added if code in chosen)
        self._left_out = {f"tokenizer-{code}.model" for code in card.added if code not in chosen}
        if chosen != pathways.languages:
            self._left_out.add(IDENTIFIER)
        self.card = card.model_copy(update={"languages": chosen, "added": extended})
        self.pathways = pathways.model_copy(
            update={
                "config": config,
                "languages": chosen,
                "added": added,
                "current_sparsity": sparsity,
                "own_steps": {key: pathways.own_steps[key] for key in config.pathways(chosen)},
                "sha256": "",
                "own_sha256": "",
            }
        )
        self._arrays: dict[str, Array] = {}
        self._bits: dict[str, list[Bytes]] = defaultdict(list)
        self._vocabularies: dict[str, Flags] = {}

    def add(self, name: str, tensor: StoredTensor, language: str | None = None) -> None:
        """Adds a tensor of the model, or an unmasked one of a language that was added."""
        prefix = "" if language is None else language_prefix(language)
        self._arrays[f"{prefix}{layout.VALUES}{name}"] = tensor.values
        if tensor.scales is not None:
            self._arrays[f"{prefix}{layout.SCALES}{name}"] = tensor.scales

    def add_bits(self, union: Flags, masks: Mapping[str, Flags]) -> None:
        """Adds the union (n,) and all masks (n,) of the next prunable tensor."""
        self._bits[layout.UNION].append(pack(union))
        for key, mask in masks.items():
            self._bits[layout.MASKS + key].append(pack(mask[union]))

    def add_vocabularies(self, vocabularies: Mapping[str, TokenIds], tokens: int) -> None:
        """Adds the tokens of each language, of so many; a mask that languages share has those of all of them."""
        for language in self.pathways.languages:
            (key,) = self.pathways.config.pathways([language])
            flags = self._vocabularies.setdefault(layout.VOCABULARY + key, np.zeros(tokens, dtype=np.bool_))
            flags[vocabularies[language]] = True

    def add_files(self, files: Mapping[str, bytes]) -> None:
        """Adds files, but for those of languages that are left out."""
        for name, content in files.items():
            if name not in self._left_out:
                self._arrays[layout.FILES + name] = np.frombuffer(content, dtype=np.uint8)

    def write(self, out: Path, dtype: Quantity, scores: Mapping[str, Score]) -> None:
        """Writes the bundle, whole or not at all.

        Raises:
            BundleError: if it cannot be written.
        """
        layout.check_name(out)
        if out.is_dir():
            raise BundleError(f"{out}: a folder: choose a name for a file")
        arrays = self._arrays | {name: np.concatenate(bits) for name, bits in self._bits.items()}
        arrays |= {name: pack(flags) for name, flags in self._vocabularies.items()}
        arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
        hashes = {name: hashlib.sha256(array.reshape(-1).view(np.uint8).data) for name, array in arrays.items()}
        header = Header(
            dtype=dtype,
            card=self.card,
            pathways=self.pathways,
            scores={language: scores[language] for language in self.pathways.languages if language in scores},
            sha256={name: sha256.hexdigest() for name, sha256 in hashes.items()},
        )
        try:
            with atomic_path(out) as temporary:
                save_file(arrays, temporary, metadata={layout.METADATA: header.text()})
                _seal(temporary, out)
        except PathwaysError as error:
            raise BundleError(str(error)) from None


def contents_of(
    asr: AsrModel,
    dtype: Quantity,
    languages: Sequence[str] | None,
    files: Mapping[str, bytes],
    vocabularies: Mapping[str, TokenIds],
) -> Contents:
    """What a bundle of a pruned recogniser has in it, ``files`` beside the model's.

    Raises:
        BundleError: if it has no pathways, or something that fits in no bundle.
        PathwaysError: if a language is unknown, or its files cannot be made.
    """
    if asr.pathways is None:
        raise BundleError("the model has no pathways, and a bundle is of pathways: prune it first")
    stored = asr.pathways.stored()
    contents = Contents(asr.card, stored.description, asr.check_languages(languages))
    keys = contents.pathways.config.pathways(contents.pathways.languages)
    state = untied_state(asr.model.network)
    prunable = stored.description.tensors
    for name in prunable:
        if name not in state:
            raise BundleError(f"the model has no {name} any more: write the bundle before it is wrapped")
        packed = {key: stored.masks[key][name].detach().cpu().numpy() for key in keys}
        masks = {key: unpack(bits, state[name].numel()) for key, bits in packed.items()}
        union = np.bitwise_or.reduce(list(masks.values()))
        contents.add(name, store(name, state[name], dtype, union))
        contents.add_bits(union, masks)
    unmasked = state if contents.alone is None else state | stored.language_tensors[contents.alone]
    for name in unmasked.keys() - prunable.keys():
        contents.add(name, store(name, unmasked[name], dtype))
    for language in contents.pathways.added:
        for name, tensor in stored.language_tensors[language].items():
            contents.add(name, store(name, tensor, dtype), language)
    contents.add_files({**_files(asr), **files})
    if vocabularies:
        contents.add_vocabularies(vocabularies, len(state[layout.EMBEDDING]))
    return contents


def _files(asr: AsrModel) -> dict[str, bytes]:
    """Tokenizers, or a Hugging Face model's files, by their names in the bundle."""
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as temporary:
        if isinstance(asr.model, HubModel):
            asr.model.save_files(temporary)
        elif isinstance(asr.tokenizer, Tokenizer):
            asr.tokenizer.save(Path(temporary) / layout.TOKENIZER)
        files = sorted(Path(temporary).iterdir())
        for path in files:
            if not path.is_file() or not path.name.endswith(layout.SUFFIXES):
                raise BundleError(f"{path.name}: of a kind that has no place in a bundle")
        prefix = layout.HUB if isinstance(asr.model, HubModel) else ""
        return {prefix + path.name: path.read_bytes() for path in files}


def _seal(path: Path, out: Path) -> None:
    """Puts the digest of the header into a file that safetensors wrote, and checks that its layout can be read."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > layout.MAX_HEAD:
            raise BundleError(f"{out}: its header would be larger than {layout.MAX_HEAD:,} bytes: too many tensors")
        stream.seek(0)
        sealed = layout.seal(stream.read(8 + length))
        stream.seek(0)
        stream.write(sealed)
        stream.flush()
        read_layout(lambda start, size: sealed[start : start + size], path.stat().st_size, str(out))
