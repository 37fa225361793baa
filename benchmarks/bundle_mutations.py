"""Bundles changed at random: each must be refused by BundleError or load; none may crash, hang or take much memory.

python -m benchmarks.bundle_mutations five.asrp --count 10000

Two kinds: bytes changed in the file (each must be refused, whatever the byte), and changes by someone who works
out all sizes and hashes anew, where it is the contents that must not make sense any more, or else load. Each is opened
as a model and, if it is of a transducer, as a stream too, which must refuse the same bundles.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_pathways.bundle import layout
from asr_pathways.bundle.bundle import Bundle, BundleError
from asr_pathways.model_folder.model import ModelCard
from asr_pathways.runtime.streaming import StreamingTransducer

Random = random.Random
SECONDS = 10
"""Of the processor, after which a load counts as hanging."""


class Hangs(BaseException):
    """No exception, which a loader might take for its own."""


@dataclass
class Part:
    """A tensor of the file: type and shape as safetensors names them, and its bytes."""

    dtype: str
    shape: list[Any]
    data: bytes

    @classmethod
    def of_bytes(cls, data: bytes) -> Part:
        """A file."""
        return cls("U8", [len(data)], data)


Parts = dict[str, Part]
Header = dict[str, Any]


class Sample:
    """A bundle to be changed.

    Args:
        path: an ``.asrp`` file.
    """

    def __init__(self, path: Path) -> None:
        bundle = Bundle.open(path)
        self.content = path.read_bytes()
        self.header = json.loads(bundle.config.text())
        start = bundle.layout.start
        self.parts = {
            name: Part(slot.dtype, list(slot.shape), self.content[start + first : start + last])
            for name, slot in bundle.layout.slots.items()
            for first, last in [slot.data_offsets]
        }
        self.weights = {language: bundle.weights(language) for language in bundle.languages}

    def copies(self) -> tuple[Header, Parts]:
        """Header and parts, to be changed."""
        return copy.deepcopy(self.header), copy.deepcopy(self.parts)


# --- bytes of the file -------------------------------------------------------------------------------------------


def flip(content: bytearray, draw: Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def overwrite(content: bytearray, draw: Random) -> None:
    start = draw.randrange(len(content))
    size = draw.choice((1, 2, 4, 8, 64, 1000))
    content[start : start + size] = draw.choice((draw.randbytes, bytes, lambda n: b"\xff" * n))(
        len(content[start : start + size])
    )


def truncate(content: bytearray, draw: Random) -> None:
    del content[draw.randrange(len(content)) :]


def cut(content: bytearray, draw: Random) -> None:
    start = draw.randrange(len(content))
    del content[start : start + draw.randrange(1, 200)]


def insert(content: bytearray, draw: Random) -> None:
    start = draw.randrange(len(content) + 1)
    content[start:start] = draw.randbytes(draw.randrange(1, 200))


def swap(content: bytearray, draw: Random) -> None:
    size = draw.choice((1, 16, 64, 1024))
    a, b = sorted(draw.randrange(len(content) - size) for _ in range(2))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (flip, flip, overwrite, truncate, cut, insert, swap)


# --- contents, with sizes and hashes made to fit ----------------------------------------------------------------


def inflate(value: int, draw: Random) -> int:
    return draw.choice(
        (value + 1, value - 1, value * 2, value * 1000, 10**9, 10**12, 2**31, 2**32, 2**40, 2**63, -1, 0, -value)
    )


def change_json(node: Any, draw: Random) -> Any:
    """One random place of a JSON value changed."""
    if isinstance(node, dict) and node:
        key = draw.choice(list(node))
        what = draw.random()
        if what < 0.1:
            del node[key]
        elif what < 0.15:
            node[draw.choice(("x", "../x", key + "x", ""))] = node.pop(key)
        else:
            node[key] = change_json(node[key], draw)
        return node
    if isinstance(node, list) and node:
        index = draw.randrange(len(node))
        what = draw.random()
        if what < 0.1:
            del node[index]
        elif what < 0.2:
            node.insert(index, node[index])
        elif what < 0.3:
            other = draw.randrange(len(node))
            node[index], node[other] = node[other], node[index]
        else:
            node[index] = change_json(node[index], draw)
        return node
    if isinstance(node, bool) or node is None:
        return draw.choice((True, False, None, 0, "x"))
    if isinstance(node, int):
        return inflate(node, draw)
    if isinstance(node, float):
        return draw.choice((0.0, 1.0, -1.0, 1e308, node / 3))
    if isinstance(node, str):
        return draw.choice((node + "x", "", "../" + node, "/etc/passwd", "float32", "int8", "*a*a*a*b", "U8", "F16"))
    return draw.choice((None, {}, [], 7))


def change_header(header: Header, parts: Parts, draw: Random) -> None:
    top = draw.choice([*(key for key in header if key not in ("sha256", "digest")), "pathways", "card"])
    header[top] = change_json(header[top], draw)


def inflate_shapes(header: Header, parts: Parts, draw: Random) -> None:
    """A prunable tensor said to be of another shape, or to have other values."""
    name = draw.choice(list(header["pathways"]["tensors"]))
    shape = header["pathways"]["tensors"][name]
    if draw.random() < 0.7:
        shape[draw.randrange(len(shape))] = draw.choice((10**6, 10**9, 10**12, 0, 2**40, 3))
    else:
        parts["values/" + name].shape = [draw.choice((10**9, 0, 2**40, 1 + len(parts["values/" + name].data)))]


def change_slot(header: Header, parts: Parts, draw: Random) -> None:
    """Type or shape of a tensor of the file."""
    part = parts[draw.choice(list(parts))]
    if draw.random() < 0.3:
        part.dtype = draw.choice((*layout.DTYPES, "BF16", "F64", "", "U64"))
    else:
        part.shape = change_json(part.shape, draw)


def grow_with_file(header: Header, parts: Parts, draw: Random) -> None:
    """A config of the model that asks for much."""
    model = header["card"]["model"]
    place = draw.choice((model, model["encoder"]))
    key = draw.choice([key for key, value in place.items() if type(value) is int])
    place[key] = inflate(place[key], draw)


def change_part(header: Header, parts: Parts, draw: Random) -> None:
    part = parts[draw.choice((*parts, "union", "union"))]
    content = bytearray(part.data)
    draw.choice(BYTES)(content, draw)
    if len(content) != len(part.data) and len(part.shape) == 1:
        part.shape = [len(content) // (len(part.data) // part.shape[0])]
    part.data = bytes(content)


def change_json_part(header: Header, parts: Parts, draw: Random) -> None:
    """One value in a Hugging Face model's own files."""
    name = draw.choice([name for name in parts if name.endswith(".json")])
    parts[name] = Part.of_bytes(json.dumps(change_json(json.loads(parts[name].data), draw)).encode())


