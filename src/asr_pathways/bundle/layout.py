"""The layout of a bundle: one safetensors file whose metadata holds a header, in JSON (docs/bundle.md).

``values/NAME`` are what the union of all masks keeps of a prunable tensor, or another tensor whole; ``scales/NAME`` go
with int8; ``union`` and ``masks/PATHWAY`` are bits; ``languages/LANGUAGE/values/NAME`` are unmasked tensors of a
language that was added, ``vocabulary/PATHWAY`` bits of the tokens that a pathway of a Whisper may write, ``files/NAME``
the bytes of files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import Field

from asr_pathways.bits import packed_size
from asr_pathways.config import Config, parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.card import IDENTIFIER, HubCard, ModelCard
from asr_pathways.pruning.storage import Description

FORMAT: Final = "asr-pathways bundle"
VERSION: Final = 2
METADATA = "asr-pathways"
"""The key of the header in the file's metadata."""
BUNDLE_SUFFIX = ".asrp"
OLD_DIGEST = "config.json.sha256"
"""A file in every folder that was a bundle of format 1."""
OLD_FORMAT = "a bundle of format 1, which is not read any more: export the model folder again"

UNION = "union"
MASKS = "masks/"
VALUES = "values/"
SCALES = "scales/"
LANGUAGES = "languages/"
VOCABULARY = "vocabulary/"
FILES = "files/"
TOKENIZER = "tokenizer.model"
HUB = "hub/"
"""Before the names of a Hugging Face model's own files."""
EMBEDDING = "model.decoder.embed_tokens.weight"
"""A Whisper's table of tokens, which its output layer has too: a row each."""

MAX_HEAD = 8 << 20
"""Bytes before the tensors' data: a model of 3,000 tensors takes a tenth of it."""

SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".jinja", ".md")
"""Of files: nothing that anyone would run or unpickle."""

Quantity = Literal["float32", "float16", "int8"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
ITEM_SIZES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}
DTYPES = dict(zip(("F32", "F16", "I8", "U8", "I16", "I32", "I64", "BOOL"), ITEM_SIZES, strict=True))
"""Types of items by their names in safetensors."""
_UNSEALED = "0" * 64
_FILE_NAME = re.compile(r"(hub/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_Size = Annotated[int, Field(ge=0, le=1 << 40)]
Shape = tuple[int, ...]


class BundleError(PathwaysError):
    """A bundle that is broken, changed, foreign or cannot be written; one line that names file and part."""


class Score(Config):
    """Word error rate of a language, a fraction, and the number of words in the references."""

    wer: float = Field(ge=0, allow_inf_nan=False)
    words: int = Field(ge=0)


class Header(Config):
    """What the metadata of a bundle state of its tensors.

    Attributes:
        digest: SHA-256 of all bytes before the tensors' data, these 64 digits as zeros.
        dtype: of weights; vectors (norms, biases) stay float32.
        pathways: languages, config and clocks of the masks, and the shapes of prunable tensors in order.
        scores: by language, where known.
        sha256: of the data of each tensor of the file, by its name there.
    """

    digest: str = Field(default=_UNSEALED, pattern=r"^[0-9a-f]{64}$")
    format: Literal["asr-pathways bundle"] = FORMAT
    version: Literal[2] = VERSION
    dtype: Quantity
    card: Annotated[ModelCard | HubCard, Field(discriminator="format")]
    pathways: Description
    scores: dict[str, Score] = Field(default={})
    sha256: dict[str, str]

    def text(self) -> str:
        """Its text in the metadata."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))


class Slot(Config):
    """Type, shape and place of a tensor in the file, as safetensors has them."""

    dtype: Literal["F32", "F16", "I8", "U8", "I16", "I32", "I64", "BOOL"]
    shape: Annotated[tuple[_Size, ...], Field(max_length=8)]
    data_offsets: tuple[_Size, _Size]

    @property
    def item(self) -> str:
        """NumPy's name of the type of its items."""
        return DTYPES[self.dtype]

    @property
    def has_floats(self) -> bool:
        """Whether its values are floats, rounded or not."""
        return self.item in QUANTITIES

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_SIZES[self.item]


class Bits(NamedTuple):
    """Where the bits of a prunable tensor begin and end, in bytes."""

    union: slice
    mask: slice


@dataclass(frozen=True)
class Layout:
    """A header and the tensors of its file, each of which is what the header asks for.

    Attributes:
        start: of the tensors' data in the file, in bytes.
    """

    header: Header
    slots: Mapping[str, Slot]
    start: int

    @property
    def prunable(self) -> dict[str, Shape]:
        """Shapes of the tensors that masks cover, by name, in order."""
        return self.header.pathways.tensors

    @cached_property
    def tensors(self) -> dict[str, Shape]:
        """Shapes of all tensors of the model, by name."""
        return {name: slot.shape for name, slot in self.under(VALUES).items()} | self.prunable

    @cached_property
    def bits(self) -> dict[str, Bits]:
        """Places of the bits of each prunable tensor in the union and in the masks."""
        places, union, mask = {}, 0, 0
        for name, shape in self.prunable.items():
            ends = union + packed_size(shape), mask + packed_size((self.kept_of(name),))
            places[name] = Bits(slice(union, ends[0]), slice(mask, ends[1]))
            union, mask = ends
        return places

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the masks."""
        return self.header.pathways.config.pathways(self.header.pathways.languages)

    def kept_of(self, name: str) -> int:
        """How many weights of a prunable tensor at least one pathway keeps."""
        return self.slots[VALUES + name].elements

    @property
    def tokens(self) -> int:
        """The tokens of a Whisper; 0 of other models."""
        shape = self.tensors.get(EMBEDDING, ())
        return shape[0] if len(shape) == 2 else 0

    def key(self, language: str) -> str:
        """The name of a language's mask.

        Raises:
            BundleError: on an unknown language.
        """
        pathways = self.header.pathways
        if language not in pathways.languages:
            raise BundleError(f"unknown language {language!r}: the bundle has {' '.join(pathways.languages)}")
        return self.keys[0] if pathways.config.shared else language

    def under(self, prefix: str) -> dict[str, Slot]:
        """The tensors of the file whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): slot for name, slot in self.slots.items() if name.startswith(prefix)}

    def under_language(self, language: str) -> dict[str, Slot]:
        """The unmasked tensors of a language that was added, by name; none of another."""
        return self.under(language_prefix(language) + VALUES)


