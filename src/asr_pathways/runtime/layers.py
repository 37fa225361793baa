"""How linear layers are stored, and so multiplied, on this CPU: whichever way is fastest within a tolerance."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path
from asr_pathways.pruning.granularity import Blocks, NOfM, parse_granularity
from asr_pathways.runtime.kernels import extension

Floats = NDArray[np.float32]
Precision = Literal["auto", "float32"]
Runner = tuple[int, str]

TOLERANCE = 0.02
"""Of the root mean square of a product's output, for normal weights and inputs: what a format may be wrong by."""

FEW, MANY = 1, 256
"""Rows of activations of a product of the decoder, and of the encoder."""

SLACK_FEW, SLACK_SOME, SLACK_MANY = 0.5, 0.35, 0.1
"""Of formats that take up to so much longer than the fastest, the smallest is used: timings are of weights in a cache,
but a decoder reads all of its weights from memory for each token, and a streaming encoder for each chunk."""

BLOCK_ROWS = (4, 8)

ROUNDS = 5
"""Timings of a product, of which the fastest counts."""


@dataclass(frozen=True)
class Format:
    """A way of storing a weight.

    Attributes:
        item: what values are rounded to.
        kind: ``sparse``: nonzeros with their columns; ``bitmap``: nonzeros and a bit a weight; ``dense``: all;
            ``gathered``: nonzeros of n:m masks, with their columns in 64; ``torch``: all, multiplied by torch.
    """

    item: Literal["float32", "bfloat16", "int8"]
    kind: Literal["sparse", "bitmap", "dense", "gathered", "torch"]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.item}"

    def store(self, weight: Floats, granularity: str) -> tuple[Any, int]:
        """The compiled weight of (out, in), and its bytes."""
        compiled: Any = weight
        if self.kind == "sparse":
            compiled = extension.built().Sparse(weight, block_rows(granularity))
        elif self.kind == "gathered":
            compiled = extension.built().Gathered(weight)
        elif self.kind != "torch":
            compiled = extension.built().Dense(weight, self.item, self.kind == "bitmap")
        return compiled, compiled.nbytes

    def layer(self, compiled: Any, bias: Floats | None, rows: int) -> Any:
        """The compiled layer of a weight that `store` made, for so many rows, or one of torch with the same method."""
        if self.kind == "torch":
            return _TorchLayer(compiled, bias)
        return extension.built().Linear(compiled, bias, fine=rows == FEW)


def block_rows(granularity: str) -> int:
    """Rows of a block that sparse weights are stored in: of 4x1 and 8x1, which have kernels; 1 of others."""
    parsed = parse_granularity(granularity)
    if isinstance(parsed, Blocks) and parsed.columns == 1 and parsed.rows in BLOCK_ROWS:
        return parsed.rows
    return 1


class _TorchLayer:
    def __init__(self, weight: Floats, bias: Floats | None) -> None:
        self._weight, self._bias = weight, bias

    def multiply(self, x: Floats, runner: Runner) -> Floats:
        """(n, in) -> (n, out), by as many threads as torch is set to use."""
        import torch

        bias = None if self._bias is None else torch.from_numpy(self._bias)
        y: Floats = torch.nn.functional.linear(torch.from_numpy(x), torch.from_numpy(self._weight), bias).numpy()
        return y


class Product(NamedTuple):
    """What decides the format of a weight: its shape, percent of nonzeros in tens, and rows of activations.

    ``exact``: only formats of float32 are used, whatever the precision.
    """

    out: int
    into: int
    percent: int
    rows: int
    exact: bool = False


@dataclass(frozen=True)
class Timing:
    """What a format costs on this machine: seconds a product, its relative error, and bytes of the weight."""

    format: Format
    seconds: float
    error: float
    nbytes: float


Plan = Mapping[Product, Sequence[Timing]]
"""The timings of the formats of each product, the one that is used first."""