def swap_parts(header: Header, parts: Parts, draw: Random) -> None:
    a, b = draw.sample(list(parts), 2)
    parts[a], parts[b] = parts[b], parts[a]


def drop_or_add_part(header: Header, parts: Parts, draw: Random) -> None:
    if draw.random() < 0.5:
        del parts[draw.choice(list(parts))]
    else:
        names = ("files/hub/config.json", "files/hub/a.py", "x.bin", "files/tokenizer-xx.model", "files/../b.json")
        more = ("values/x", "scales/" + next(iter(header["pathways"]["tensors"])), "languages/it/values/x", "masks/de")
        parts[draw.choice((*names, *more, ".hidden", ""))] = Part.of_bytes(draw.randbytes(10))


CONTENTS: tuple[Callable[[Header, Parts, Random], None], ...] = (
    change_header,
    change_header,
    inflate_shapes,
    change_slot,
    grow_with_file,
    change_part,
    swap_parts,
    drop_or_add_part,
)


def change_bytes(sample: Sample, draw: Random) -> bytes:
    """A copy with changed bytes."""
    content = bytearray(sample.content)
    draw.choice(BYTES)(content, draw)
    return bytes(content)


def change_contents(sample: Sample, draw: Random) -> bytes:
    """A copy with other contents, and all that depends on them made to fit."""
    header, parts = sample.copies()
    hub = any(name.endswith(".json") for name in parts)
    changes = (*CONTENTS, *([change_json_part] * 3 if hub else ()))
    for _ in range(draw.choice((1, 1, 2))):
        with suppress(LookupError, TypeError, ValueError, AttributeError, ArithmeticError):  # what to change is gone
            draw.choice(changes)(header, parts, draw)
    return sealed(header, parts, draw if draw.random() < 0.1 else None)


