"""What the header of a bundle (its ``config.json``) says, and whether it makes sense by itself.

Everything else in a bundle follows from the header: names, sizes and order of all parts, and what stands at which byte
of each of them. A reader works those out and compares; it never takes a length from anywhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field

from asr_pathways.config import Config, parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.model import HubCard, ModelCard
from asr_pathways.pruning.storage import Description

FORMAT: Final = "asr-pathways bundle"
VERSION: Final = 1
BUNDLE_SUFFIX = ".asrp"
BUNDLE_DIGEST = "config.json.sha256"
"""A file in every bundle that is a folder."""

CONFIG = "config.json"
DIGEST = BUNDLE_DIGEST
DIGEST_SIZE = 64 + 2 + len(CONFIG) + 1
WEIGHTS = "weights.safetensors"
PATHWAYS = "pathways.safetensors"
README = "README.md"
IDENTIFIER = "language_id.safetensors"
"""What tells the languages apart, where the model was taught to."""
HUB = "hub/"
"""Before the names of a Hugging Face model's own files."""

MAX_CONFIG = 4 << 20
"""Bytes that a header may have: that of a model of 3,000 tensors has a tenth of it."""

MAX_ELEMENTS_PER_BYTE = 64
"""Weights and mask bits in all, by the bytes of the bundle: nothing small can ask for much memory."""

ANCHORS = 4
"""How many masks, at most, others are coded by: what opening one language may have to decode beside its own."""

SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".jinja", ".md")
"""Of parts: nothing that anyone would run or unpickle."""

