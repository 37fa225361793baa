"""Bundles changed at random: each must be refused by BundleError or load; none may crash, hang or take much memory.

python -m benchmarks.bundle_mutations five.asrp --count 10000

Two kinds: bytes changed as they lie there (each must be refused, whatever the byte), and changes by someone who works
out all sizes and hashes anew, where it is the contents that must not make sense any more, or else load.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import torch

from asr_pathways.bundle import archive, layout
from asr_pathways.bundle.bundle import Bundle, BundleError

Random = random.Random
SECONDS = 20
"""After which a load counts as hanging."""


class Sample:
    """A bundle to be changed.

    Args:
        path: an ``.asrp`` file.
    """

    def __init__(self, path: Path) -> None:
        bundle = Bundle.open(path)
        self.content = path.read_bytes()
        self.header = json.loads(_config(path))
        self.parts = {part.name: bundle.file(part.name) for part in bundle.config.parts}
        self.weights = {language: bundle.weights(language) for language in bundle.languages}


def _config(path: Path) -> bytes:
    return archive.open_archive(path).config()


# --- bytes as they lie there ------------------------------------------------------------------------------------


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
        return draw.choice(
            (node + "x", "", "../" + node, "/etc/passwd", "float32", "int8", "*a*a*a*b", "bits", "coded")
        )
    return draw.choice((None, {}, [], 7))


def change_header(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    top = draw.choice([*(key for key in header if key != "parts"), "tensors", "card", "masks", "union"])
    header[top] = change_json(header[top], draw)


def inflate_shapes(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    """A tensor said to be larger, everywhere in the header."""
    name = draw.choice(list(header["tensors"]))
    entry = header["tensors"][name]
    if entry["shape"]:
        entry["shape"][draw.randrange(len(entry["shape"]))] = draw.choice((10**6, 10**9, 10**12, 0, 2**40, 3))
    if entry["kept"] is not None:
        entry["kept"] = draw.choice((entry["kept"], 10**9, 0, 2**40, entry["kept"] + 1))
        header["pathways"]["tensors"][name] = entry["shape"]


def grow_with_file(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    """A config of the model that asks for much."""
    model = header["card"]["model"]
    place = draw.choice((model, model["encoder"]))
    key = draw.choice([key for key, value in place.items() if type(value) is int])
    place[key] = inflate(place[key], draw)


def change_part(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    name = draw.choice((*parts, layout.PATHWAYS, layout.PATHWAYS))
    content = bytearray(parts[name])
    draw.choice(BYTES)(content, draw)
    parts[name] = bytes(content)


def change_json_part(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    """One value in a Hugging Face model's own files."""
    name = draw.choice([name for name in parts if name.endswith(".json")] or [""])
    parts[name] = json.dumps(change_json(json.loads(parts[name]), draw)).encode()


def swap_parts(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    a, b = draw.sample(list(parts), 2)
    parts[a], parts[b] = parts[b], parts[a]


def drop_or_add_part(header: dict[str, Any], parts: dict[str, bytes], draw: Random) -> None:
    if draw.random() < 0.5:
        del parts[draw.choice(list(parts))]
    else:
        name = draw.choice(
            ("hub/config.json", "hub/a.py", "x.bin", "tokenizer-xx.model", "a/b", ".hidden", "README.MD")
        )
        parts[name] = draw.randbytes(10)


CONTENTS: tuple[Callable[[dict[str, Any], dict[str, bytes], Random], None], ...] = (
    change_header,
    change_header,
    inflate_shapes,
    grow_with_file,
    change_part,
    swap_parts,
    drop_or_add_part,
)


def change_bytes(sample: Sample, draw: Random) -> bytes:
    """A copy with bytes changed as they lie there."""
    content = bytearray(sample.content)
    draw.choice(BYTES)(content, draw)
    return bytes(content)


def change_contents(sample: Sample, draw: Random) -> bytes:
    """A copy with other contents, and all that depends on them made to fit."""
    header, parts = json.loads(json.dumps(sample.header)), dict(sample.parts)
    own = any(name.endswith(".json") for name in parts)
    changes = (*CONTENTS, *([change_json_part] * 3 if own else ()))
    for _ in range(draw.choice((1, 1, 2))):
        with suppress(KeyError, TypeError, IndexError, ValueError, AttributeError):  # what is to change is gone already
            draw.choice(changes)(header, parts, draw)
    described = [_described(name, content) for name, content in parts.items()]
    header["parts"] = [part.model_dump() for part in described]
    if draw.random() < 0.1:
        header["parts"] = change_json(header["parts"], draw)
    config = json.dumps(header, separators=(",", ":")).encode()
    return zipped(config, described, parts)


def _described(name: str, content: bytes) -> layout.Part:
    part = archive.describe("x", [content])
    return layout.Part.model_construct(**{**part.model_dump(), "name": name})


def zipped(config: bytes, described: list[layout.Part], parts: dict[str, bytes]) -> bytes:
    """The zip file of any header."""
    every = [*archive._first(config), *described]
    places, fixed = archive._skeleton(every)
    pieces = {layout.CONFIG: config, layout.DIGEST: archive.digest_of(config), **parts}
    data = [*fixed, *((places[part.name], pieces[part.name]) for part in every)]
    found = bytearray(max(place + len(piece) for place, piece in data))
    for place, piece in data:
        found[place : place + len(piece)] = piece
    return bytes(found)


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


def attempt(path: Path, content: bytes, sample: Sample, exact: bool) -> str:
    """``refused``, ``same`` or ``loads``.

    Args:
        exact: whether a bundle that loads must be the one it was.

    Raises:
        AssertionError: if it loads and is another, or if an error is no clear line.
    """
    path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        bundle = load(path)
    except BundleError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        return "refused"
    finally:
        signal.alarm(0)
    same = bundle.languages == tuple(sample.weights) and all(
        all(torch.equal(value, found.get(name, value.new_empty(0))) for name, value in sample.weights[language].items())
        for language, found in ((language, bundle.weights(language)) for language in bundle.languages)
    )
    assert same or not exact, "a changed bundle loads as another one"
    return "same" if same else "loads"


def measure(bundle: Path, count: int, seed: int = 0) -> dict[str, object]:
    """What became of so many changed bundles; half of them by each kind."""
    sample, draw = Sample(bundle), random.Random(seed)
    found: Counter[str] = Counter()
    started, slowest = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.asrp"
        for index in range(count):
            exact = index % 2 == 0
            state = draw.getstate()
            content = (change_bytes if exact else change_contents)(sample, draw)
            before = time.perf_counter()
            try:
                outcome = attempt(path, content, sample, exact)
            except BaseException:
                kept = Path(tempfile.gettempdir()) / "asr-pathways-failing.asrp"
                shutil.copy(path, kept)
                print(f"{index} fails (state {hash(state)}): see {kept}", flush=True)
                raise
            slowest = max(slowest, time.perf_counter() - before)
            found[f"{'bytes' if exact else 'contents'} {outcome}"] += 1
    return {
        "mutations": count,
        **dict(sorted(found.items())),
        "bundle_bytes": len(sample.content),
        "seconds": round(time.perf_counter() - started, 1),
        "slowest_seconds": round(slowest, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _hangs(*_: object) -> None:
    raise TimeoutError(f"no answer in {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _hangs)
    print(json.dumps(measure(options.bundle, options.count, options.seed), indent=1))


if __name__ == "__main__":
    main()