def check_name(out: Path) -> None:
    """Raises BundleError if a bundle cannot be called like ``out``."""
    if out.suffix != BUNDLE_SUFFIX:
        raise BundleError(f"{out}: a bundle is one file: choose a name that ends in {BUNDLE_SUFFIX}")


def is_bundle(path: Path) -> bool:
    """Whether the path is that of a bundle, whole, broken or of the first format, or has the name of one."""
    return (path.suffix == BUNDLE_SUFFIX and not path.is_dir()) or (path / OLD_DIGEST).is_file()


def language_prefix(language: str) -> str:
    """What the names of the tensors of an added language begin with."""
    return f"{LANGUAGES}{language}/"


def seal(head: bytes) -> bytes:
    """The bytes before the data of a file, their digest put in."""
    return head.replace(_UNSEALED.encode(), hashlib.sha256(head).hexdigest().encode(), 1)


def read_layout(read: Callable[[int, int], bytes], total: int, where: str) -> Layout:
    """The layout of a file; reads only what is before the tensors' data.

    Args:
        read: from a place and a number of bytes to those bytes, or fewer where the file ends.
        total: bytes of the file.

    Raises:
        BundleError: if it is no bundle, of another version, truncated, changed there, or if its parts contradict
            each other.
    """
    first = read(0, min(8, total))
    if first[:4] == b"PK\x03\x04":
        raise BundleError(f"{where}: {OLD_FORMAT}")
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(MAX_HEAD, total - 8):
        raise BundleError(f"{where}: not a bundle: it does not begin as a safetensors file does, or is cut short")
    head = first + read(8, length)
    try:
        slots = _json(head[8:].decode())
        metadata = slots.pop("__metadata__", None) if isinstance(slots, dict) else None
        if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA), str):
            raise BundleError(f"{where}: not a bundle: its metadata lack {METADATA}")
        header = _header(_json(metadata[METADATA]), head, where)
        slots = {name: parse_config(Slot, value, f"{where}: {name:.200}") for name, value in slots.items()}
        layout = Layout(header, slots, len(head))
        problem = next(_contradictions(layout, total - len(head)), None)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: header: not valid JSON: {error!s:.200}") from None
    except PathwaysError as error:
        raise BundleError(f"{error!s:.500}") from None
    if problem:
        raise BundleError(f"{where}: {problem:.500}")
    return layout


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is there twice")
    return mapping


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _header(raw: Any, head: bytes, where: str) -> Header:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{where}: header: not that of a bundle")
    if raw.get("version") != VERSION:
        raise BundleError(f"{where}: bundle version {raw.get('version')!r:.20}, but this release reads {VERSION}")
    header = parse_config(Header, raw, f"{where}: header")
    blank = head.replace(header.digest.encode(), _UNSEALED.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != header.digest:
        raise BundleError(f"{where}: header: changed since it was written: its SHA-256 is another")
    return header


def _contradictions(layout: Layout, size: int) -> Iterator[str]:
    """What is contradictory, each in words; a later check may rely on the ones before it.

    Every size that is allocated later is bounded here by the bytes that the file has: a weight takes a bit of the union
    or a byte of values.

    Args:
        size: bytes of data.
    """
    slots, pathways, end = layout.slots, layout.header.pathways, 0
    for name, slot in sorted(slots.items(), key=lambda item: item[1].data_offsets):
        start, stop = slot.data_offsets
        if start != end or stop - start != slot.nbytes or (layout.start + start) % ITEM_SIZES[slot.item]:
            yield f"{name}: is not in the file where it should be"
        if (0 in slot.shape and len(slot.shape) > 1) or (not slot.shape and slot.item == "int8"):
            yield f"{name}: a tensor of {slot.item} {slot.shape}, which is none"
        end = stop
    if end != size:
        yield f"has {layout.start + size:,} bytes, not {layout.start + end:,}: truncated or changed"
    if layout.header.sha256.keys() != slots.keys():
        yield "sha256: not of the tensors that are there"
    if any(key not in pathways.own_steps for key in layout.keys):
        yield "pathways: own_steps of a mask are missing"
    if not pathways.tensors:
        yield "pathways: masks cover no tensor"
    for name, shape in pathways.tensors.items():
        values = slots.get(VALUES + name)
        if values is None or not 2 <= len(shape) <= 8 or any(side < 1 for side in shape):
            yield f"pathways: {name}: {shape} is no tensor that a mask covers"
        elif len(values.shape) != 1 or values.elements > math.prod(shape) or not values.has_floats:
            yield f"{VALUES}{name}: {values.dtype} {values.shape}: not what a union keeps of {shape}"
    wanted = _wanted(layout)
    for name, asked in wanted.items():
        present = slots.get(name)
        if present is None or (present.dtype, present.shape) != asked:
            yield f"{name}: is {present and (present.dtype, present.shape)}, not {asked}"
    yield from _wrong_files(layout)
    unmasked = {name for name in layout.tensors if name not in pathways.tensors}
    prefixes = tuple(language_prefix(language) + VALUES for language in pathways.added)
    for name in slots.keys() - wanted.keys():
        of_language = name.startswith(prefixes) and name.partition("/" + VALUES)[2] in unmasked
        if not name.startswith((VALUES, FILES)) and not of_language:
            yield f"{name}: is not known"


def _wanted(layout: Layout) -> dict[str, tuple[str, Shape]]:
    """Type and shape of the tensors that follow from the others: masks, vocabularies if any, scales of int8 values."""
    pathways = layout.header.pathways
    within: tuple[str, Shape] = ("U8", (sum(packed_size((layout.kept_of(name),)) for name in pathways.tensors),))
    wanted: dict[str, tuple[str, Shape]] = {UNION: ("U8", (sum(map(packed_size, pathways.tensors.values())),))}
    wanted |= {MASKS + key: within for key in layout.keys}
    if layout.tokens and layout.under(VOCABULARY):
        wanted |= {VOCABULARY + key: ("U8", (packed_size((layout.tokens,)),)) for key in layout.keys}
    for prefix in ("", *map(language_prefix, pathways.added)):
        for name, slot in layout.under(prefix + VALUES).items():
            if slot.item == "int8":
                shape = slot.shape if prefix else layout.tensors[name]
                wanted[prefix + SCALES + name] = "F32", shape[:1]
    return wanted


def _wrong_files(layout: Layout) -> Iterator[str]:
    card, files = layout.header.card, layout.under(FILES)
    hub = isinstance(card, HubCard)
    ours = set() if hub else {TOKENIZER, *(f"tokenizer-{language}.model" for language in card.added)}
    for name in sorted(ours - files.keys()):
        yield f"{FILES}{name}: missing"
    for name, slot in files.items():
        known = name in ours or name == IDENTIFIER or (hub and name.startswith(HUB))
        if not known or not _FILE_NAME.fullmatch(name) or not name.endswith(SUFFIXES):
            yield f"{FILES}{name}: is not known"
        if slot.dtype != "U8" or len(slot.shape) != 1:
            yield f"{FILES}{name}: not the bytes of a file"
    if len({name.casefold() for name in files}) < len(files):
        yield "files: two have the same name but for case"