def formats(precision: Precision, torch: bool = False, granularity: str = "unstructured") -> list[Format]:
    """The formats that this CPU's kernels have for a precision and masks of a granularity; and torch's own."""
    items: tuple[Any, ...] = ("float32",) if precision == "float32" else ("float32", "bfloat16", "int8")
    made = [Format("float32", "sparse")]
    for item in items:
        made += [Format(item, "bitmap")] if extension.built().expands(item) else []
        made += [Format(item, "dense")]
    if "int8" in items and isinstance(parse_granularity(granularity), NOfM) and extension.built().gathers():
        made.append(Format("int8", "gathered"))
    return [*made, Format("float32", "torch")] if torch else made


class Layers:
    """Makes the linear layers of a model's networks, each in the format that is fastest here for its shape and density.

    A shape is timed once on a machine: timings are kept in the user's cache folder, by the CPU's name.

    Args:
        precision: ``float32``: products are exact but for the order of sums; ``auto``: also bfloat16 and int8, the
            latter with a scale for each row of weights and of activations, within `TOLERANCE`. Of single rows the
            activations have 16 bits: that costs nothing where weights come from memory.
        granularity: of the masks.
        threads: of each product.
        torch: whether torch's own products are among the formats; it is to use as many threads then.

    Attributes:
        plan: the timings of each (out, in, percent of nonzeros, rows of activations), the chosen format first.
    """

    def __init__(
        self, precision: Precision = "auto", granularity: str = "unstructured", threads: int = 1, torch: bool = False
    ) -> None:
        if precision not in ("auto", "float32"):
            raise PathwaysError(f"precision: {precision!r}: choose auto or float32")
        self.precision, self.granularity, self.threads = precision, granularity, threads
        self.plan: dict[Product, list[Timing]] = {}
        self._known = _Known(formats(precision, torch, granularity), granularity, threads)
        self._outputs = WeakValueDictionary[tuple[int, bytes | None], Any]()

    @property
    def attention(self) -> str:
        """What keys and values of attention are rounded to."""
        return "bfloat16" if self.precision == "auto" and extension.built().expands("bfloat16") else "float32"

    def linear(self, weight: Floats, bias: Floats | None, rows: int, exact: bool = False) -> tuple[Any, int]:
        """A layer of a weight (out, in), zeros in place, for products of about so many rows; and its bytes.

        ``exact``: as ``float32`` has it, whatever the precision.

        Raises:
            ValueError: if the weight is no matrix, or the bias does not fit it.
        """
        weight = np.ascontiguousarray(weight, dtype=np.float32)
        if weight.ndim != 2 or not weight.size:
            raise ValueError(f"a weight of shape {weight.shape}")
        percent = int(10 * round(10 * np.count_nonzero(weight != 0) / weight.size))  # far faster than of floats
        product = Product(weight.shape[0], weight.shape[1], percent, rows, exact or self.precision == "float32")
        if product not in self.plan:
            self.plan[product] = self._known.timings(product)
        chosen = self.plan[product][0].format
        compiled, nbytes = chosen.store(weight, self.granularity)
        return chosen.layer(compiled, bias, rows), nbytes

    def output(self, embedding: NDArray[Any], tokens: NDArray[np.int32] | None, runner: Runner) -> Any:
        """The output layer of an embedding (V, D), one for all networks that are there with it and these tokens.

        Args:
            tokens: (k,): those that it scores; None: all.
        """
        key = id(embedding), None if tokens is None else tokens.tobytes()  # the layer keeps it, so no other has its id
        output = self._outputs.get(key)
        if output is None:
            output = self._outputs[key] = extension.built().Output(embedding, tokens, runner)
        return output