Dtype = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
Quantity = Literal["float32", "float16", "int8"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
ITEM_SIZES: dict[str, int] = {
    "float32": 4,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}
Size = Annotated[int, Field(ge=0, le=1 << 40)]
Shape = tuple[Size, ...]


class BundleError(PathwaysError):
    """A bundle that is broken, changed, foreign or cannot be written; one line that names file and part."""


class Part(Config):
    """One file of a bundle.

    Attributes:
        name: of the file; those of a Hugging Face model lie in ``hub/``.
        size: in bytes.
        sha256: in hexadecimal.
        crc32: which a zip file wants.
    """

    name: str = Field(pattern=r"^(hub/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")
    size: Size
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    crc32: int = Field(ge=0, lt=1 << 32)


class TensorEntry(Config):
    """How one tensor lies in ``weights.safetensors``.

    Attributes:
        shape: of the tensor in the model.
        dtype: of its stored values; int8 has a float32 scale a row beside it.
        kept: of a prunable tensor, how many values lie there: those in the union of masks, in row-major order. None:
            the tensor lies there whole.
    """

    shape: Shape
    dtype: Dtype
    kept: Size | None = None

    @property
    def elements(self) -> int:
        """Weights of the tensor in the model."""
        return math.prod(self.shape)

    @property
    def stored_shape(self) -> Shape:
        """Of its values as they lie in the file."""
        return self.shape if self.kept is None else (self.kept,)

    @property
    def scaled(self) -> bool:
        """Whether a scale a row lies beside the values; tensors of whole numbers have fewer dimensions or none."""
        return self.dtype == "int8"


Coding = Literal["bits", "coded"]


class MaskEntry(Config):
    """How a mask lies in ``pathways.safetensors``: one bit sequence a prunable tensor, in the order of tensors.

    Attributes:
        given: the masks that must be known before it can be decoded; none for the union.
        coding: of each tensor: ``bits``: one bit a weight of the union (for the union itself: a weight of the tensor);
            ``coded``: those bits by context and entropy-coded.
        bits, levels, stream: bytes of the packed bits, of the probabilities and of the entropy-coded stream.
    """

    given: tuple[str, ...] = Field(default=(), max_length=ANCHORS)
    coding: tuple[Coding, ...]
    bits: Size
    levels: Size
    stream: Size


class Score(Config):
    """How good a language was when it was measured.

    Attributes:
        wer: word error rate, a fraction.
        words: in the references.
    """

    wer: float = Field(ge=0, allow_inf_nan=False)
    words: int = Field(ge=0)


class Header(Config):
    """What ``config.json`` of a bundle holds.

    Attributes:
        dtype: what was asked for; vectors (norms, biases) stay float32.
        card: of the model.
        pathways: languages, config and clocks of the masks, and the shapes of prunable tensors in order.
        tensors: all of the model's, by name, in order.
        own: those that languages which were added have of their own, by language and name.
        union: how the mask lies there of what at least one pathway keeps.
        masks: how each pathway's mask lies there.
        scores: by language, where they are known.
        parts: every other file, in order; ``config.json`` and its digest stand before them.
    """

    format: Literal["asr-pathways bundle"] = FORMAT
    version: Literal[1] = VERSION
    dtype: Quantity
    card: Annotated[ModelCard | HubCard, Field(discriminator="format")]
    pathways: Description
    tensors: dict[str, TensorEntry]
    own: dict[str, dict[str, TensorEntry]]
    union: MaskEntry
    masks: dict[str, MaskEntry]
    scores: dict[str, Score] = Field(default={})
    parts: tuple[Part, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        return self.pathways.languages

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the tensors that masks cover, in order."""
        return tuple(self.pathways.tensors)

    @property
    def weights(self) -> int:
        """How many weights a mask covers."""
        return sum(self.tensors[name].elements for name in self.prunable)

    @property
    def kept(self) -> int:
        """How many of them at least one pathway keeps."""
        return sum(self.tensors[name].kept or 0 for name in self.prunable)

    def key(self, language: str) -> str:
        """The name of a language's mask.

        Raises:
            BundleError: on an unknown language.
        """
        if language not in self.languages:
            raise BundleError(f"unknown language {language!r}: the bundle has {' '.join(self.languages)}")
        return next(iter(self.masks)) if self.pathways.config.shared else language

    def part(self, name: str) -> Part:
        """The part of a name that is known to be there."""
        return next(part for part in self.parts if part.name == name)

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """All tensors in ``weights.safetensors``, by their names there (own ones: ``own/LANGUAGE/NAME``)."""
        yield from self.tensors.items()
        for language, own in self.own.items():
            for name, entry in own.items():
                yield own_name(language, name), entry


def own_name(language: str, name: str) -> str:
    """The name in ``weights.safetensors`` of a tensor that an added language has of its own."""
    return f"own/{language}/{name}"


def parse_header(content: bytes, where: str) -> Header:
    """The header in the bytes of a ``config.json``.

    Raises:
        BundleError: if it is no header, of a later version, or its parts contradict each other.
    """
    try:
        raw = json.loads(content.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{where}: not the header of a bundle")
    if raw.get("version") != VERSION:
        raise BundleError(f"{where}: bundle version {raw.get('version')!r:.20}, but this release reads {VERSION}")
    try:
        header = parse_config(Header, raw, where)
        problem = next(_contradictions(header), None)
    except PathwaysError as error:
        raise BundleError(f"{str(error)[:500]}") from None
    except RecursionError:
        raise BundleError(f"{where}: nested too deeply") from None
    if problem:
        raise BundleError(f"{where}: {problem[:500]}")
    return header


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _contradictions(header: Header) -> Iterator[str]:
    """What cannot be, each in words; a later check may lean on the ones before it."""
    names = [part.name for part in header.parts]
    for name in (WEIGHTS, PATHWAYS, README):
        if name not in names:
            yield f"parts: no {name}"
    folded = [name.casefold() for name in (CONFIG, DIGEST, *names)]
    if len(set(folded)) < len(folded):
        yield "parts: two have the same name"
    hub = isinstance(header.card, HubCard)
    for name in names:
        known = name in (WEIGHTS, PATHWAYS, README, IDENTIFIER) or (
            name.startswith(HUB) if hub else name.startswith("tokenizer") and name.endswith(".model")
        )
        if not known or not name.endswith(SUFFIXES):
            yield f"parts: {name} is not known"
    pathways = header.pathways
    keys = pathways.config.pathways(pathways.languages)
    if tuple(header.masks) != keys:
        yield f"masks: are of {' '.join(header.masks)}, not of {' '.join(keys)}"
    if any(key not in pathways.own_steps for key in keys):
        yield "pathways: own_steps of a mask are missing"
    if tuple(header.own) != tuple(pathways.added):
        yield "own: not of the languages that were added"
    covered = {name: entry.shape for name, entry in header.tensors.items() if entry.kept is not None}
    if not covered or covered != pathways.tensors:
        yield "tensors: those that masks cover are not those of pathways"
    if list(covered) != list(pathways.tensors):
        yield "tensors: in another order than in pathways"
    yield from _impossible_tensors(header)
    yield from _impossible_masks(header)
    size = sum(part.size for part in header.parts)
    if asked(header) > MAX_ELEMENTS_PER_BYTE * size:
        yield f"asks for {asked(header):,} weights and mask bits in a bundle of {size:,} bytes"


def asked(header: Header) -> int:
    """Weights and mask bits that the bundle unfolds to."""
    return sum(entry.elements for _, entry in header.entries()) + header.kept * len(header.masks)


def _impossible_tensors(header: Header) -> Iterator[str]:
    for name, entry in header.entries():
        if entry.kept is not None and (not 0 <= entry.kept <= entry.elements or name.startswith("own/")):
            yield f"tensors: {name}: keeps {entry.kept} of {entry.elements} weights"
        if entry.scaled and len(entry.shape) < 2:
            yield f"tensors: {name}: int8 without rows"
        if entry.kept is not None and entry.dtype not in ("float32", "float16", "int8"):
            yield f"tensors: {name}: masks cover no {entry.dtype}"
        if len(entry.shape) > 8:
            yield f"tensors: {name}: {len(entry.shape)} dimensions"


def _impossible_masks(header: Header) -> Iterator[str]:
    count = len(header.prunable)
    earlier: tuple[str, ...] = ()
    for key, entry in {"": header.union, **header.masks}.items():
        what = f"masks: {key}" if key else "union"
        if len(entry.coding) != count:
            yield f"{what}: {len(entry.coding)} codings of {count} tensors"
        if entry.given != earlier[: len(entry.given)]:
            yield f"{what}: given masks that are not the first"
        plain = [name for name, coding in zip(header.prunable, entry.coding, strict=False) if coding == "bits"]
        bits = sum((_length(header.tensors[name], within=bool(key)) + 7) // 8 for name in plain)
        coded = entry.coding.count("coded")
        if (entry.bits, entry.levels) != (bits, coded << len(entry.given)):
            yield f"{what}: {entry.bits} bytes of bits and {entry.levels} of probabilities do not fit its tensors"
        if key:
            earlier += (key,)


def _length(entry: TensorEntry, within: bool) -> int:
    """Bits of a tensor's mask, within the union or of the union itself."""
    return (entry.kept or 0) if within else entry.elements