def sealed(header: Header, parts: Parts, draw: Random | None = None) -> bytes:
    """The file of any header and parts, hashes and places made to fit; with ``draw``, one of those is changed too."""
    header = {**header, "digest": "0" * 64, "sha256": {n: hashlib.sha256(p.data).hexdigest() for n, p in parts.items()}}
    slots: dict[str, Any] = {}
    end = 0
    sizes = {name: layout.ITEM_SIZES.get(layout.DTYPES.get(part.dtype, ""), 1) for name, part in parts.items()}
    order = sorted(parts, key=lambda name: (-sizes[name], name))
    for name in order:
        offsets = [end, end := end + len(parts[name].data)]
        slots[name] = {"dtype": parts[name].dtype, "shape": parts[name].shape, "data_offsets": offsets}
    if draw is not None:
        target = draw.choice((header["sha256"], slots))
        changed = change_json(target, draw)
        header, slots = ({**header, "sha256": changed}, slots) if target is not slots else (header, changed)
    return headed(json.dumps(header, separators=(",", ":")), slots) + b"".join(parts[name].data for name in order)


def headed(header: str, slots: dict[str, Any]) -> bytes:
    """The bytes before the data, with any header."""
    text = json.dumps({"__metadata__": {layout.METADATA: header}, **slots}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return layout.seal(len(text).to_bytes(8, "little") + text)


# --- what becomes of them ---------------------------------------------------------------------------------------


def load(path: Path) -> Bundle:
    """Reads all that a bundle can give."""
    bundle = Bundle.open(path)
    bundle.verify()
    bundle.sizes()
    for language in bundle.languages:
        bundle.weights(language)
    bundle.model()
    return bundle


def stream(path: Path) -> None:
    """Recognises a moment of silence in each language as it comes."""
    recognizer = StreamingTransducer(path)
    for language in recognizer.languages:
        one = recognizer.stream(language)
        one.accept(np.zeros(4_000, dtype=np.float32))
        one.final()


def refusal(action: Callable[[], object]) -> str | None:
    """Why a bundle is refused, or None.

    Raises:
        AssertionError: if that is no clear line.
    """
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        action()
    except BundleError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def attempt(path: Path, content: bytes, sample: Sample, exact: bool) -> str:
    """``refused``, ``same`` or ``loads``.

    Args:
        exact: whether a bundle that loads must be the one it was.

    Raises:
        AssertionError: if it loads and is another, if it streams though it does not load or the other way round, or if
            an error is no clear line.
    """
    path.write_bytes(content)
    refused = refusal(lambda: load(path))
    if sample.header["card"]["format"] == ModelCard.model_fields["format"].default:
        streams = refusal(lambda: stream(path)) is None
        if not exact and refused is not None and streams:  # streaming reads no language identifier
            assert refusal(lambda: Bundle.open(path).model()) is None, f"streams, but does not load: {refused}"
        assert streams or refused is not None, "loads, but does not stream"
    if refused is not None:
        return "refused"
    bundle = Bundle.open(path)
    same = bundle.languages == tuple(sample.weights) and all(
        all(torch.equal(value, state.get(name, value.new_empty(0))) for name, value in sample.weights[language].items())
        for language, state in ((language, bundle.weights(language)) for language in bundle.languages)
    )
    assert same or not exact, "a changed bundle loads as another one"
    return "same" if same else "loads"


def measure(bundle: Path, count: int, seed: int = 0) -> dict[str, object]:
    """Outcomes of ``count`` changed bundles, half of them of each kind."""
    sample, draw = Sample(bundle), random.Random(seed)
    outcomes: Counter[str] = Counter()
    started, slowest = time.process_time(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.asrp"
        for index in range(count):
            exact = index % 2 == 0
            state = draw.getstate()
            content = (change_bytes if exact else change_contents)(sample, draw)
            before = time.process_time()
            try:
                outcome = attempt(path, content, sample, exact)
            except BaseException:
                kept = Path(tempfile.gettempdir()) / "asr-pathways-failing.asrp"
                shutil.copy(path, kept)
                print(f"{index} fails (state {hash(state)}): see {kept}", flush=True)
                raise
            slowest = max(slowest, time.process_time() - before)
            outcomes[f"{'bytes' if exact else 'contents'} {outcome}"] += 1
    return {
        "mutations": count,
        **dict(sorted(outcomes.items())),
        "bundle_bytes": len(sample.content),
        "seconds": round(time.process_time() - started, 1),
        "slowest_seconds": round(slowest, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _hangs(*_: object) -> None:
    raise Hangs(f"no answer in {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, _hangs)
    print(json.dumps(measure(options.bundle, options.count, options.seed), indent=1))


if __name__ == "__main__":
    main()