class _Known:
    """Timings that are known of this machine, and new ones."""

    def __init__(self, formats: Sequence[Format], granularity: str, threads: int) -> None:
        self._formats, self._granularity, self._threads = formats, granularity, threads
        folder = _cache_folder()
        self._path = folder and folder / f"timings-{_cpu()}.json"
        self._entries: dict[str, dict[str, list[float]]] = _read(self._path) if self._path else {}

    def timings(self, key: Product) -> list[Timing]:
        """Of a product, the fastest format within the tolerance first."""
        shape = key[:4]
        name = " ".join(map(str, (*shape, self._granularity, self._threads, extension.variants()[0])))
        entry = self._entries.get(name, {})
        if not {one.name for one in self._formats} <= entry.keys():
            entry = entry | self._measure(*shape)
            self._entries[name] = entry
            if self._path:
                _write(self._path, self._entries)
        timings = [Timing(one, *entry[one.name]) for one in self._formats if one.item == "float32" or not key.exact]
        usable = [timing for timing in timings if timing.error <= TOLERANCE or timing.format.item == "float32"]
        slack = SLACK_FEW if key.rows == FEW else SLACK_SOME if key.rows < MANY else SLACK_MANY
        within = (1 + slack) * min(timing.seconds for timing in usable)
        chosen = min((timing for timing in usable if timing.seconds <= within), key=lambda timing: timing.nbytes)
        return sorted(timings, key=lambda timing: (timing is not chosen, timing.seconds))

    def _measure(self, out: int, into: int, percent: int, rows: int) -> dict[str, list[float]]:
        random = np.random.default_rng(0)
        weight = random.standard_normal((out, into), dtype=np.float32)
        weight *= _mask(random, out, into, percent / 100, self._granularity)
        x = random.standard_normal((rows, into), dtype=np.float32)
        exact = x @ weight.T
        size = float(np.sqrt(np.mean(np.square(exact)))) or 1.0
        runner = extension.check_runner(self._threads, None)
        layers, errors, sizes = {}, {}, {}
        for one in self._formats:
            compiled, sizes[one.name] = one.store(weight, self._granularity)
            layers[one.name] = one.layer(compiled, None, rows)
            y = layers[one.name].multiply(x, runner)
            errors[one.name] = float(np.sqrt(np.mean(np.square(y - exact)))) / size
        seconds = dict.fromkeys(layers, float("inf"))
        for _ in range(ROUNDS):  # in turn, so that a disturbance meets all of them
            for name, layer in layers.items():
                start = time.perf_counter()
                layer.multiply(x, runner)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
        return {name: [seconds[name], errors[name], sizes[name]] for name in layers}


def _mask(random: np.random.Generator, out: int, into: int, share: float, granularity: str) -> NDArray[np.bool_]:
    """Flags (out, into), about a share of which are set, in units of the granularity."""
    grain = parse_granularity(granularity)
    if isinstance(grain, NOfM) and share < 1:
        ranks = random.random((out, -(-into // grain.m), grain.m)).argsort(-1)
        return (ranks < grain.n).reshape(out, -1)[:, :into]
    rows, columns = (grain.rows, grain.columns) if isinstance(grain, Blocks) else (1, 1)
    units = random.random((-(-out // rows), -(-into // columns))) < share
    return units.repeat(rows, 0).repeat(columns, 1)[:out, :into]


@cache
def processor() -> tuple[str, frozenset[str]]:
    """This CPU's name, and the instruction sets that it has by Linux's names; none on other systems."""
    name, sets = platform.processor() or platform.machine(), frozenset[str]()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        about = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
        name = about.get("model name", name).strip()
        sets = frozenset(about.get("flags", about.get("Features", "")).split())
    return name, sets


def _cpu() -> str:
    """Its name as part of a file's."""
    return "-".join("".join(c if c.isalnum() else " " for c in processor()[0]).split()) or "cpu"


def _cache_folder() -> Path | None:
    """None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr-pathways"
    except RuntimeError:
        return None


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    """What was written there; nothing if it is not there or not what we write: it is measured again then."""
    try:
        entries = json.loads(path.read_text())
        return {
            str(key): {
                str(name): [_positive(one) for one in (seconds, error, size)]
                for name, (seconds, error, size) in entry.items()
            }
            for key, entry in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}


def _positive(number: Any) -> float:
    if not 0 <= number < math.inf:
        raise ValueError(f"{number}: neither a time, an error nor a size")
    return float(number)


def _write(path: Path, entries: dict[str, dict[str, list[float]]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(entries, indent=1))
    except (OSError, PathwaysError):  # a home that cannot be written to: measured again next time
        return
